r"""Claim: random token substitution learns an encoder like that of MLM in less time.

Di Liello et al. 2022, arXiv:2210.13815: RTS and C-RTS against MLM, at equal steps and at equal CPU
time. Measured by a linear probe of the frozen states with few labels, on the toy grammar, real
requests (`:intents`) or books (`:text`).
  python -m mdx.main --config=configs/claims/rts.py --workdir=runs/claims/rts
  python -m mdx.main --config=configs/claims/rts.py:intents --workdir=runs/claims/rts_intents
  python -m mdx.main --config=configs/claims/rts.py:text --workdir=runs/claims/rts_text

Measured on 2 cores of an AMD EPYC (very busy), the grammar, seeds 0-2, 600 steps; accuracy of the
probe, 0.45 before training; two-sided paired t over the seeds:
  not reproduced: rts beats mlm at equal steps:
    0.382 against 0.926, difference -0.544 +- 0.15, p = 0.025
  not reproduced: rts beats mlm at equal CPU time:
    0.396 against 0.922, difference -0.525 +- 0.13, p = 0.020
  not reproduced: cluster_rts beats mlm at equal steps:
    0.341 against 0.926, difference -0.585 +- 0.13, p = 0.016
  not reproduced: cluster_rts beats mlm at equal CPU time:
    0.345 against 0.921, difference -0.577 +- 0.12, p = 0.014
  inconclusive: cluster_rts beats rts at equal steps:
    0.341 against 0.382, difference -0.041 +- 0.081, p = 0.476
  inconclusive: cluster_rts beats rts at equal CPU time:
    0.339 against 0.388, difference -0.049 +- 0.077, p = 0.380
  inconclusive: rts needs less CPU time a step than mlm:
    23.41 against 23.40 seconds, ratio 0.999 *: 1.16, p = 0.990
Random words break the syntax, and are found (0.19 nats a token) without the topic.

The requests, 1500 steps (Intel Xeon, another claim beside it: 8 minutes for rts and cluster_rts,
with the runs of mlm of slm.py), 0.351 before training:
  not reproduced: rts beats mlm at equal steps:
    0.391 against 0.733, difference -0.341 +- 0.026, p = 0.002 (CPU time: -0.334, p = 0.002)
  not reproduced: cluster_rts beats mlm at equal steps:
    0.442 against 0.733, difference -0.291 +- 0.005, p < 0.001 (CPU time: -0.274, p = 0.001)
  inconclusive: cluster_rts beats rts at equal steps: difference +0.051 +- 0.022, p = 0.056
  reproduced: cluster_rts beats rts at equal CPU time:
    0.436 against 0.390, difference +0.046 +- 0.011, p = 0.019
  inconclusive: rts needs less CPU time a step than mlm:
    47.9 against 53.9 seconds, ratio 0.883 *: 1.07, p = 0.087; 2048 ids
The text, 600 steps (two claims at a time; 52 to 58 CPU seconds of steps a run), all inconclusive,
about 0.29 before training: rts 0.287 against 0.288 of mlm (p = 0.32; CPU time 0.13), cluster_rts
0.285 (p = 0.46; 0.23) and against rts (p = 0.59; 0.63); ratio of CPU time 0.90, p = 0.36.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "text"."""
  data = common.data_of(arg, "rts")
  run = common.encoder(data, objective=dict(name="rts", mask_rate=0.15))
  run.network.head = "rtd"
  clusters = dict(num_clusters=23) if data == "grammar" else dict(
      clusters=f"asset:{common.ASSETS[data]}_clusters32.json")
  arms = dict(
      mlm=dict(network=dict(head="lm"),
               objective=dict(name="mlm", mask_rate=0.15, mask_draw="exact_count")),
      rts=dict(),
      cluster_rts=dict(objective=dict(name="cluster_rts", mask_rate=0.15, **clusters)))
  pairs = (("rts", "mlm"), ("cluster_rts", "mlm"), ("cluster_rts", "rts"))
  comparisons = common.compared(pairs) + (
      dict(name="rts needs less CPU time a step than mlm", left="rts", right="mlm",
           measure="cpu_seconds", larger_is_better=False, ratio=True),)
  return common.claim("random token substitution learns an encoder like that of MLM in less time",
                      run, arms, comparisons)
