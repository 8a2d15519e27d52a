"""GenMD4 on the packaged text: a masking schedule learned for every token.

  python -m mdx.main --config=configs/genmd4.py --workdir=runs/genmd4
Shi et al. 2024, arXiv:2406.04329. Two passes of the network a step.
"""

from mdx.configs import common


def get_config(arg=None):
  """The exponents begin at 1, the linear schedule, and are trained with the network."""
  config = common.get_config(arg)
  config.objective = dict(
      name="genmd4", time="lattice", first_time=1e-3, first_power=1.0,
      normalizer="per_supervised_token")
  config.network.time_conditioning = True
  return config
