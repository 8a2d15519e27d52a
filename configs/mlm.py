r"""Masked language modelling (BERT, RoBERTa) on the packaged text.

  python -m mdx.main --config=configs/mlm.py --workdir=runs/mlm
Two minutes on 2 cores to 2.195 +- 0.015 nats per predicted token. What is predicted differs in
the variants (whole_word, ngram, span, static, rate40, rate_decay), so that their nats do not
compare:
  python -m mdx.main --config=configs/mlm.py:span --workdir=runs/span
"""

from mdx import config as config_lib
from mdx.configs import common

_VARIANTS = {
    # Whole words instead of word pieces (Devlin et al., release of May 2019).
    "whole_word": dict(unit="whole_word"),
    # N-grams of a lexicon, a [MASK] a token: the contiguous masking that ERNIE-Gram compares with.
    "ngram": dict(unit="ngram", lexicon="asset:holmes_ngrams.json", replace_mask_rate=1.0,
                  replace_random_rate=0.0),
    # Joshi et al. 2020, arXiv:1907.10529: spans of whole words, one fate a span.
    "span": dict(unit="whole_word", span_max=10, span_rate=0.2, replace_together=True),
    # Devlin et al. 2019: ten fixed masks a row.
    "static": dict(num_masks=10),
    # Wettig et al. 2023, arXiv:2202.08005: high rates, [MASK] alone.
    "rate40": dict(mask_rate=0.4, replace_mask_rate=1.0, replace_random_rate=0.0),
    # Ankner et al. 2024, arXiv:2305.15096.
    "rate_decay": dict(mask_rate=0.3, final_mask_rate=0.15, rate_schedule="linear"),
}


def get_config(arg=None):
  """Dynamic token masking, 80/10/10, or a variant of it."""
  variant, values = config_lib.parse_variant(arg, _VARIANTS, preset="")
  preset = values["preset"]
  config = common.get_config(f"preset={preset}")
  config.objective = dict(
      name="mlm",
      unit="token",  # token, whole_word or ngram: what rates and lengths count, never split
      lexicon="",  # of ngram: a file of python -m mdx.data.prepare lexicon
      mask_rate=0.15,  # share of the units that is corrupted
      mask_draw="exact_count",  # or bernoulli
      span_max=1, span_rate=0.2,  # longest span (1: none), and p of its geometric distribution
      replace_mask_rate=0.8, replace_random_rate=0.1,  # [MASK], random token; the rest is kept
      replace_together=False,  # one such fate for a whole unit or span
      predict_rate=0.0,  # 0: all that is corrupted; below or a multiple of mask_rate
      final_mask_rate=0.0, rate_schedule="linear", anneal_steps=0,  # a rate that changes
      num_masks=0)  # fixed masks of a row; 0: a new one at every step
  config.objective.update(_VARIANTS.get(variant, {}))
  if variant in ("span", "static") and not preset:  # 15 % of 64 tokens has no room for long spans
    config.data.length, config.batch_size = 256, 16
  if variant == "static":  # rows that come again in every epoch, most paragraphs uncut
    config.data.packing = "crop"
    config.data.source.document_chars = -1 if preset else 500
  if variant == "rate_decay":
    config.objective.anneal_steps = config.get_ref("steps")
  return config
