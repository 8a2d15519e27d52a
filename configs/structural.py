r"""Structural objectives (Di Liello et al. 2022, arXiv:2205.10455) on the packaged text.

  python -m mdx.main --config=configs/structural.py --workdir=runs/ssp
MLM, and whether a span of sentences is of the same paragraph as another (SSP). `:sp`: whether it
is the paragraph that the other was taken out of; `:psd`: whether two paragraphs are of one
document; `:joint`: which of five candidates are of the premise's paragraph (arXiv:2205.01228).
`:rts` has random token substitution instead of MLM.
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """SSP with MLM, or another structural or token-level objective."""
  variant, values = config_lib.parse_variant(arg, ("sp", "psd", "joint"), rts=False)
  config = common.get_config()
  task = variant if variant in ("sp", "psd") else "ssp"
  config.objective = dict(
      name="structural",
      token=dict(name="mlm", mask_rate=0.15, mask_draw="exact_count"),  # fields: see its config
      head="pair",  # of several candidates: ie_k, ae_k, re_k, ie_1 or ae_1
      num_candidates=1,
      pair_weight=1.0)
  config.data.update(length=128, packing="pad")
  config.data.source = dict(
      name="structure", documents=config.data.source.to_dict(), task=task,
      size=100_000, validation_size=1000, seed=0,
      num_candidates=config.objective.get_ref("num_candidates"),
      right_min=1, right_max=2,  # right ones of several candidates
      hard_rate=0.5,  # wrong ones from the same document
      premise_sentences=1, candidate_sentences=2)
  config.network.token_types = 2
  config.batch_size = 32
  if values["rts"]:
    config.network.head = "rtd"
    config.objective.token = dict(name="rts", mask_rate=0.15)
  if variant == "joint":
    config.objective.update(head="ae_k", num_candidates=5)
    config.network.token_types = 6
    config.data.length = 192
  return config
