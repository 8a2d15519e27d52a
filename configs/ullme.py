r"""One decoder that embeds and writes, taught to agree with itself: GRL (ULLME, arXiv:2408.03402).

A query is nearest to the passage that answers it (InfoNCE with a hard negative), which is also the
likelier text behind it (next tokens, preference), and the two scores of a passage agree.
Without a checkpoint it trains the causal model of configs/ar.py on the toy grammar under
`workdir/base`, then learns from 512 queries of three words (2 minutes on 2 cores):
  python -m mdx.main --config=configs/ullme.py --workdir=runs/ullme
`:contrast` leaves the three terms of generation out. Yours: lines {"texts": [query, right passage,
wrong passage]}, one in 20 of them held out:
  python -m mdx.main --config=configs/ullme.py:file --workdir=runs/mine \
    --config.init.checkpoint=Llama-3.2-1B --config.data.source.path=triplets.jsonl \
    --config.lora.rank=16 --config.optimizer.learning_rate=1e-4
Attention is opened beforehand, with a loss of masked tokens, by configs/adapt.py.
"""

from mdx import config as config_lib
from mdx.configs import ar
from mdx.configs import common


def _base():
  """The causal model that a run without a checkpoint starts from."""
  config = ar.get_config()
  config.update(steps=1000, batch_size=32)
  config.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
  config.optimizer.learning_rate = 4e-3
  config.tokenizer.path = "grammar"
  config.data.update(length=24, packing="crop")
  config.data.source = dict(name="grammar", num_sentences=3, num_documents=8000,
                            num_validation=400)
  config.sampler.num_samples = 0
  return config


def get_config(arg=None):
  """All terms, or with "contrast" the first alone; on the grammar, or with "file" on yours."""
  values = config_lib.parse_arg(arg, contrast=False, file=False)
  config = common.get_config()
  config.update(steps=100, batch_size=32, ema_decay=0.0, log_steps=10, eval_steps=25,
                checkpoint_steps=50)
  config.objective = dict(
      name="grl",
      pooling="mean", attention=dict(name="full"),  # how a text is embedded
      temperature=0.05, distance="l2",  # of the contrast; l2, or cosine
      preference="dpo",  # for the right passage: dpo, hinge or ipo
      beta=0.1,  # of the preference
      label_smoothing=0.0,  # of dpo
      direction="generation",  # KL(generation || representation); representation: the other
      contrast_scale=1.0, generation_scale=1.0,  # factors of the four terms
      preference_scale=1.0, consistency_scale=1.0)
  base = _base()
  config.network = base.network
  config.tokenizer = base.tokenizer
  if values["file"]:
    source = dict(name="jsonl", path="", field="texts", holdout_every=20)
  else:
    source = dict(name="grammar_triplets", num_train=512, num_validation=200,
                  num_sentences=2, seed=0)
  config.data.update(length=24, packing="crop")
  config.data.source = source
  config.init.base = base  # config of the training of the model, without a checkpoint
  config.init.network = True  # take network and tokenizer of the checkpoint, also of a run's
  config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=5, final_rate=0.001,
                          weight_decay=0.0, b2=0.999)
  config.eval.update(
      num_samples=1, final_samples=1, baselines=False, evaluators=("retrieval",),
      embedding=dict(  # how texts are embedded by evaluators
          pooling="",  # "" = as the objective has it, or the mean
          attention=dict(name="full"),  # of a given pooling
          dims=()),  # figures also of the first so many columns
      retrieval=dict(  # first texts are queries, second ones relevant, all others documents
          source=source, split="validation",
          limit=0,  # most records; 0 = all
          corpus="", queries="", relevance="",  # files of BEIR (two jsonl, a tsv) in its place
          best_by=""))  # figure whose best weights are kept; "" = the last ones
  config.sampler.num_samples = 0
  if values["file"]:
    config.data.length = 128
    config.eval.retrieval.source.path = config.data.source.get_ref("path")
  if values["contrast"]:
    config.objective.update(generation_scale=0.0, preference_scale=0.0, consistency_scale=0.0)
  return config
