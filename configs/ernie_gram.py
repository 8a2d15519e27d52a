r"""ERNIE-Gram (Xiao et al. 2021, arXiv:2010.12148) on the packaged text.

  python -m mdx.main --config=configs/ernie_gram.py --workdir=runs/ernie_gram
N-grams and their tokens are predicted, and a generator's n-grams found. `:explicit`: n-grams alone,
one [MASK] each; `:comprehensive`: n-grams and tokens, without a generator. A tokenizer needs its
own lexicon:
  python -m mdx.data.prepare lexicon --input='texts/*.txt' --tokenizer=tokenizer.json \
    --output=ngrams.json --num_bigrams=200000 --num_trigrams=100000
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """All terms, or n-grams alone, or n-grams and tokens."""
  variant, _ = config_lib.parse_variant(arg, ("explicit", "comprehensive"))
  config = common.get_config()
  config.objective = dict(
      name="ernie_gram",
      lexicon="asset:holmes_ngrams.json",  # a file of python -m mdx.data.prepare lexicon; "": none
      mask_rate=0.15, mask_draw="exact_count",  # share of the units; or bernoulli
      final_mask_rate=0.0, rate_schedule="linear", anneal_steps=0,  # as in configs/mlm.py
      num_masks=0,
      fine_weight=1.0,  # of the tokens of n-grams; 0: n-grams alone
      sampled_rate=0.25,  # of the masks, where the model reads samples; 0: no generator
      rtd_weight=1.0,  # of finding them
      generator_width=0.25, generator_depth=1.0)  # shares of the model's
  if variant:
    config.objective.sampled_rate = 0.0
  if variant == "explicit":
    config.objective.fine_weight = 0.0
  return config
