"""Character n-gram baselines with add-k smoothing.

Contents: unigram_bits, bigram_bits.
"""

from __future__ import annotations

import collections
import math
from typing import Sequence


def unigram_bits(train: Sequence[str], heldout: Sequence[str], k: float = 0.1) -> float:
  """Bits per character of held-out texts under character frequencies.

  Args:
    train: texts the counts are taken from.
    heldout: texts that are scored, every character.
    k: pseudo-count of each character of the joint alphabet.

  Raises:
    ValueError: there is no character to score.
  """
  counts = collections.Counter()
  for text in train:
    counts.update(text)
  alphabet = set(counts).union(*heldout)
  total = sum(counts.values()) + k * len(alphabet)
  scored = collections.Counter()
  for text in heldout:
    scored.update(text)
  bits = -sum(n * math.log2((counts[c] + k) / total) for c, n in scored.items())
  return bits / _num_scored(scored)


def bigram_bits(train: Sequence[str], heldout: Sequence[str], k: float = 0.1) -> float:
  """Bits per character under p(c_i | c_{i-1}); a text starts after a start sign."""
  pairs, contexts = collections.Counter(), collections.Counter()
  for text in train:
    padded = "\0" + text
    pairs.update(zip(padded, padded[1:]))
    contexts.update(padded[:-1])
  size = len({b for _, b in pairs}.union(*heldout))
  scored = collections.Counter()
  for text in heldout:
    padded = "\0" + text
    scored.update(zip(padded, padded[1:]))
  bits = -sum(n * math.log2((pairs[p] + k) / (contexts[p[0]] + k * size))
              for p, n in scored.items())
  return bits / _num_scored(scored)


def _num_scored(scored: collections.Counter) -> int:
  if not scored:
    raise ValueError("the held-out texts are empty; give texts to score, or do without baselines.")
  return sum(scored.values())
