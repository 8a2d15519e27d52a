"""Documents: the records of one source as arrays, by way of its layout.

Contents: Documents, ON_ERROR.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from mdx import types
from mdx.data import pack
from mdx.data import source as source_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.utils import readers

ON_ERROR = ("stop", "skip")


class Documents(Sequence):
  """Documents of a source; None for a record that has nothing to learn from.

  With `on_error` "skip" also for one that cannot be read or does not fit. A warning counts these
  at 1, 2, 4, 8, ... of them, in each process that reads.

  Args:
    cfg: the `pipeline.Config`.
    source: of `mdx.data.sources`.
    split: "train" or "validation", or "test" of labelled records.
    tokenizer: makes ids of text.
    layout: makes documents of records.
    form: of the rows, which other sources of a mixture share.
  """

  def __init__(self, cfg: Any, source: source_lib.Source, split: str,
               tokenizer: tokenizer_lib.Tokenizer, layout: types.Layout, form: pack.Form):
    self._records = source.records(split)
    self.where = (f"the {split} split of {source.title} source "
                  f"{', '.join(source.paths(split))}").rstrip()
    self._cfg, self._tokenizer, self._layout, self._form = cfg, tokenizer, layout, form
    self._cache = {} if source.in_memory else None
    self._skipped: set[int] = set()

  def __getstate__(self):
    return {**self.__dict__, "_cache": None if self._cache is None else {}}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> pack.Row | None:
    if self._cache is None:
      return self._read(index)
    if index not in self._cache:
      self._cache[index] = self._read(index)
    return self._cache[index]

  def check(self) -> None:
    """Raises ValueError for a bad one of the first records, or if all of these are empty."""
    is_strict = self._cfg.on_error == "stop"  # otherwise a layout looks at no record, see `_read`
    self._layout.check(self._records if is_strict else [], self._place, self._cfg, self._tokenizer)
    num_checked = min(len(self), pack.NUM_CHECKED)
    num_empty = sum(self[i] is None for i in range(num_checked))
    if num_empty == num_checked:
      bad = f" or bad ({len(self._skipped)} of them)" if self._skipped else ""
      raise ValueError(f"the first {num_checked} records of {self.where} are all empty{bad}; check "
                       "the file and `field`.")

  def _place(self, index: int) -> str:
    return self._records[index].get("where") or f"record {index} of {self.where}"

  def _read(self, index: int) -> pack.Row | None:
    try:
      document = self._row(index)
    except ValueError as e:
      if self._cfg.on_error == "stop":
        raise
      self._skip(index, e)
      return None
    return None if document is None else self._form.complete(document)

  def _row(self, index: int) -> pack.Row | None:
    record = self._records[index]
    try:
      return self._layout.row(record, self._cfg, self._tokenizer)
    except ValueError as e:
      raise ValueError(f"{self._place(index)}: {e}") from e

  def _skip(self, index: int, error: ValueError) -> None:
    self._skipped.add(index)
    num = len(self._skipped)
    if num & (num - 1) == 0:
      warnings.warn(f"data.on_error=skip: {num} bad record(s) skipped until now, the last one: "
                    f"{readers.reason(error)}", stacklevel=2)
