r"""Claim: random token substitution learns an encoder like that of MLM in less time.

Di Liello et al. 2022, arXiv:2210.13815: RTS and C-RTS against MLM, at equal steps and at equal CPU
time. Measured by a linear probe of the frozen states with few labels, on the toy grammar or
(`:text`) real text.
  python -m mdx.main --config=configs/claims/rts.py --workdir=runs/claims/rts
  python -m mdx.main --config=configs/claims/rts.py:text --workdir=runs/claims/rts_text

Not measured yet.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
  data = common.data_of(arg, "rts")
  run = common.encoder(data, objective=dict(name="rts", mask_rate=0.15))
  run.network.head = "rtd"
  clusters = dict(num_clusters=23) if data == "grammar" else dict(
      clusters="asset:holmes_clusters32.json")
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
