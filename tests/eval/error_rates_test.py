"""Word and character error rates."""

import functools
import random

import pytest

from mdx.eval import error_rates


@functools.cache
def _least(a, b):
  """Edits by the recursion itself."""
  if not a or not b:
    return len(a) + len(b)
  return min(_least(a[1:], b) + 1, _least(a, b[1:]) + 1, _least(a[1:], b[1:]) + (a[0] != b[0]))


def _pairs():
  draw = random.Random(0)
  word = lambda: "".join(draw.choice("ab c") for _ in range(draw.randrange(8)))
  return [(word(), word()) for _ in range(60)]


def test_the_distance_is_the_fewest_edits():
  assert error_rates.distance("kitten", "sitting") == 3
  for a, b in _pairs():
    assert error_rates.distance(a, b) == _least(a, b)


def test_rates_are_edits_over_the_length_of_what_is_wanted():
  assert error_rates.error_rate(["ab", "c"], ["abcd", "d"]) == pytest.approx(3 / 5)
  assert error_rates.error_rate([["a", "x"]], [["a"]]) == 1
  with pytest.raises(ValueError, match="references that are not empty"):
    error_rates.error_rate([[]], [[]])


def test_rates_equal_those_of_jiwer():
  jiwer = pytest.importorskip("jiwer")
  pairs = [(a, b) for a, b in _pairs() if b.split()]
  found, wanted = zip(*pairs)
  assert error_rates.error_rate([x.split() for x in found], [x.split() for x in wanted]) == (
      pytest.approx(jiwer.wer(list(wanted), list(found))))
