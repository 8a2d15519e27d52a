"""A lexicon of n-grams by the t-statistic of their counts.

Contents: t_statistic, lexicon.

Reference: Xiao et al. 2021, arXiv:2010.12148 (ERNIE-Gram).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

_MERGE = 1 << 22  # n-grams that are kept apart before they are counted


def t_statistic(count: np.ndarray, total: int, expected: np.ndarray) -> np.ndarray:
  """t of n-grams against independence, float64: (p - p0) / sqrt(p (1 - p) / total).

  Args:
    count: how often each occurs; p = count / total.
    total: n-grams of this size in the text.
    expected: p0, the product of the shares of its ids.
  """
  share = np.asarray(count, np.float64) / total
  return (share - expected) / np.sqrt(np.maximum(share * (1 - share), 1e-300) / total)


class _Counts:
  """Counts of n-grams of one size, as numbers in base V."""

  def __init__(self, size: int, vocab_size: int):
    if size * np.log2(vocab_size) > 63:
      raise ValueError(f"n-grams of {size} of {vocab_size} ids are too many to count; make shorter "
                       "ones.")
    self.size, self.base = size, vocab_size
    self._waiting, self._num_waiting = [], 0
    self.keys, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

  def add(self, ids: np.ndarray) -> None:
    """Counts those of one text."""
    num = max(len(ids) - self.size + 1, 0)
    keys = np.zeros(num, np.int64)
    for i in range(self.size):
      keys = keys * self.base + ids[i:i + num]
    self._waiting.append(keys)
    self._num_waiting += num
    if self._num_waiting > _MERGE:
      self.merge()

  def merge(self) -> None:
    """Counts what waits."""
    keys, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *self._waiting]),
                             return_counts=True)
    both, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
    self.counts = np.bincount(place, np.concatenate([self.counts, counts]),
                              minlength=len(both)).astype(np.int64)
    self.keys, self._waiting, self._num_waiting = both, [], 0

  def ids(self) -> np.ndarray:
    """int64 [n, size]."""
    return np.stack([self.keys // self.base ** (self.size - 1 - i) % self.base
                     for i in range(self.size)], axis=1)


def lexicon(texts: Iterable[np.ndarray], vocab_size: int, num_of_size: Mapping[int, int],
            excluded: Collection[int] = ()) -> list[list[int]]:
  """The n-grams with the highest t-statistics of each size.

  Args:
    texts: ids; no n-gram goes on from one to the next.
    vocab_size: V.
    num_of_size: size -> how many to keep, at most: of those that occur twice or more and oftener
      than their ids would by themselves.
    excluded: ids that no n-gram has.

  Returns:
    n-grams by size, then by t, highest first; equal ones by their ids.

  Raises:
    ValueError: there is none.
  """
  sizes = [size for size, num in sorted(num_of_size.items()) if num > 0]
  tables = [_Counts(size, vocab_size) for size in sizes]
  single = np.zeros(vocab_size, np.int64)
  for ids in texts:
    ids = np.asarray(ids, np.int64)
    single += np.bincount(ids, minlength=vocab_size)
    for table in tables:
      table.add(ids)
  shares, allowed = single / max(single.sum(), 1), np.ones(vocab_size, bool)
  allowed[list(excluded)] = False
  found = []
  for table in tables:
    table.merge()
    ids, total = table.ids(), int(table.counts.sum())
    t = t_statistic(table.counts, max(total, 1), shares[ids].prod(axis=1))
    keep = np.flatnonzero((table.counts > 1) & (t > 0) & allowed[ids].all(axis=1))
    best = keep[np.argsort(-t[keep], kind="stable")][:num_of_size[table.size]]
    found += ids[best].tolist()
  if not found:
    raise ValueError("no n-gram occurs twice, and oftener than by chance; give more text, or ask "
                     "for bigrams or trigrams.")
  return found
