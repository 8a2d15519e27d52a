r"""Claim: ELECTRA learns a better encoder than MLM, by its loss on all tokens and shared embeddings.

Clark et al. 2020, arXiv:2003.10555, at equal steps and at equal CPU time: against MLM, against the
same loss on the selected tokens alone, and against a generator with embeddings of its own. Measured
by a linear probe of the frozen states with few labels, on the toy grammar or (`:text`) real text.
  python -m mdx.main --config=configs/claims/electra.py --workdir=runs/claims/electra
  python -m mdx.main --config=configs/claims/electra.py:text --workdir=runs/claims/electra_text
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
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
