r"""Claim: swapped language modelling learns a better encoder than MLM at equal cost.

Di Liello et al. 2022, arXiv:2210.13815: MLM that shows random tokens instead of [MASK]. Measured by
a linear probe of the frozen states with few labels, on the toy grammar or (`:text`) real text.
  python -m mdx.main --config=configs/claims/slm.py --workdir=runs/claims/slm
  python -m mdx.main --config=configs/claims/slm.py:text --workdir=runs/claims/slm_text

Measured on 2 cores of an AMD EPYC (very busy), the grammar, seeds 0-2, 600 steps; accuracy of the
probe, 0.45 before training; two-sided paired t over the seeds:
  not reproduced: slm beats mlm at equal steps:
    0.258 against 0.926, difference -0.668 +- 0.050, p = 0.002
  not reproduced: slm beats mlm at equal CPU time:
    0.263 against 0.912, difference -0.649 +- 0.062, p = 0.003
After 600 steps SLM is still on its plateau (3.08 nats, MLM 2.13). The text has not been measured.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "text"."""
  data = common.data_of(arg, "slm")
  run = common.encoder(data, objective=dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count"))
  if data == "grammar":
    run.steps = 2000  # 600 do not take SLM over its plateau
  run.network.head = "lm"
  arms = dict(mlm=dict(), slm=dict(objective=dict(replace_mask_rate=0.0, replace_random_rate=1.0)))
  return common.claim("swapped language modelling learns a better encoder than MLM", run, arms,
                      common.compared((("slm", "mlm"),)))
