r"""Swapped language modelling (Di Liello et al. 2022, arXiv:2210.13815) on the packaged text.

Masked language modelling that never shows a [MASK]: 15 % of the tokens are replaced by random
ones, and the original is predicted there.
  python -m mdx.main --config=configs/slm.py --workdir=runs/slm
"""

from mdx.configs import mlm


def get_config(arg=None):
  """configs/mlm.py with random replacements only; `arg` as there."""
  config = mlm.get_config(arg)
  config.objective.update(replace_mask_rate=0.0, replace_random_rate=1.0)
  return config
