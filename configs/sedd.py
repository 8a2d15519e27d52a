"""SEDD with an absorbing state on the packaged text: score entropy.

  python -m mdx.main --config=configs/sedd.py --workdir=runs/sedd
  python -m mdx.main --config=configs/sedd.py:radd --workdir=runs/radd
Lou et al. 2023, arXiv:2310.16834; RADD: Ou et al. 2024, arXiv:2406.03736.
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """Free scores and a network that is told the time; "radd": a posterior, and no time."""
  values = config_lib.parse_arg(arg, preset="", radd=False)
  config = common.get_config(f"preset={values['preset']}" if values["preset"] else None)
  config.objective = dict(
      name="sedd", score="posterior" if values["radd"] else "free",
      schedule=dict(name="linear", eps=1e-3), time="lattice", mask_draw="bernoulli",
      normalizer="per_supervised_token")
  config.network.time_conditioning = not values["radd"]
  return config
