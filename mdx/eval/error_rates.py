"""Word and character error rates.

Contents: distance, error_rate.
"""

from __future__ import annotations

from collections.abc import Sequence


def distance(found: Sequence, wanted: Sequence) -> int:
  """Fewest insertions, deletions and substitutions that make one sequence of another."""
  row = list(range(len(wanted) + 1))
  for i, x in enumerate(found, 1):
    diagonal, row[0] = row[0], i
    for j, y in enumerate(wanted, 1):
      diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
  return row[-1]


def error_rate(found: Sequence[Sequence], wanted: Sequence[Sequence]) -> float:
  """Edits of all pairs over the length of all wanted sequences; may exceed 1.

  Raises:
    ValueError: nothing is wanted.
  """
  total = sum(map(len, wanted))
  if not total:
    raise ValueError("an error rate needs references that are not empty; got none.")
  return sum(distance(a, b) for a, b in zip(found, wanted, strict=True)) / total
