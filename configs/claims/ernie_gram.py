r"""Claim: predicting n-grams as one learns a better encoder than masking them contiguously.

ERNIE-Gram, Xiao et al. 2021, arXiv:2010.12148: explicit n-gram prediction, with that of their
tokens (comprehensive), and with a generator (relation), against MLM whose masks are the same
n-grams with a [MASK] a token (contiguous), and against token masks. Measured by a linear probe of
the frozen states with few labels, on the toy grammar or (`:text`) real text.
  python -m mdx.main --config=configs/claims/ernie_gram.py --workdir=runs/claims/ernie_gram
  python -m mdx.main --config=configs/claims/ernie_gram.py:text --workdir=runs/ernie_gram_text

Not measured yet.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar" or "text"."""
  data = common.data_of(arg, "ernie_gram")
  name = "grammar" if data == "grammar" else "holmes"
  lexicon, rate = f"asset:{name}_ngrams.json", dict(mask_rate=0.15, mask_draw="exact_count")
  run = common.encoder(data, objective=dict(name="ernie_gram", lexicon=lexicon, fine_weight=0.0,
                                            sampled_rate=0.0, **rate))
  masked = dict(name="mlm", replace_mask_rate=1.0, replace_random_rate=0.0, **rate)
  arms = dict(
      tokens=dict(objective=masked),
      contiguous=dict(objective=dict(masked, unit="ngram", lexicon=lexicon)),
      explicit=dict(),
      comprehensive=dict(objective=dict(fine_weight=1.0)),
      relation=dict(objective=dict(fine_weight=1.0, sampled_rate=0.25, generator_width=0.5)))
  pairs = (("explicit", "contiguous"), ("comprehensive", "contiguous"),
           ("relation", "comprehensive"), ("explicit", "tokens"))
  return common.claim("predicting n-grams as one learns a better encoder than masking them "
                      "contiguously", run, arms, common.compared(pairs))
