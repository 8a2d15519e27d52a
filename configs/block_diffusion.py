"""Block diffusion on the packaged text: blocks of 16 tokens, one after another.

  python -m mdx.main --config=configs/block_diffusion.py --workdir=runs/block_diffusion
  python -m mdx.main --config=configs/sample.py --workdir=runs/block_samples \\
    --config.init.checkpoint=runs/block_diffusion --config.sampler.block_length=16 \\
    --config.sampler.cache=block
Arriola et al. 2025, arXiv:2503.09573. Rows are read twice, noisy and clean.
"""

from mdx.configs import common


def get_config(arg=None):
  """A time for every block; exact counts of masks."""
  config = common.get_config(arg)
  config.objective = dict(
      name="block_diffusion", attention=dict(name="block_causal", block_length=16),
      schedule=dict(name="linear", eps=1e-4), time="lattice", mask_draw="exact_count",
      clip=(0.0, 1.0),  # times of training, e.g. (0.3, 0.8)
      normalizer="per_supervised_token")
  return config
