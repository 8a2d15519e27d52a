"""An autoregressive model on the packaged text, the yardstick of the others.

  python -m mdx.main --config=configs/ar.py --workdir=runs/ar
"""

from mdx.configs import common


def get_config():
  """Next-token prediction with causal attention."""
  config = common.get_config()
  config.objective = dict(name="ar")
  return config
