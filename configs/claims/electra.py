r"""Claim: ELECTRA learns a better encoder than MLM, by its loss on all tokens.

Clark et al. 2020, arXiv:2003.10555, at equal steps and at equal CPU time: against MLM, against the
same loss on the selected tokens alone, and against a generator with embeddings of its own. Measured
by a linear probe of the frozen states with few labels, on the toy grammar, real requests
(`:intents`) or books (`:text`).
  python -m mdx.main --config=configs/claims/electra.py --workdir=runs/claims/electra
  python -m mdx.main --config=configs/claims/electra.py:intents --workdir=runs/electra_intents
  python -m mdx.main --config=configs/claims/electra.py:text --workdir=runs/claims/electra_text

Measured on 2 cores of an AMD EPYC (very busy: 28 minutes), the grammar, seeds 0-2, 600 steps;
accuracy of the probe, 0.43 before training; two-sided paired t over the seeds:
  not reproduced: electra beats mlm at equal steps:
    0.301 against 0.926, difference -0.625 +- 0.080, p = 0.005
  not reproduced: electra beats mlm at equal CPU time:
    0.339 against 0.926, difference -0.587 +- 0.046, p = 0.002
  inconclusive: electra beats masked_loss at equal steps:
    0.301 against 0.171, difference +0.130 +- 0.083, p = 0.113
  inconclusive: electra beats masked_loss at equal CPU time:
    0.302 against 0.175, difference +0.126 +- 0.082, p = 0.116
  inconclusive: electra beats untied at equal steps:
    0.301 against 0.279, difference +0.022 +- 0.110, p = 0.764
  inconclusive: electra beats untied at equal CPU time:
    0.317 against 0.287, difference +0.030 +- 0.090, p = 0.626
The generator learns the grammar (1.97 nats after 2000 steps, one seed) before the model does: the
area under the curve of its detections falls from 0.73 to 0.63, and the probe to 0.18.

The requests, 1500 steps (2 cores of an Intel Xeon, nothing beside it: 10 minutes; CPU seconds of
steps a run: 47 mlm, 61 electra, 63 masked_loss, 64 untied), 0.351 (mlm) and 0.359 before training:
  not reproduced: electra beats mlm at equal steps:
    0.486 against 0.733, difference -0.247 +- 0.064, p = 0.022 (CPU time: -0.255, p = 0.009)
  reproduced: electra beats masked_loss at equal steps:
    0.486 against 0.324, difference +0.162 +- 0.048, p = 0.028 (CPU time: +0.167, p = 0.016)
  inconclusive: electra beats untied at equal steps:
    0.486 against 0.443, difference +0.043 +- 0.040, p = 0.198 (CPU time: +0.035, p = 0.172)

The text, 600 steps (two claims at a time; 58 to 87 CPU seconds of steps a run), all inconclusive,
0.286 to 0.294 before training: electra 0.289 against mlm 0.288 (p = 0.85; CPU time p = 0.81),
masked_loss 0.285 (p = 0.26; 0.42), untied 0.288 (p = 0.60; 0.99). MLM, at 4.81 nats a token, does
not rise from where it began either.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "text"."""
  run = common.encoder(common.data_of(arg, "electra"), objective=dict(
      name="electra", mask_rate=0.15, mask_draw="exact_count", generator_width=0.5,
      tie="embeddings", loss_on="all", rtd_weight=50.0))
  run.network.head = "rtd"
  arms = dict(
      electra=dict(),
      mlm=dict(network=dict(head="lm"),
               objective=dict(name="mlm", mask_rate=0.15, mask_draw="exact_count")),
      masked_loss=dict(objective=dict(loss_on="masked")),
      untied=dict(objective=dict(tie="none")))
  pairs = (("electra", "mlm"), ("electra", "masked_loss"), ("electra", "untied"))
  return common.claim("ELECTRA learns a better encoder than MLM, by its loss on all tokens and "
                      "shared embeddings", run, arms, common.compared(pairs))
