"""ROUGE recalls of small texts, counted by hand."""

import math

import pytest

from mdx.eval import rouge


@pytest.mark.parametrize("found, gold, unigram, subsequence", [
    ("the cat sat", "The cat sat.", 1, 1), ("", "a b", 0, 0), ("sat the cat", "the cat sat", 1, 2 / 3),
    ("a a a", "a b a c", 1 / 2, 1 / 2), ("x a y c z", "a b c d", 1 / 2, 1 / 2),
    ("c b a", "a b c", 1, 1 / 3), ("it's_Ada", "it s ada", 1, 1)])
def test_recalls(found, gold, unigram, subsequence):
  assert rouge.unigram_recall(found, gold) == pytest.approx(unigram)
  assert rouge.subsequence_recall(found, gold) == pytest.approx(subsequence)


def test_nothing_is_recalled_of_nothing():
  assert math.isnan(rouge.unigram_recall("a", "...")) and math.isnan(
      rouge.subsequence_recall("a", ""))
