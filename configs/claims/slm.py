r"""Claim: swapped language modelling learns a better encoder than MLM at equal cost.

Di Liello et al. 2022, arXiv:2210.13815: MLM that shows random tokens instead of [MASK]. Measured by
a linear probe of the frozen states with few labels, on the toy grammar, real requests (`:intents`)
or books (`:text`).
  python -m mdx.main --config=configs/claims/slm.py --workdir=runs/claims/slm
  python -m mdx.main --config=configs/claims/slm.py:intents --workdir=runs/claims/slm_intents
  python -m mdx.main --config=configs/claims/slm.py:text --workdir=runs/claims/slm_text

Measured on 2 cores of an AMD EPYC (two claims at a time), seeds 0-2; accuracy of the probe;
two-sided paired t over the seeds. The grammar, 2000 steps (51 to 56 CPU seconds of steps a run),
0.45 before training:
  inconclusive: slm beats mlm at equal steps:
    0.941 against 0.947, difference -0.0066 +- 0.008, p = 0.291
  inconclusive: slm beats mlm at equal CPU time: difference -0.0064 +- 0.0092, p = 0.350
With 600 steps SLM is still on its plateau (3.08 nats, MLM 2.13) and the verdict is "not
reproduced": 0.258 against 0.926, p = 0.002; it leaves it (seed 0: 0.32 after 600 steps, 0.90 after
1300).
The requests, 1500 steps (Intel Xeon, 8 minutes; 51 to 54 CPU seconds of steps a run), 0.351 before
training:
  inconclusive: slm beats mlm at equal steps:
    0.683 against 0.733, difference -0.050 +- 0.026, p = 0.081
  inconclusive: slm beats mlm at equal CPU time: difference -0.049 +- 0.021, p = 0.058
SLM begins to learn after 400 steps, MLM at once; both still rise.
The text, 600 steps, about 0.29 before training:
  inconclusive: slm beats mlm at equal steps: 0.282 against 0.288, difference -0.0064, p = 0.106
  not reproduced: slm beats mlm at equal CPU time: difference -0.0083 +- 0.0025, p = 0.030
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
