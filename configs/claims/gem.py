r"""Claim: a bottleneck of special tokens makes a causal model embed texts.

GEM, arXiv:2506.04344.
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
