"""D3PM with an absorbing state on the packaged text: the exact bound of 1000 steps.

  python -m mdx.main --config=configs/d3pm.py --workdir=runs/d3pm
Austin et al. 2021, arXiv:2107.03006.
"""

from mdx.configs import common


def get_config(arg=None):
  """Linear absorption; the network is told the time and may predict the mask."""
  config = common.get_config(arg)
  config.objective = dict(
      name="d3pm", num_steps=1000, schedule=dict(name="linear", eps=0.0), mask_column=True,
      time="lattice", normalizer="per_supervised_token")
  config.network.time_conditioning = True
  config.network.tied = False  # a tied head begins by predicting the mask where it reads one
  return config
