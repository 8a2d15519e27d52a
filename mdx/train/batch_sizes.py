"""Sizes of the batches of a run whose first steps have fewer rows.

Contents: BatchSizes.

Convention: batches are made of units, the largest number of rows that divides every size; a step
joins as many as it has. So rows come in the order that they have with any size, no row is left out,
and the state of the data is that of whole steps. A program is compiled for each size, as for each
of `data.buckets`; with sizes of one program, rows without weight would cost what others cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class BatchSizes:
  """Rows of the global batch of every step.

  Attributes:
    batch_size: rows at the end of the warm-up.
    warmup: pairs (first step, rows), from step 0 to the one with `batch_size` rows; () = all steps
      have as many.
    multiple: every number of rows must be a multiple of this.

  Reference: McCandlish et al. 2018, arXiv:1812.06162 (small batches suffice at first).
  """
  batch_size: int
  warmup: Sequence[Sequence[int]] = ()
  multiple: int = 1

  def __post_init__(self):
    pairs = [tuple(pair) if isinstance(pair, (list, tuple)) else () for pair in self.warmup]
    is_int = lambda x: type(x) is int
    wrong = lambda reason: ValueError(f"config.batch_warmup is {self.warmup!r:.120}; {reason}.")
    if not all(len(pair) == 2 and all(map(is_int, pair)) for pair in pairs):
      raise wrong("expected pairs (first step, rows), such as ((0, 8), (100, 16))")
    object.__setattr__(self, "warmup", tuple(pairs))
    if not pairs:
      return
    firsts = [first for first, _ in pairs]
    if firsts[0] != 0 or sorted(set(firsts)) != firsts:
      raise wrong("expected first steps that rise from 0")
    bad = [rows for _, rows in pairs if rows < 1 or rows % self.multiple]
    if bad:
      raise wrong(f"{bad[0]} rows are no positive multiple of {self.multiple}, the rows that "
                  "devices, microbatches and the objective take together")
    if pairs[-1][1] != self.batch_size or max(rows for _, rows in pairs) > self.batch_size:
      raise wrong(f"expected batch_size {self.batch_size} as its last and largest number of rows")

  @property
  def unit(self) -> int:
    """Rows of a unit."""
    return math.gcd(self.batch_size, *(rows for _, rows in self.warmup))

  def at(self, step: int) -> int:
    """Rows of the batch of a step."""
    return next((rows for first, rows in reversed(self.warmup) if first <= step), self.batch_size)

  def before(self, step: int) -> int:
    """Rows of all batches before a step."""
    total, begin, now = 0, 0, self.at(0)
    for first, rows in self.warmup:
      if first >= step:
        break
      total, begin, now = total + (first - begin) * now, first, rows
    return total + (step - begin) * now

  def check(self, data: Mapping[str, Any]) -> None:
    """Raises ValueError for a data config whose batches are not joined of smaller ones."""
    for key, usual in (("num_shards", 1), ("buckets", ()), ("bucket_window", 0)):
      if self.warmup and (found := data.get(key, usual)) and found != usual:
        raise ValueError(f"data.{key} is {found!r}, which makes batches of one size; with "
                         f"batch_warmup leave it at {usual!r}.")

  def join(self, units: Iterator[Mapping[str, np.ndarray]], step: int, rows: slice
           ) -> dict[str, np.ndarray]:
    """The rows of a step that are wanted, of the next units."""
    found = [next(units) for _ in range(self.at(step) // self.unit)]
    return {name: np.concatenate([one[name] for one in found])[rows] for name in found[0]}
