"""Uniform-state diffusion on the packaged text: noise is other tokens, and no mask.

  python -m mdx.main --config=configs/duo.py --workdir=runs/duo
  python -m mdx.main --config=configs/sample.py --workdir=runs/duo_samples \\
    --config.init.checkpoint=runs/duo --config.sampler.name=uniform
Sahoo et al. 2025, arXiv:2506.10892 (Duo), without its Gaussian curriculum and distillation.
"""

from mdx.configs import common


def get_config(arg=None):
  """A network that is told the time, for noise does not show which tokens it is."""
  config = common.get_config(arg)
  config.objective = dict(
      name="uniform_diffusion", schedule=dict(name="linear", eps=1e-4), time="lattice",
      normalizer="per_supervised_token")
  config.network.time_conditioning = True
  return config
