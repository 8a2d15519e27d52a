"""Buckets: rows of varied length cost what they have.

Contents: KEYS, check, cut, SortedWindows.

A batch is cut to the shortest of a few lengths that holds its longest row, so that as many programs
are compiled. What is left out is padding, on which no loss term is: losses, weights and draws stay
as they are. Two draws alone depend on the length: those of attention dropout, and the times of
block diffusion, which are spread over the blocks of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from mdx.data import pack

KEYS = ("buckets", "bucket_window")  # of a data config
_MOST = 8  # lengths, each a program


def check(buckets: Sequence[int], window: int, packing: str, num_shards: int) -> None:
  """Raises ValueError for lengths that cannot be buckets; those above a row's are not used."""
  if window and not buckets:
    raise ValueError(f"data.bucket_window is {window}, but there are no data.buckets to sort rows "
                     "for; set both.")
  if not buckets:
    return
  if list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or len(buckets) > _MOST:
    raise ValueError(f"data.buckets is {tuple(buckets)}; expected up to {_MOST} rising lengths, "
                     "such as (32, 64).")
  if packing not in ("pad", "crop"):
    raise ValueError(f"data.buckets cut the padding of rows of one record, and packing={packing!r} "
                     "fills rows; use pad or crop, or leave data.buckets out.")
  if num_shards > 1:
    raise ValueError(f"data.buckets need to see whole batches, and data.num_shards {num_shards} "
                     "streams may be read by several processes; use num_shards=1.")


def cut(batch: pack.Row, form: pack.Form, buckets: Sequence[int]) -> pack.Row:
  """The batch without the padding beyond a bucket.

  Args:
    batch: fields of the form, all rows of a global batch.
    form: of its rows.
    buckets: rising lengths; a longer batch stays as it is.
  """
  longest = _longest(batch, form)
  size = next((n for n in buckets if n >= longest), form.length)
  if size >= form.length:
    return batch
  at = {name: axis for name, _, axis in _fields(form, also="positions")}
  return {name: x[(slice(None),) * at[name] + (slice(size),)] if name in at else x
          for name, x in batch.items()}


def _fields(form, also=""):
  """Name, field and axis of the positions, of fields that have one; where rows are one segment
  their positions go on over the padding, and say nothing of it."""
  return [(name, field, 1 + field.shape.index("length")) for name, field in form.fields.items()
          if "length" in field.shape and (name != "positions" or also)]


def _longest(batch: pack.Row, form: pack.Form) -> int:
  """Positions up to the last that is not padding in some field of some row; at least one."""
  most = 1
  for name, field, axis in _fields(form):
    others = tuple(i for i in range(batch[name].ndim) if i != axis)
    found = np.flatnonzero((batch[name] != field.pad).any(axis=others))
    most = max(most, int(found[-1]) + 1 if found.size else 1)
  return most


class SortedWindows(grain.IterDataset):
  """Batches of rows of about one length: the rows of a window of batches, sorted and dealt out.

  The order of the batches of a window is drawn from (seed, number of the window). All rows of the
  parent come once; the last window may be shorter, and its last batch smaller.
  """

  def __init__(self, parent: grain.IterDataset, *, form: pack.Form, batch_size: int, window: int,
               drop_remainder: bool, seed: int | None):
    """Takes rows as `pack.finish_row` gives them; without a seed batches stay sorted."""
    super().__init__(parent)
    self.form, self.batch_size, self.window = form, batch_size, window
    self.drop_remainder, self.seed = drop_remainder, seed

  def __iter__(self):
    return _Windows(iter(self._parent), self)


class _Windows(grain.DatasetIterator):
  """State: the parent's where the window begins, its number, and the batches that were taken."""

  def __init__(self, parent, dataset):
    super().__init__(parent)
    self._rows, self._dataset, self._number, self._taken = parent, dataset, 0, 0
    self._begin = parent.get_state()
    self._batches: list[list[pack.Row]] | None = None

  def _fill(self):
    mine, rows = self._dataset, []
    for row in self._rows:
      rows.append(row)
      if len(rows) == mine.batch_size * mine.window:
        break
    sizes = [_longest({name: x[None] for name, x in row.items()}, mine.form) for row in rows]
    order = np.argsort(sizes, kind="stable")
    found = [[rows[i] for i in order[first:first + mine.batch_size]]
             for first in range(0, len(rows), mine.batch_size)]
    if found and mine.drop_remainder and len(found[-1]) < mine.batch_size:
      found.pop()
    if mine.seed is not None:
      shuffled = np.random.default_rng([mine.seed, self._number]).permutation(len(found))
      found = [found[i] for i in shuffled]
    self._batches = found

  def __next__(self):
    if self._batches is None:
      self._fill()
    if self._taken == len(self._batches) and self._taken:
      self._begin, self._batches = self._rows.get_state(), None
      self._number, self._taken = self._number + 1, 0
      self._fill()
    if self._taken == len(self._batches):
      raise StopIteration
    self._taken += 1
    mine = self._dataset
    return pack.stack_rows(self._batches[self._taken - 1], batch_size=mine.batch_size,
                           form=mine.form)

  def get_state(self):
    return {"window": self._begin, "number": self._number, "taken": self._taken}

  def set_state(self, state: dict[str, Any]):
    self._rows.set_state(state["window"])
    self._begin, self._batches = state["window"], None
    self._number, self._taken = state["number"], state["taken"]
