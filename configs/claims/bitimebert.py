r"""Claim: objectives that know time make an encoder that dates texts.

BiTimeBERT 2.0, Wang et al. 2024, arXiv:2406.01863: to MLM are added, one after another, masks of
dates and signals (`etamlm`), dating of documents (`dating`), and replaced persons of the same month
(`tser`), or of any (`tser_all`; which of these two is better is an open question). On toy news of
24 months: measured by a linear probe of the frozen states, with 96 labels, of the month of three
sentences without a date. The law of the news itself gives 0.53, chance 0.04.
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
