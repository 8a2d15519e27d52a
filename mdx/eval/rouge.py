"""ROUGE of generated answers.

Contents: words, unigram_recall, subsequence_recall.

Convention: words are runs of letters and digits in lower case, without stemming.

Reference: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
"""

from __future__ import annotations

import collections
import math
import re


def words(text: str) -> list[str]:
  """The words of a text."""
  return re.findall(r"[^\W_]+", text.lower())


def unigram_recall(found: str, gold: str) -> float:
  """ROUGE-1 recall: words of `gold` that are in `found`, each as often; nan for an empty gold."""
  wanted = collections.Counter(words(gold))
  shared = wanted & collections.Counter(words(found))
  return shared.total() / wanted.total() if wanted else math.nan


def subsequence_recall(found: str, gold: str) -> float:
  """ROUGE-L recall: the longest common subsequence over the words of `gold`; nan for no gold."""
  wanted, given = words(gold), words(found)
  longest = [0] * (len(given) + 1)
  for word in wanted:
    before = longest[:]
    for i, other in enumerate(given):
      longest[i + 1] = before[i] + 1 if word == other else max(before[i + 1], longest[i])
  return longest[-1] / len(wanted) if wanted else math.nan
