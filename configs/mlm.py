"""Masked language modelling (BERT, RoBERTa) on the packaged text.

  python -m mdx.main --config=configs/mlm.py --workdir=runs/mlm
"""

from mdx.configs import common


def get_config():
  """Dynamic token masking, 80/10/10."""
  config = common.get_config()
  config.objective = dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count",
      replace_mask_rate=0.8, replace_random_rate=0.1)
  return config
