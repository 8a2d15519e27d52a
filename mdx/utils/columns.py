"""Columns of Parquet and Arrow files as random-access sequences of records.

Contents: ParquetRows, ArrowRows, ROWS (ending of a file -> which), files_of.

Convention: `convert` makes a record of a value. Nulls are looked for when a file is opened where
its metadata counts them, so that they are found before training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mdx.utils import readers
from mdx.utils import streams

_ROW_GROUPS_KEPT = 8
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of a folder that `datasets` has saved


class _Rows(readers.Records):
  """Base: rows of one column of a file, opened by `_open`, which returns its number of rows."""

  def __init__(self, path: str, field: str, convert: Callable, is_checked: bool = True):
    """Opens the file.

    Args:
      path: of the file.
      field: name of the column.
      convert: value, where -> record.
      is_checked: whether a null that the file knows of is refused.

    Raises:
      ValueError: no such file or column, a damaged file, or a null.
    """
    import pyarrow
    self._made_of = path, field, convert, is_checked
    self._path, self._field, self._convert = path, field, convert
    try:
      streams.check_regular(path)
      names = self._open(path)
    except (pyarrow.ArrowException, OSError) as e:
      raise ValueError(f"{path}: not a{self.kind} file ({readers.reason(e)}); is it "
                       "complete?") from e
    if field not in names:
      raise ValueError(f"{path}: no column {field!r} but {', '.join(names)}. Set `field`.")
    if is_checked and (num_null := self._num_null()):
      raise ValueError(f"{path}, row {self._first_null()}: expected text, got null, as in "
                       f"{num_null} of {self._length} rows of the column {field!r}; take them out, or set "
                       "data.on_error=skip.")

  def __reduce__(self):
    return type(self), self._made_of

  def _get(self, index):
    return self._convert(self._value(index), where=f"{self._path}, row {index}")


class ParquetRows(_Rows):
  """One column of one parquet file; row groups are decoded on demand."""

  kind = " parquet"

  def _open(self, path):
    import pyarrow.parquet
    self._file = pyarrow.parquet.ParquetFile(path)
    metadata = self._file.metadata
    self._length = metadata.num_rows
    self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
    self._groups, self._lock = {}, threading.Lock()
    return self._file.schema_arrow.names

  def _nulls(self) -> list[int]:
    """Nulls of each row group, of a flat column whose metadata count them."""
    found = []
    for i in range(self._file.metadata.num_row_groups):
      group = self._file.metadata.row_group(i)
      columns = [group.column(j) for j in range(group.num_columns)]
      statistics = next((c.statistics for c in columns if c.path_in_schema == self._field), None)
      found.append(statistics.null_count if statistics and statistics.has_null_count else 0)
    return found

  def _num_null(self):
    return sum(self._nulls())

  def _first_null(self):
    group = next(i for i, num in enumerate(self._nulls()) if num)
    is_null = self._read_group(group).is_null().to_pylist()
    return is_null.index(True) + (int(self._ends[group - 1]) if group else 0)

  def _value(self, index):
    group = int(np.searchsorted(self._ends, index, side="right"))
    with self._lock:
      if group not in self._groups:
        if len(self._groups) >= _ROW_GROUPS_KEPT:
          self._groups.pop(next(iter(self._groups)))
        self._groups[group] = self._read_group(group)
      column = self._groups[group]
    return column[index - (int(self._ends[group - 1]) if group else 0)].as_py()

  def _read_group(self, group):
    try:
      return self._file.read_row_group(group, columns=[self._field]).column(self._field)
    except Exception as e:  # a damaged page: pyarrow raises several kinds
      raise ValueError(f"{self._path}, row group {group}: cannot be read ({readers.reason(e)}); is "
                       "the file complete?") from e


class ArrowRows(_Rows):
  """One column of one Arrow file, a stream as `datasets` writes them or a file; memory-mapped."""

  kind = "n arrow"

  def _open(self, path):
    import pyarrow
    mapped = pyarrow.memory_map(path)
    try:
      table = pyarrow.ipc.open_file(mapped).read_all()
    except pyarrow.ArrowInvalid:
      mapped.seek(0)
      table = pyarrow.ipc.open_stream(mapped).read_all()
    self._length = table.num_rows
    self._column = table.column(self._field) if self._field in table.column_names else None
    return table.column_names

  def _num_null(self):
    return self._column.null_count

  def _first_null(self):
    return self._column.is_null().index(True).as_py()

  def _value(self, index):
    return self._column[index].as_py()


ROWS = {".parquet": ParquetRows, ".arrow": ArrowRows}


def files_of(directory: str) -> list[str]:
  """The Parquet files in a directory and below it, or the Arrow files that `datasets` saved in it.

  Raises:
    ValueError: none, a dataset of several splits, or one with an order of its own.
  """
  if os.path.isfile(os.path.join(directory, _SPLITS)):
    names = sorted(x.name for x in os.scandir(directory) if x.is_dir())
    raise ValueError(f"{directory} is a dataset of the splits {', '.join(names)}; name one, such "
                     f"as {os.path.join(directory, names[0] if names else 'train')}.")
  if os.path.isfile(state := os.path.join(directory, _STATE)):
    return _saved(directory, readers.read_json(state))
  found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(directory)
                 for name in names if name.endswith(tuple(ROWS)) and not name.startswith("."))
  if len({os.path.splitext(path)[1] for path in found}) > 1:
    raise ValueError(f"{directory} has Parquet and Arrow files; name those of one kind.")
  if not found:
    raise ValueError(f"{directory} has no file that ends in {' or '.join(ROWS)}; correct the path.")
  return found


def _saved(directory: str, state: Any) -> list[str]:
  """Files of a dataset by its state, in their order."""
  try:
    if state.get("_indices_data_files") or state.get("_indices_files"):
      raise ValueError(f"{directory} is a selection of a dataset; save it after "
                       "dataset.flatten_indices().")
    names = [entry["filename"] for entry in state["_data_files"]]
    is_usable = bool(names) and all(os.path.basename(n) == n and n not in ("", ".", "..")
                                    for n in names)
  except (KeyError, TypeError, AttributeError):
    is_usable = False
  if not is_usable:
    raise ValueError(f"{os.path.join(directory, _STATE)}: expected the state of a saved dataset, "
                     "whose _data_files are files beside it; save it again.")
  return [os.path.join(directory, name) for name in names]
