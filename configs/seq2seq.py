r"""Translation by refinement, encoder and decoder both from masked language models.

RUM-SUNDAE of the thesis "Making the Most of your Model" (Yoshida 2024), with the objective of
SUNDAE (arXiv:2112.06749), on a toy language and its translation: a lexicon, adjectives behind their
nouns, particles. A masked language model of texts of both languages is trained first; encoder and
decoder begin from it, and cross-attention begins at zero:
  python -m mdx.main --config=configs/seq2seq.py --workdir=runs/seq2seq
`:encoder`: the encoder alone begins from it; `:random`: neither. On files of yours, lines of
{"source": text, "target": text} and any masked language model of the same tokenizer:
  python -m mdx.main --config=configs/seq2seq.py:files --workdir=runs/seq2seq \
    --config.data.source.path=pairs.jsonl --config.init.checkpoint=runs/mlm
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import mlm
from mdx.data.toys import bilingual

_STARTS = {"": dict(encoder="init", model="init"), "encoder": dict(encoder="init", model="seed"),
           "random": dict(encoder="seed", model="seed")}


def get_config(arg=None):
  """Both from a masked language model, or "encoder" or "random"; "files" reads pairs of yours."""
  variant, values = config_lib.parse_variant(arg, ("encoder", "random"), files=False)
  config = common.get_config()
  config.update(steps=1500, batch_size=64, eval_steps=250, checkpoint_steps=500)
  config.objective = dict(
      name="seq2seq",
      encoder=dict(),  # fields of the network that the encoder has otherwise than the decoder
      num_unrolls=2,  # steps of denoising that are trained, each on what the one before drew
      length_scale=0.1)  # factor of the loss of the target's length
  # Learned positions: cross-attention finds the words of a source by their contents and positions.
  config.network.update(num_layers=2, width=64, num_heads=4, mlp_width=128, position="learned",
                        max_length=64, init_std=0.1)
  config.network.context_width = config.network.get_oneway_ref("width")  # of the encoder's states
  config.tokenizer.path = bilingual.TOKENIZER
  config.data = dict(
      length=12,  # most tokens of a source, and of a target
      source=dict(
          name="bilingual",
          kind="pairs",  # or texts, of either language
          num_train=4000, num_validation=500),  # records
      packing="pad", append_eos=False, isolate_documents=True, too_long="error", on_error="stop",
      num_shards=1)
  config.eval.update(final_samples=2, baselines=False)
  config.eval.refined = dict(
      steps=8,  # of refinement
      temperature=0.0,  # of the draw of tokens
      refined_share=1.0,  # share of the tokens that a step draws anew, the least probable ones
      num_lengths=1)  # lengths that a target is written in, of which the best is taken
  config.sampler.num_samples = 0
  config.init.parts = dict(_STARTS[variant])  # init (the checkpoint or base), seed, or a path
  if values["files"]:
    config.tokenizer.path = "asset:holmes_bpe512.json"
    config.data.update(length=64, too_long="skip")
    config.data.source = dict(name="parallel", path="", validation_path="", holdout_every=-1,
                              target_path="", validation_target_path="")
  elif variant != "random":
    config.init.base = base(config)
  return config


def base(config):
  """A masked language model of texts of both languages, of the network of a config."""
  run = mlm.get_config()
  run.update(steps=1500, batch_size=64, eval_steps=0, checkpoint_steps=1500)
  run.objective.update(mask_rate=0.3)
  run.network.update(config.network.copy_and_resolve_references())
  run.network.context_width = 0
  run.tokenizer.path = config.tokenizer.path
  run.data.update(length=config.data.length, packing="pad")
  run.data.source = dict(name="bilingual", kind="texts", num_train=8000, num_validation=500)
  run.eval.update(final_samples=2, baselines=False)
  run.sampler.num_samples = 0
  return run
