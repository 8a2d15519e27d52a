r"""Claim: a bottleneck of special tokens makes a causal model embed texts.

GEM, arXiv:2506.04344: from a causal model of 800 steps on the toy grammar, 160 steps of mixed next
tokens with one special token, without the bottleneck ("open") and with it, and 80 of these followed
by 80 of contrast ("gem"); "mean" is the mean state of the model at the start. Spearman's
correlation of cosines with the scores of 600 pairs of passages, and nats per token of plain texts.
  python -m mdx.main --config=configs/claims/gem.py --workdir=runs/claims/gem

Measured on 2 very busy cores of an AMD EPYC (load 10: 8 minutes; 10 CPU seconds of training a run),
seeds 0-2; paired t, two-sided:
  inconclusive: bottleneck beats open: 0.150 against 0.150, difference +0.000 +- 0.034, p = 1.00
  reproduced: gem beats bottleneck: 0.453 against 0.150, difference +0.303 +- 0.11, p = 0.039
  not reproduced: bottleneck beats mean: against 0.618, difference -0.468 +- 0.024, p < 0.001
  inconclusive: gem beats mean: difference -0.165 +- 0.10, p = 0.10
Plain texts cost 2.060 nats a token at the start, 2.047 (open), 2.049 (bottleneck), and 2.101 after
the contrast. A fifth of the rows of 160 steps is little for a new token to become a summary: longer
training of it was not tried.
"""

from ml_collections import config_dict

from mdx.configs import gem
from mdx.configs.claims import pooling


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/gem.py takes no argument, got {arg!r}.")
  run = gem.get_config()
  run.update(steps=160, batch_size=32, eval_steps=0, checkpoint_steps=10_000)
  run.init.base = pooling.base()
  run.network.update(run.init.base.network)
  run.tokenizer, run.data = run.init.base.tokenizer, run.init.base.data
  run.optimizer.learning_rate = 1e-3
  run.objective.contrast_start = 80
  pooling.measured(run)
  next_tokens = dict(contrast_start=10_000)
  arms = dict(
      mean=dict(steps=1, optimizer=dict(learning_rate=1e-9), eval=dict(embedding=dict(
          pooling="mean", attention=dict(name="causal")))),
      open=dict(objective=dict(has_bottleneck=False, **next_tokens)),
      bottleneck=dict(objective=next_tokens),
      gem=dict())
  pairs = (("bottleneck", "open"), ("gem", "bottleneck"), ("bottleneck", "mean"), ("gem", "mean"))
  return config_dict.ConfigDict(dict(
      mode="claim", statement="a bottleneck of special tokens makes a causal model embed texts",
      seeds=(0, 1, 2), run=run, arms=arms, grids=dict(), choose_by="",
      measures=("spearman", "mean_cosine", "nats_per_token", "seconds"),
      comparisons=tuple(dict(name=f"{left} beats {right}", left=left, right=right,
                             measure="spearman") for left, right in pairs)))
