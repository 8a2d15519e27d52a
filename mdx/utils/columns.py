"""Columns of Parquet and Arrow files as random-access sequences of records.

Contents: Rows, COLUMNS (kind -> how its files are opened), ENDINGS, files_of.

Convention: nulls are looked for when a file is opened, where its metadata counts them, so that they
are found before training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mdx.utils import readers
from mdx.utils import streams

_ROW_GROUPS_KEPT = 8
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of a folder that `datasets` has saved


class Column(Protocol):
  """One column of an open file.

  Attributes:
    names: of all columns of the file; the others are there only if this one's is among them.
    num_rows, num_null: of the file; nulls that its metadata counts.
  """
  names: list[str]
  num_rows: int
  num_null: int

  def first_null(self) -> int:
    """Number of the first row that is null."""

  def value(self, index: int) -> Any:
    """The value of a row, of Python's types."""

  def part_of(self, index: int) -> str:
    """The part of the file that is read for a row, for messages."""


class Rows(readers.Records):
  """Records of one column of a file."""

  def __init__(self, kind: str, path: str, field: str, convert: Callable,
               is_checked: bool = True):
    """Opens the file.

    Args:
      kind: of COLUMNS.
      path: of the file.
      field: name of the column.
      convert: value, where -> record.
      is_checked: whether a null that the file knows of is refused.

    Raises:
      ValueError: no such file or column, a damaged file, or a null.
    """
    import pyarrow
    self._made_of = kind, path, field, convert, is_checked
    self._path, self._convert = path, convert
    try:
      streams.check_regular(path)
      self._column: Column = COLUMNS[kind](path, field)
    except (pyarrow.ArrowException, OSError) as e:
      raise ValueError(f"{path}: not {'an' if kind == 'arrow' else 'a'} {kind} file "
                       f"({readers.reason(e)}); is it complete?") from e
    names = self._column.names
    if field not in names:
      raise ValueError(f"{path}: no column {field!r} but {', '.join(names)}. Set `field`.")
    self._length = self._column.num_rows
    if is_checked and self._column.num_null:
      raise ValueError(f"{path}, row {self._column.first_null()}: expected text, got null, as in "
                       f"{self._column.num_null} of {self._length} rows of the column {field!r}; "
                       "take them out, or set data.on_error=skip.")

  def __reduce__(self):
    return type(self), self._made_of

  def _get(self, index):
    try:
      value = self._column.value(index)
    except Exception as e:  # a damaged page: pyarrow raises several kinds
      raise ValueError(f"{self._path}, {self._column.part_of(index)}: cannot be read "
                       f"({readers.reason(e)}); is the file complete?") from e
    return self._convert(value, where=f"{self._path}, row {index}")


class _Parquet:
  """A column of a Parquet file; row groups are decoded on demand, and the last ones kept."""

  def __init__(self, path: str, field: str):
    import pyarrow.parquet
    self._field, self._file = field, pyarrow.parquet.ParquetFile(path)
    metadata = self._file.metadata
    self.names, self.num_rows = self._file.schema_arrow.names, metadata.num_rows
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    self._ends = np.cumsum([group.num_rows for group in groups])
    self._nulls = [self._nulls_of(group) for group in groups]
    self.num_null = sum(self._nulls)
    self._groups: dict[int, Any] = {}
    self._lock = threading.Lock()

  def _nulls_of(self, group: Any) -> int:
    """Nulls of a row group, of a flat column whose metadata counts them; otherwise 0."""
    columns = (group.column(i) for i in range(group.num_columns))
    statistics = next((c.statistics for c in columns if c.path_in_schema == self._field), None)
    return statistics.null_count if statistics and statistics.has_null_count else 0

  def first_null(self) -> int:
    group = next(i for i, num in enumerate(self._nulls) if num)
    return self._read(group).is_null().index(True).as_py() + self._begin(group)

  def value(self, index: int) -> Any:
    group = self._group(index)
    with self._lock:
      if group not in self._groups:
        if len(self._groups) >= _ROW_GROUPS_KEPT:
          self._groups.pop(next(iter(self._groups)))
        self._groups[group] = self._read(group)
      column = self._groups[group]
    return column[index - self._begin(group)].as_py()

  def part_of(self, index: int) -> str:
    return f"row group {self._group(index)}"

  def _group(self, index: int) -> int:
    return int(np.searchsorted(self._ends, index, side="right"))

  def _begin(self, group: int) -> int:
    return int(self._ends[group - 1]) if group else 0

  def _read(self, group: int) -> Any:
    return self._file.read_row_group(group, columns=[self._field]).column(self._field)


class _Arrow:
  """A column of an Arrow file, a stream as `datasets` writes them or a file; memory-mapped."""

  def __init__(self, path: str, field: str):
    import pyarrow
    mapped = pyarrow.memory_map(path)
    try:
      table = pyarrow.ipc.open_file(mapped).read_all()
    except pyarrow.ArrowInvalid:
      mapped.seek(0)
      table = pyarrow.ipc.open_stream(mapped).read_all()
    self.names, self.num_rows, self.num_null = table.column_names, table.num_rows, 0
    if field in self.names:
      self._column = table.column(field)
      self.num_null = self._column.null_count

  def first_null(self) -> int:
    return self._column.is_null().index(True).as_py()

  def value(self, index: int) -> Any:
    return self._column[index].as_py()

  def part_of(self, index: int) -> str:
    return f"row {index}"


COLUMNS: dict[str, Callable[[str, str], Column]] = {"parquet": _Parquet, "arrow": _Arrow}
ENDINGS = tuple(f".{kind}" for kind in COLUMNS)


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
                 for name in names if name.endswith(ENDINGS) and not name.startswith("."))
  if len({os.path.splitext(path)[1] for path in found}) > 1:
    raise ValueError(f"{directory} has Parquet and Arrow files; name those of one kind.")
  if not found:
    raise ValueError(f"{directory} has no file that ends in {' or '.join(ENDINGS)}; correct the "
                     "path.")
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
