r"""Random token substitution (Di Liello et al. 2022, arXiv:2210.13815) on the packaged text.

  python -m mdx.main --config=configs/rts.py --workdir=runs/rts
`:clusters` draws replacements from clusters that confuse the model (C-RTS).
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """Uniform replacements, or clusters."""
  values = config_lib.parse_arg(arg, clusters=False)
  config = common.get_config()
  config.network.head = "rtd"
  config.objective = dict(
      name="rts",
      unit="token", mask_rate=0.15, mask_draw="bernoulli",  # what is replaced, as in configs/mlm.py
      span_max=1, span_rate=0.2, final_mask_rate=0.0, rate_schedule="linear", anneal_steps=0,
      num_masks=0)
  if values["clusters"]:
    config.objective.update(
        name="cluster_rts",
        clusters="asset:holmes_clusters32.json",  # "": num_clusters runs of ids
        num_clusters=16, sharpness=2.0,
        count_changed=False)  # whether only replaced tokens change the confusions
  return config
