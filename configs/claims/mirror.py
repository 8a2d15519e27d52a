r"""Claim: Mirror-BERT raises the similarity that an encoder sees, without labels, in seconds.

Liu et al. 2021, arXiv:2104.08027.
"""

from mdx.configs import mirror
from mdx.configs.claims import common

_DATA = {"grammar": "grammar", "intents": "intents", "sts": "text"}


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "sts"."""
  data = common.data_of(arg, "mirror", tuple(_DATA))
  base = common.encoder(_DATA[data], eval_steps=0, steps=1500, objective=dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count"))
  base.eval.probe.num_labels = 0
  run = mirror.get_config()
  run.update(steps=50, batch_size=128, eval_steps=0, checkpoint_steps=10_000)
  run.network.update(base.network)
  run.network.update(dropout=0.1, attention_dropout=0.1)
  run.tokenizer, run.data = base.tokenizer, base.data.copy_and_resolve_references()
  run.data.layout = "views"
  run.init.base = base
  run.optimizer.learning_rate = 1e-3
  figure, labelled = "spearman", run.eval.clustering
  if data == "grammar":
    run.objective.update(span=3, span_unit="tokens", span_least=8)
    run.eval.similarity = dict(labelled, source=dict(name="grammar_pairs"), limit=0)
  elif data == "sts":
    run.data.length = 48
    run.eval.similarity = dict(labelled, split="train", limit=0, source=dict(
        name="table", path="", fields=("0", "1"), label="2", has_header=False, holdout_every=0))
  else:
    figure = "pair_ap"
  if data != "intents":
    run.eval.evaluators = ("similarity",)
    del run.eval["clustering"], run.eval["pair_classification"]
  arms = dict(
      mlm=dict(steps=1, optimizer=dict(learning_rate=1e-9)),
      mirror=dict(),
      dropout=dict(objective=dict(span=0)),
      window=dict(network=dict(dropout=0.0, attention_dropout=0.0)))
  pairs = (("mirror", "mlm"), ("dropout", "mlm"), ("window", "mlm"))
  claim = common.claim("Mirror-BERT raises the similarity that an encoder sees", run, arms, tuple(
      dict(name=f"{left} beats {right}", left=left, right=right, measure=figure)
      for left, right in pairs))
  more = ("v_measure",) if data == "intents" else ("mean_cosine", "uniformity", "alignment")
  claim.measures = (figure, *more, "seconds")
  return claim
