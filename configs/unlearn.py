r"""Unlearning: a trained model forgets some texts and keeps others.

  python -m mdx.main --config=configs/unlearn.py --workdir=runs/unlearn
A small autoregressive model learns the habits of 32 people (kept under `workdir/base`), then
forgets those of 8 by NPO (arXiv:2404.05868), beside the likelihood of the others. Other methods:
`:ascent`, gradient ascent alone; `:difference`, with the likelihood of texts to keep
(arXiv:2203.12817);
`:generic`, the generic labels of Who's Harry Potter (arXiv:2310.02238), whose reinforced model is
trained first. Each also of a masked diffusion model: `:generic,diffusion`.
On yours, lines {"question": ..., "answer": ...} as in TOFU, or {"text": ...}, from a model of
yours, whose objective is given as it was trained:
  python -m mdx.main --config=configs/unlearn.py --workdir=runs/mine \
    --config.init.checkpoint=runs/chat --config.data.source.name=unlearning \
    --config.data.source.path=forget10.jsonl --config.data.source.retain_path=retain90.jsonl \
    --config.data.length=256
"""

import copy

from mdx import config as config_lib
from mdx.configs import common
from mdx.data.toys import habits

METHODS = ("npo", "ascent", "difference", "generic")


def get_config(arg=None):
  """One of METHODS, npo without a name; and diffusion."""
  method, values = config_lib.parse_variant(arg, METHODS, diffusion=False)
  method = method or METHODS[0]
  config = common.get_config()
  config.update(steps=100, batch_size=32, log_steps=20, eval_steps=20, checkpoint_steps=100,
                ema_decay=0.0)
  config.network.update(num_layers=2, width=64, num_heads=2, mlp_width=128, max_length=16)
  config.tokenizer.path = habits.TOKENIZER
  config.data = dict(
      length=4,
      source=dict(name="habits", part="",  # or all, forget, retain: rows of these to train on
                  # of source unlearning: files, and a JSON file of generic replacements
                  path="", retain_path="", anchors="", holdout_every=-1),
      packing="pad", fill="pad", fill_multiple=16, too_long="error", on_error="stop",
      append_eos=False, isolate_documents=True)
  config.optimizer.update(learning_rate=3e-4, schedule="constant", warmup_steps=10,
                          weight_decay=0.0)
  config.init.params = "raw"
  config.eval.update(baselines=False, num_batches=16, num_samples=1, final_samples=1,
                     evaluators=("questions",),
                     questions=dict(num_questions=256,  # of each kind; 0 = all
                                    gen_length=0))  # tokens of an answer; 0 = of the longest
  config.sampler.num_samples = 0
  base = copy.deepcopy(config)
  base.objective = dict(name="diffusion", mask_draw="exact_count") if values["diffusion"] else (
      dict(name="ar"))
  base.update(steps=600, eval_steps=0, checkpoint_steps=600)
  base.data.source.part = "all"
  base.optimizer.update(learning_rate=3e-3, schedule="cosine", warmup_steps=50)
  base.eval.evaluators = ()
  config.objective = dict(model=base.objective.to_dict())  # as `init.checkpoint` was trained
  if method == "generic":
    reinforced = copy.deepcopy(base)
    reinforced.update(steps=60)
    reinforced.data.source.part = "forget"
    reinforced.optimizer.update(learning_rate=3e-4, schedule="constant", warmup_steps=0)
    config.objective.update(
        name="generic_labels",
        alpha=5.0,  # how far tokens that the reinforced model raises are pushed down
        repeat_penalty=5.0,  # off the logits of replacements whose anchor is seen
        retain_scale=0.0)  # factor of the likelihood of the texts to keep
    # `base`: a config that is trained first, from the weights the run starts from.
    config.frozen = dict(reference=dict(checkpoint="init"),
                         reinforced=dict(base=reinforced, params="raw"))
  else:
    config.objective.update(
        name="unlearn", loss="npo" if method == "npo" else "ascent",
        retain_scale=0.0 if method == "ascent" else 1.0,  # factor of the texts to keep
        num_draws=4)  # of a bound; an exact likelihood has one
    if method == "npo":
      config.objective.beta = 0.1  # inverse strength of the tie to the reference
      config.frozen = dict(reference=dict(checkpoint="init"))  # the weights the run starts from
  config.init.base = base  # config of the training of the model, without a checkpoint
  return config
