"""Masked diffusion on the packaged text: MDLM's loss with a global lattice of times.

Trains a 0.8M-parameter transformer on 1.9 MB of Sherlock Holmes (512 byte-pair tokens).
  python -m mdx.main --config=configs/diffusion.py --workdir=runs/diffusion
"""

from mdx.configs import common


def get_config():
  """The config of the README's first command."""
  config = common.get_config()
  config.objective = dict(
      name="diffusion",
      schedule=dict(name="linear", eps=1e-4),  # linear, cosine or polynomial (with `power`)
      time="lattice",  # independent, stratified or lattice
      mask_draw="exact_count",  # bernoulli, or exact_count with the linear schedule
      weighting="elbo",
      normalizer="per_supervised_token")  # elbo, per_supervised_token, per_masked_token
  return config
