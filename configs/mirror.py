r"""Embeddings of texts without labels: Mirror-BERT (Liu et al. 2021, arXiv:2104.08027).

Two views of each text differ by dropout and by a window of masks in the second; each is to be
nearer to the other than to all other texts of the batch. First pre-trains the masked model of
configs/mlm.py on the packaged requests under `workdir/base` (2 minutes on 2 cores):
  python -m mdx.main --config=configs/mirror.py --workdir=runs/mirror
Variants: `:drophead` (whole heads are dropped, nothing else); `:simcse` (arXiv:2104.08821: dropout
alone, one direction, temperature 0.05); `:words` (one word a line of your file, temperature 0.2).
Yours, from an encoder of Hugging Face or a run of mdx, with the paper's rate:
  python -m mdx.main --config=configs/mirror.py --workdir=runs/mine \
    --config.init.checkpoint=bert-base-uncased --config.data.source.path=sentences.txt \
    --config.optimizer.learning_rate=2e-5
`:pairs` is supervised: lines {"texts": [text, one like it]} or, with a hard negative, three texts.
`:distil` learns the similarities that another run sees among the texts of a batch:
  python -m mdx.main --config=configs/mirror.py:distil --workdir=runs/small \
    --config.frozen.teacher.checkpoint=runs/mirror
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import mlm

_VARIANTS = ("drophead", "simcse", "words", "pairs", "distil")


def _base():
  """The masked model that a run without a checkpoint starts from."""
  config = mlm.get_config()
  config.batch_size = 32
  common.read_requests(config)
  config.sampler.num_samples = 0
  return config


def get_config(arg=None):
  """Mirror-BERT on sentences, or a variant."""
  variant, _ = config_lib.parse_variant(arg, _VARIANTS)
  config = common.get_config()
  config.update(steps=50, batch_size=200, ema_decay=0.0, log_steps=10, eval_steps=25,
                checkpoint_steps=50)
  config.objective = dict(
      name="contrastive",
      pooling="mean",  # of networks.pooling: first, last, mean, weighted_mean, ...
      attention=dict(name="full"),  # or causal, of a decoder
      temperature=0.04,  # of the similarities
      learns_temperature=False,  # trained from there on, within [0.01, 1]
      is_symmetric=True,  # both views against all others; False: the first against the second
      distance="cosine",  # or l2, of embeddings of length 1
      dims=(),  # Matryoshka: the loss is summed over the first so many columns; () = all of them
      span=5, span_unit="chars",  # length of the masked window (0: none), in chars or tokens
      span_least=30)  # shorter texts have no window
  common.read_requests(config)
  config.data.update(layout="views")
  config.network.update(
      dropout=0.1, attention_dropout=0.1,  # shares that are dropped; they make the views different
      drophead=0.0)  # share of whole heads that is dropped
  config.init.base = _base()  # config of the training of the encoder, without a checkpoint
  config.init.network = True  # take network and tokenizer of the checkpoint, also of a run's
  config.optimizer.update(learning_rate=5e-4, schedule="constant", warmup_steps=5,
                          weight_decay=0.01, b2=0.999)
  labelled = dict(source=dict(name="packaged", task="intent"), split="validation", limit=300,
                  best_by="")  # figure whose best weights are kept; "" = the last ones
  config.eval.update(
      num_samples=1, final_samples=1, baselines=False,
      evaluators=("clustering", "pair_classification"),
      embedding=dict(  # how texts are embedded by evaluators
          pooling="",  # "" = as the objective has it, or the mean
          attention=dict(name="full"),  # of a given pooling
          dims=()),  # figures also of the first so many columns
      clustering=dict(labelled),  # of a source of texts with labels
      pair_classification=dict(labelled))  # of pairs with labels, or of all pairs of labelled texts
  config.sampler.num_samples = 0
  if variant == "drophead":
    config.network.update(dropout=0.0, attention_dropout=0.0, drophead=0.2)
  if variant == "simcse":
    config.objective.update(span=0, is_symmetric=False, temperature=0.05)
    config.batch_size = 64
  if variant == "words":
    config.objective.update(span=0, temperature=0.2, pooling="first")
    config.steps = 100
    config.data.source.path = ""
  if variant == "pairs":
    config.objective.update(span=0, temperature=0.05, is_symmetric=False)
    config.data.source = dict(name="jsonl", path="", field="texts", holdout_every=20)
    config.data.layout = ""
  if variant == "distil":
    config.objective.update(
        name="distilled", span=0, temperature=0.05,
        teacher_temperature=0.05,  # of the teacher's similarities
        contrast_scale=0.0, teacher_scale=1.0)  # factors of both terms
    config.frozen = dict(teacher=dict(checkpoint="init", params="raw"))
  return config
