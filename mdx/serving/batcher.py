"""One thread that decodes the rows of all requests, those of equal settings together.

Contents: Row, number, Batcher.

Convention: the draws of a row depend on its number alone, so a row is the same beside any others.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mdx import model as model_lib


@dataclasses.dataclass(eq=False, kw_only=True)
class Row:
  """A row that is to be decoded; its functions are called on the thread of the batcher.

  Attributes:
    ids: int32 [n], the prompt.
    sampler: the decoding rule; rows whose rules have one `repr` are decoded together.
    number: identity of the draws, see `number`.
    done: is told the sample, or the error.
    on_step: is told of every step; None where nobody watches.
    is_wanted: whether somebody still waits for it.
  """
  ids: np.ndarray
  sampler: Any
  number: int
  done: Callable[[model_lib.Sample | Exception], None]
  on_step: Callable[[model_lib.Step], None] | None = None
  is_wanted: bool = True

  @property
  def settings(self) -> tuple[str, bool]:
    """Equal for rows that one program decodes."""
    return repr(self.sampler), self.on_step is not None


def number(seed: int, index: int) -> int:
  """Number in [0, 2^31) of the row of an index in a request with a seed."""
  digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1


class Batcher:
  """A queue of rows, and the thread that decodes them in the order of the oldest."""

  def __init__(self, model: Any, *, batch_size: int, wait_seconds: float):
    """Starts the thread.

    Args:
      model: a `model.Model`.
      batch_size: most rows that are decoded together.
      wait_seconds: time that the first row waits for others.
    """
    self._model, self._batch_size, self._wait_seconds = model, batch_size, wait_seconds
    self._rows: collections.deque[Row] = collections.deque()
    self._changed, self._is_open = threading.Condition(), True
    self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
    self._thread.start()

  def put(self, rows: Sequence[Row]) -> None:
    """Adds rows; returns at once."""
    with self._changed:
      if not self._is_open:
        raise RuntimeError("the server is stopping; ask again when it runs.")
      self._rows.extend(rows)
      self._changed.notify_all()

  def close(self) -> None:
    """Stops the thread after the batch that it decodes; rows that wait get an error."""
    with self._changed:
      self._is_open = False
      self._changed.notify_all()
    self._thread.join()
    for row in self._rows:
      row.done(RuntimeError("the server stopped before it decoded this row."))

  def _run(self) -> None:
    while rows := self._take():
      self._decode(rows)

  def _take(self) -> list[Row]:
    """The oldest rows of equal settings, as soon as there are enough or time is up; [] at the end.
    """
    with self._changed:
      while self._is_open:
        self._rows = collections.deque(row for row in self._rows if row.is_wanted)
        if not self._rows:
          self._changed.wait()
          continue
        first, end = self._rows[0].settings, time.monotonic() + self._wait_seconds
        alike = lambda first=first: [
            row for row in self._rows if row.settings == first and row.is_wanted]
        while self._is_open and len(alike()) < self._batch_size and (
            left := end - time.monotonic()) > 0:
          self._changed.wait(left)
        rows = alike()[:self._batch_size]
        taken = set(map(id, rows))
        self._rows = collections.deque(row for row in self._rows if id(row) not in taken)
        if rows:  # all may have gone while they waited
          return rows
      return []

  def _decode(self, rows: list[Row]) -> None:
    """Decodes rows, with copies of the last up to a power of two: few sizes are compiled."""
    size = min(1 << (len(rows) - 1).bit_length(), self._batch_size)
    filled = rows + [rows[-1]] * (size - len(rows))
    waiting = dict(enumerate(rows))

    def on_step(step):
      if row := waiting.get(step.row):
        row.on_step(step)

    try:
      for i, sample in self._model.decode(
          [row.ids for row in filled], rows[0].sampler, batch_size=size,
          numbers=[row.number for row in filled],
          on_step=on_step if rows[0].on_step else None):
        if i in waiting:
          waiting.pop(i).done(sample)
    except Exception as error:  # pylint: disable=broad-except  (the thread serves others too)
      for row in waiting.values():
        row.done(error)
