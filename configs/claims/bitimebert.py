r"""Claim: objectives that know time make an encoder that dates texts.

BiTimeBERT 2.0, Wang et al. 2024, arXiv:2406.01863: masks of dates and signals (ETAMLM), dating of
documents, and replaced persons (TSER, of the same month), one after another, against MLM; and
replaced persons of the same month against those of any. On toy news of 24 months: measured by a
linear probe of the frozen states, with 96 labels, of the month of three sentences without a date.
The law of the news itself gives 0.53, chance 0.04.
  python -m mdx.main --config=configs/claims/bitimebert.py --workdir=runs/claims/bitimebert

Not measured yet.
"""

from mdx.configs import bitimebert
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/bitimebert.py takes no argument, got {arg!r}.")
  base = bitimebert.get_config()
  run = common.encoder("grammar")
  run.objective = base.objective.to_dict() | dict(dating_weight=0.0, tser_weight=0.0)
  run.data, run.tokenizer = base.data.to_dict(), base.tokenizer.to_dict()
  run.eval.probe.update(num_labels=96)
  arm = lambda **fields: dict(objective=fields)
  arms = dict(
      mlm=arm(masking="plain"), etamlm=arm(),
      dating=arm(dating_weight=1.0),
      tser=arm(tser_weight=1.0), tser_all=arm(tser_weight=1.0, tser_pool="all"),
      full=arm(dating_weight=1.0, tser_weight=1.0))
  pairs = (("etamlm", "mlm"), ("dating", "etamlm"), ("tser", "etamlm"), ("tser", "tser_all"),
           ("full", "dating"))
  return common.claim("objectives that know time make an encoder that dates texts", run, arms,
                      common.compared(pairs))
