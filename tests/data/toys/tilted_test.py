"""The tilted chain: a law that sums to one, and samples of it."""

import itertools

import numpy as np
import pytest

from mdx.data import sources
from mdx.data import tokenizer
from mdx.data.toys import tilted


def test_the_law_is_the_chain_times_the_tilt():
  law = sources.build(dict(name="tilted")).law()
  assert len(law) == 3 ** 8 and sum(law.values()) == pytest.approx(1)
  stay = {"aa": 0.7, "ab": 0.2, "ac": 0.1, "ba": 0.15, "bb": 0.6, "bc": 0.25, "ca": 0.3, "cb": 0.1,
          "cc": 0.6}
  weigh = lambda text: np.prod([stay[x + y] for x, y in itertools.pairwise(text)]) * (
      9 if sum("abc".index(c) for c in text) % 3 == 0 else 1)
  total = sum(weigh(text) for text in law)
  for text in ("aaaaaaaa", "abcabcab", "ccccbaac"):
    assert law[text] == pytest.approx(weigh(text) / total)


def test_records_are_draws_of_the_law_and_other_sources_know_none():
  source = sources.build(dict(name="tilted", num_train=4000, num_validation=10))
  texts = [record["text"] for record in source.records("train")]
  share = np.mean([sum("abc".index(c) for c in text) % 3 == 0 for text in texts])
  law = source.law()
  exact = sum(p for text, p in law.items() if sum("abc".index(c) for c in text) % 3 == 0)
  assert len(texts) == 4000 and abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)
  assert source.records("validation") != source.records("train")[:10]
  ids = tokenizer.build(tilted.TOKENIZER).encode("abcca")
  np.testing.assert_array_equal(ids, [0, 1, 2, 2, 0])
  assert sources.build(dict(name="recall")).law() == {}
  with pytest.raises(ValueError, match="num_train must be at least 1"):
    tilted.Tilted(num_train=0)
