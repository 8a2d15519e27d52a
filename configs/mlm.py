"""Masked language modelling (BERT, RoBERTa) on the packaged text.

  python -m mdx.main --config=configs/mlm.py --workdir=runs/mlm
Two minutes on 2 cores to 2.195 +- 0.015 nats per predicted token.
"""

from mdx.configs import common


def get_config(arg=None):
  """Dynamic token masking, 80/10/10."""
  config = common.get_config(arg)
  config.objective = dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count",
      replace_mask_rate=0.8, replace_random_rate=0.1)
  return config
