r"""Claim: which states of a causal model are pooled decides what its embeddings know.

The matrix of pooling and reading of arXiv:2412.12591, on a causal model of 800 steps on the toy
grammar, without training (the one step of a run has a rate of nothing): the first, the last, the
mean and the position-weighted mean state, and the mean under an attention that is opened.
Spearman's correlation of cosines with the scores of 600 pairs of passages.
  python -m mdx.main --config=configs/claims/pooling.py --workdir=runs/claims/pooling

Measured on 2 very busy cores of an AMD EPYC (load 10: 3 minutes, with the models of the claim of
GEM, 2 more minutes), seeds 0-2; paired t, two-sided:
  reproduced: mean beats first: 0.618 against -0.001, difference +0.619 +- 0.032, p < 0.001
  not reproduced: last beats mean: 0.094 against 0.618, difference -0.523 +- 0.060, p = 0.004
  inconclusive: weighted_mean beats mean: 0.627, difference +0.010 +- 0.011, p = 0.26
  not reproduced: mean beats mean_open: against 0.667, difference -0.049 +- 0.014, p = 0.027
The first state has read the start token alone, and the last one is about the next word. Attention
that is opened without any training makes the mean better here, not worse.
"""

from ml_collections import config_dict

from mdx.configs import gem
from mdx.configs.claims import common


def base():
  """A small causal model of the toy grammar."""
  run = common.encoder("grammar", eval_steps=0, steps=800, objective=dict(name="ar"))
  run.eval.probe.num_labels = 0
  return run


def measured(run):
  """Gives a run the similarity of pairs of passages of the grammar."""
  run.eval.evaluators = ("similarity",)
  run.eval.similarity = dict(run.eval.clustering, source=dict(name="grammar_pairs"), limit=0)
  del run.eval["clustering"], run.eval["pair_classification"]


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/pooling.py takes no argument, got {arg!r}.")
  run = gem.get_config()
  run.update(steps=1, batch_size=64, eval_steps=0, checkpoint_steps=10_000)
  run.init.base = base()
  run.objective = dict(name="ar")
  run.network.update(run.init.base.network)
  run.tokenizer, run.data = run.init.base.tokenizer, run.init.base.data
  run.optimizer.learning_rate = 1e-9  # the one step that a run must have
  measured(run)
  read = lambda pooling, attention="causal": dict(eval=dict(embedding=dict(
      pooling=pooling, attention=dict(name=attention))))
  arms = {name: read(name) for name in ("first", "last", "mean", "weighted_mean")} | {
      "mean_open": read("mean", "full")}
  pairs = (("mean", "first"), ("last", "mean"), ("weighted_mean", "mean"), ("mean", "mean_open"))
  return config_dict.ConfigDict(dict(
      mode="claim", statement="how a causal model is pooled decides what its embeddings know",
      seeds=(0, 1, 2), run=run, arms=arms, grids=dict(), choose_by="",
      measures=("spearman", "mean_cosine", "uniformity"),
      comparisons=tuple(dict(name=f"{left} beats {right}", left=left, right=right,
                             measure="spearman") for left, right in pairs)))
