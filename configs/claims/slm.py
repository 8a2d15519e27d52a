r"""Claim: swapped language modelling learns a better encoder than MLM at equal cost.

Di Liello et al. 2022, arXiv:2210.13815: MLM that shows random tokens instead of [MASK]. Measured by a
linear probe of the frozen states with few labels, on the toy grammar or (`:text`) real text.
  python -m mdx.main --config=configs/claims/slm.py --workdir=runs/claims/slm
  python -m mdx.main --config=configs/claims/slm.py:text --workdir=runs/claims/slm_text
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
  run = common.encoder(common.data_of(arg, "slm"), objective=dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count"))
  run.network.head = "lm"
  arms = dict(mlm=dict(), slm=dict(objective=dict(replace_mask_rate=0.0, replace_random_rate=1.0)))
  return common.claim("swapped language modelling learns a better encoder than MLM", run, arms,
                      common.compared((("slm", "mlm"),)))
