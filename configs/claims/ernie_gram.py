r"""Claim: predicting n-grams as one learns a better encoder than masking them contiguously.

ERNIE-Gram, Xiao et al. 2021, arXiv:2010.12148: explicit n-gram prediction, with that of their
tokens (comprehensive), and with a generator (relation), against MLM whose masks are the same
n-grams with a [MASK] a token (contiguous), and against token masks. Measured by a linear probe of
the frozen states with few labels, on the toy grammar, real requests (`:intents`) or books
(`:text`).
  python -m mdx.main --config=configs/claims/ernie_gram.py --workdir=runs/claims/ernie_gram
  python -m mdx.main --config=configs/claims/ernie_gram.py:intents --workdir=runs/ernie_intents
  python -m mdx.main --config=configs/claims/ernie_gram.py:text --workdir=runs/ernie_gram_text

Measured on 2 cores of an AMD EPYC (very busy: 40 minutes; 20 to 40 CPU seconds of steps a run), the
grammar, seeds 0-2, 600 steps; accuracy of the probe, 0.43 to 0.45 before training; two-sided paired
t over the seeds:
  inconclusive: explicit beats contiguous at equal steps:
    0.942 against 0.935, difference +0.007 +- 0.0035, p = 0.075 (CPU time: +0.006, p = 0.26)
  inconclusive: comprehensive beats contiguous at equal steps:
    0.943 against 0.935, difference +0.008 +- 0.0056, p = 0.14 (CPU time: -0.024, p = 0.38)
  inconclusive: relation beats comprehensive at equal steps:
    0.914 against 0.943, difference -0.029 +- 0.019, p = 0.12
  not reproduced: the same at equal CPU time:
    0.770 against 0.943, difference -0.173 +- 0.041, p = 0.019
  reproduced: explicit beats tokens at equal steps:
    0.942 against 0.924, difference +0.018 +- 0.0032, p = 0.010 (CPU time: +0.021, p = 0.22)
All arms are close to what the grammar allows, so differences are small. Eight tests, uncorrected.

The requests, 1500 steps (2 cores of an Intel Xeon, another claim beside it: 27 minutes; CPU seconds
of steps a run: 58 tokens, 54 contiguous, 69 explicit, 97 comprehensive, 153 relation), 0.351 to
0.359 before training:
  not reproduced: explicit beats contiguous at equal steps:
    0.435 against 0.714, difference -0.278 +- 0.077, p = 0.025 (CPU time: -0.340, p = 0.011)
  inconclusive: comprehensive beats contiguous at equal steps:
    0.710 against 0.714, difference -0.004 +- 0.11, p = 0.96
  not reproduced: the same at equal CPU time: difference -0.147 +- 0.039, p = 0.023
  inconclusive: relation beats comprehensive at equal steps:
    0.606 against 0.710, difference -0.104 +- 0.081, p = 0.16
  not reproduced: the same at equal CPU time: difference -0.201 +- 0.044, p = 0.016
  not reproduced: explicit beats tokens at equal steps:
    0.435 against 0.779, difference -0.344 +- 0.075, p = 0.016 (CPU time: -0.386, p = 0.013)
The probe of explicit falls to 0.26 in 600 steps and rises after that. The text has not been
measured.
"""

from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons, on "grammar", "intents" or "text"."""
  data = common.data_of(arg, "ernie_gram")
  lexicon = f"asset:{common.ASSETS[data]}_ngrams.json"
  rate = dict(mask_rate=0.15, mask_draw="exact_count")
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
