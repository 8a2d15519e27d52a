r"""Claim: objectives that know time make an encoder that dates texts.

BiTimeBERT 2.0, Wang et al. 2024, arXiv:2406.01863: to MLM are added, one after another, masks of
dates and signals (`etamlm`), dating of documents (`dating`), and replaced persons of the same month
(`tser`), or of any (`tser_all`; which of these two is better is an open question). On toy news of
24 months: measured by a linear probe of the frozen states, with 96 labels, of the month of three
sentences without a date. The law of the news itself gives 0.53, chance 0.04.
  python -m mdx.main --config=configs/claims/bitimebert.py --workdir=runs/claims/bitimebert

Measured on 2 cores of an AMD EPYC (very busy, load 15 to 20: 46 minutes, of which the steps took 12
minutes of CPU time), seeds 0-2, 1000 steps; accuracy of the probe, 0.21 before training; two-sided
paired t over the seeds:
  reproduced: etamlm beats mlm at equal steps:
    0.264 against 0.231, difference +0.033 +- 0.0018, p = 0.001
  reproduced: etamlm beats mlm at equal CPU time:
    0.260 against 0.231, difference +0.030 +- 0.0075, p = 0.021
  reproduced: dating beats etamlm at equal steps:
    0.301 against 0.264, difference +0.037 +- 0.012, p = 0.031
  inconclusive: dating beats etamlm at equal CPU time:
    0.300 against 0.260, difference +0.041 +- 0.018, p = 0.056
  not reproduced: tser beats dating at equal steps:
    0.292 against 0.301, difference -0.009 +- 0.0028, p = 0.028
  inconclusive: tser beats dating at equal CPU time:
    0.284 against 0.301, difference -0.017 +- 0.0089, p = 0.079
  inconclusive: tser beats tser_all at equal steps:
    0.292 against 0.284, difference +0.007 +- 0.021, p = 0.597
  inconclusive: tser beats tser_all at equal CPU time:
    0.292 against 0.283, difference +0.009 +- 0.021, p = 0.528
  reproduced: tser beats mlm at equal steps:
    0.292 against 0.231, difference +0.061 +- 0.015, p = 0.021
  reproduced: tser beats mlm at equal CPU time:
    0.286 against 0.231, difference +0.055 +- 0.015, p = 0.022
All arms still rise when they stop, far below 0.53, and ten tests are made, of which one in twenty
is significant by chance. Replaced persons of the same month are hardly found (area under the curve
0.57 in training, 0.79 of any month) and add nothing to dating, which is taught what the probe asks.
"""

from mdx.configs import bitimebert
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/bitimebert.py takes no argument, got {arg!r}.")
  base = bitimebert.get_config()
  run = common.encoder("grammar", steps=1000, eval_steps=250)
  run.objective = base.objective.to_dict() | dict(dating_weight=0.0, tser_weight=0.0)
  run.data, run.tokenizer = base.data.to_dict(), base.tokenizer.to_dict()
  run.eval.probe.update(num_labels=96)
  arm = lambda **fields: dict(objective=fields)
  arms = dict(
      mlm=arm(masking="plain"), etamlm=arm(), dating=arm(dating_weight=1.0),
      tser=arm(dating_weight=1.0, tser_weight=1.0),
      tser_all=arm(dating_weight=1.0, tser_weight=1.0, tser_pool="all"))
  pairs = (("etamlm", "mlm"), ("dating", "etamlm"), ("tser", "dating"), ("tser", "tser_all"),
           ("tser", "mlm"))
  return common.claim("objectives that know time make an encoder that dates texts", run, arms,
                      common.compared(pairs))
