"""What the claims about pre-training share: a small run on the packaged text."""

from mdx.configs import common


def get_config(**changes):
  """A run of half a minute on 2 cores; nothing but its results is kept.

  Args:
    **changes: keys of the config, such as `steps`.
  """
  run = common.get_config()
  run.update(steps=500, batch_size=32, eval_steps=0, checkpoint_steps=10_000)
  run.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
  run.optimizer.learning_rate = 4e-3
  run.eval.update(final_samples=8, baselines=False)
  run.sampler.num_samples = 0
  run.update(changes)
  return run
