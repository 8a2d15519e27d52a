"""Sources: where documents come from, as random-access sequences of records.

Contents: SOURCES (name -> frozen dataclass), build; Text, Jsonl, Parquet, ArrayRecord,
Tfds, Memory. A source has `records(split)`, a picklable sequence whose items are
{"text": str} or {"tokens": int32 [n]}; `split` is "train" or "validation".

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import gzip
import json
import lzma
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mdx import assets
from mdx import config as config_lib

SPLITS = ("train", "validation")
_CHECKED_JSONL_BYTES = 64 * 2**20
_ROW_GROUPS_KEPT = 8


def build(cfg: Mapping[str, Any]):
  """Builds a source from {"name": ..., **fields}; ValueError for a missing file."""
  return config_lib.build(SOURCES, config_lib.to_dict(cfg), what="data source")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Files:
  """Files with a hold-out; subclasses have `_read(paths)`, all records of the files.

  Attributes:
    path: a file, "asset:NAME", a glob, or several of them, read one after another.
    validation_path: files of the validation split; None holds out of `path`.
    holdout_every: one record in this many is validation; 0 holds out none.
  """

  in_memory = False  # True if records stay in memory, so that their tokens may too
  path: str | Sequence[str]
  validation_path: str | Sequence[str] | None = None
  holdout_every: int = 20

  def __post_init__(self):
    object.__setattr__(self, "path", _find(self.path))
    if self.validation_path is not None:
      object.__setattr__(self, "validation_path", _find(self.validation_path))

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    is_validation = _is_validation(split)
    if self.validation_path is None:
      return _hold_out(self._read(self.path), self.holdout_every, split, ", ".join(self.path))
    paths = self.validation_path if is_validation else self.path
    return _hold_out(self._read(paths), 0, "train", ", ".join(paths))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(_Files):
  """Plain UTF-8 text (or .xz, .gz), cut into documents at line ends.

  The documents joined are the file, character for character. A document has at most
  `document_chars` characters unless a single line is longer. Read into memory; for
  more than a few hundred megabytes use jsonl, parquet or array_record.
  """

  in_memory = True
  document_chars: int = 4000

  def _read(self, paths):
    if self.document_chars < 1:
      raise ValueError(f"document_chars must be positive, got {self.document_chars}.")
    return tuple({"text": document} for path in paths
                 for document in _cut(_read_text(path), self.document_chars))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(_Files):
  """One JSON object a line; `field` holds the text, or a list of token ids.

  Only the offsets of the lines stay in memory. Files below 64 MB are checked line by
  line when they are indexed; in a larger one a line is checked when it is read.
  """

  field: str = "text"

  def _read(self, paths):
    return _Concatenated([_JsonLines(path, self.field) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(_Files):
  """Parquet files; column `field` holds strings or lists of token ids.

  Random access decodes a whole row group and keeps the last eight, so shuffled reading
  wants row groups of moderate size (some thousand rows).
  """

  field: str = "text"

  def _read(self, paths):
    return _Concatenated([_ParquetRows(path, self.field) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayRecord(_Files):
  """ArrayRecord files.

  Attributes:
    field: None: a record is UTF-8 text. Otherwise a record is a JSON object whose
      `field` holds the text, or a list of token ids.
  """

  field: str | None = None

  def _read(self, paths):
    from array_record.python import array_record_data_source
    where = ", ".join(paths)
    try:
      items = array_record_data_source.ArrayRecordDataSource(list(paths))
      len(items)  # reads the headers
    except Exception as e:  # array_record raises whatever its C++ reader reports
      raise ValueError(f"{where}: not ArrayRecord files ({e}).") from e
    convert = functools.partial(_json_record, field=self.field) if self.field else _record
    return _Mapped(items, convert, where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds:
  """A prepared TensorFlow Dataset in array_record files; needs no TensorFlow.

  Attributes:
    data_dir: with `builder`, the directory of all datasets; without, the directory of
      one prepared dataset and version (it holds dataset_info.json).
    builder: name such as "lm1b", or None.
    field: feature with the text, or with token ids.
    train_split, validation_split: split names or slices, "train[:95%]".
  """

  in_memory = False
  data_dir: str
  builder: str | None = None
  field: str = "text"
  train_split: str = "train"
  validation_split: str = "validation"

  def __post_init__(self):
    if not os.path.isdir(self.data_dir):
      raise ValueError(f"tfds data_dir {self.data_dir!r} is not a directory; prepare the "
                       "dataset there with file_format='array_record'.")

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    native = self.validation_split if _is_validation(split) else self.train_split
    where = f"tfds {self.builder or self.data_dir}, split {native!r}"
    import tensorflow_datasets as tfds
    try:
      found = (tfds.builder(self.builder, data_dir=self.data_dir) if self.builder
               else tfds.builder_from_directory(self.data_dir))
      items = found.as_data_source(native)
    except Exception as e:  # tfds raises many kinds, from import to file errors
      raise ValueError(f"{where}: cannot be opened ({str(e) or type(e).__name__:.300}); "
                       "prepare it with file_format='array_record' and check the split.") from e
    if self.field not in found.info.features:
      raise ValueError(f"{where}: no feature {self.field!r}; it has "
                       f"{', '.join(found.info.features)}. Set `field` of the source.")
    return _Mapped(items, _record, where, key=self.field)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Documents given in the config: strings, or sequences of token ids."""

  in_memory = True
  documents: Sequence
  holdout_every: int = 20

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    records = tuple(_record(document, f"memory source, document {i}")
                    for i, document in enumerate(self.documents))
    return _hold_out(records, self.holdout_every, split, "memory source")


SOURCES = {"text": Text, "jsonl": Jsonl, "parquet": Parquet, "array_record": ArrayRecord,
           "tfds": Tfds, "memory": Memory}


def _is_validation(split: str) -> bool:
  if split not in SPLITS:
    raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
  return split == "validation"


class _Records(Sequence):
  """Base of the sequences here: `_length` records, read by `_get(index)`."""

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._length:
      raise IndexError(index)
    return self._get(index)


class _Subset(_Records):
  """The train or the validation part of `records` under the hold-out rule."""

  def __init__(self, records: Sequence, holdout_every: int, split: str):
    self._records, self._every, self._is_validation = records, holdout_every, _is_validation(split)
    held_out = len(records) // holdout_every
    self._length = held_out if self._is_validation else len(records) - held_out

  def _get(self, index):
    if self._is_validation:
      return self._records[(index + 1) * self._every - 1]
    return self._records[index + index // (self._every - 1)]


def _hold_out(records: Sequence, holdout_every: int, split: str, where: str) -> Sequence:
  """Returns one split of `records`; holdout_every 0 means all of them are train."""
  if holdout_every < 0 or holdout_every == 1:
    raise ValueError(f"holdout_every must be 0 (no hold-out) or at least 2, got "
                     f"{holdout_every}; 20 holds out one record in 20.")
  if _is_validation(split) and holdout_every == 0:
    raise ValueError(f"{where}: there is no validation split because holdout_every is 0; "
                     "set holdout_every=20, or name a validation_path if it reads files.")
  subset = _Subset(records, holdout_every, split) if holdout_every else records
  if not len(subset):
    raise ValueError(f"{where}: the {split} split is empty ({len(records)} records, "
                     f"holdout_every={holdout_every}); give more records or hold out more often.")
  return subset


def _find(paths: str | Sequence[str]) -> tuple[str, ...]:
  """Resolves assets and globs; raises ValueError for a missing file."""
  found = []
  for path in [paths] if isinstance(paths, str) else paths or [""]:
    path = assets.resolve(path)
    matches = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path)))
    if not matches:
      raise ValueError(f"no data file {path!r} (working directory {os.getcwd()}); correct the "
                       "path, or use asset:NAME with one of " + ", ".join(assets.names()) + ".")
    found += matches
  return tuple(found)


def _record(value: Any, where: str) -> dict[str, Any]:
  """Makes {"text": str} or {"tokens": int32 [n]} of a raw value."""
  if isinstance(value, bytes):
    try:
      return {"text": value.decode("utf-8")}
    except UnicodeDecodeError as e:
      raise ValueError(f"{where}: not UTF-8 text ({e.reason}); re-encode it, or set `field` "
                       "if the records are JSON.") from e
  if isinstance(value, str):
    return {"text": value}
  if isinstance(value, (Sequence, np.ndarray)):
    try:
      tokens = np.asarray(value)
    except ValueError:  # ragged
      tokens = np.asarray(None)
    if tokens.ndim == 1 and (not tokens.size or tokens.dtype.kind in "iu"):
      if tokens.size and (tokens.min() < 0 or tokens.max() >= 2**31):
        raise ValueError(f"{where}: token ids must be in [0, 2**31), got "
                         f"{tokens.min()} to {tokens.max()}.")
      return {"tokens": tokens.astype(np.int32)}
  raise ValueError(f"{where}: expected text or a flat list of token ids, got {value!r:.60}.")


def _json_record(line: bytes, field: str, where: str) -> dict[str, Any]:
  try:
    item = json.loads(line)
  except ValueError as e:
    raise ValueError(f"{where}: not JSON ({e}): {line!r:.60}. Write one object a line, such "
                     f"as {{\"{field}\": ...}}, without blank lines.") from e
  if not isinstance(item, dict) or field not in item:
    found = ", ".join(item) if isinstance(item, dict) else f"no fields, it is {item!r:.40}"
    raise ValueError(f"{where}: no field {field!r} but {found}. Set `field` of the source.")
  return _record(item[field], where)


def _read_text(path: str) -> str:
  opener = {".xz": lzma.open, ".gz": gzip.open}.get(os.path.splitext(path)[1], open)
  try:
    with opener(path, "rb") as f:
      data = f.read()
    return data.decode("utf-8")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise ValueError(f"{path}, line {line}: not UTF-8 text ({e.reason}); re-encode the file, "
                     "for instance with iconv.") from e
  except (OSError, EOFError, lzma.LZMAError) as e:
    raise ValueError(f"{path}: cannot be read ({e}); is the file complete?") from e


def _cut(text: str, document_chars: int) -> list[str]:
  """Cuts text at line ends into pieces of at most document_chars, if lines allow."""
  pieces, start, end = [], 0, 0
  while end < len(text):
    line_end = text.find("\n", end) + 1 or len(text)
    if line_end - start > document_chars and end > start:
      pieces.append(text[start:end])
      start = end
    end = line_end
  return pieces + [text[start:]] if start < len(text) else pieces


class _Concatenated(_Records):
  """Several sequences, one after another."""

  def __init__(self, parts: Sequence[Sequence]):
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])
    self._length = int(self._ends[-1])

  def _get(self, index):
    part = int(np.searchsorted(self._ends, index, side="right"))
    return self._parts[part][index - int(self._ends[part - 1]) if part else index]


class _JsonLines(_Records):
  """The lines of one jsonl file, by offset."""

  def __init__(self, path: str, field: str):
    if path.endswith((".gz", ".xz")):
      raise ValueError(f"{path}: a compressed jsonl file has no random access; unpack it.")
    self._path, self._field = path, field
    is_checked = os.path.getsize(path) < _CHECKED_JSONL_BYTES
    ends = [0]
    with open(path, "rb") as f:
      for number, line in enumerate(f, 1):
        if is_checked or not line.strip():
          _json_record(line, field, f"{path}, line {number}")
        ends.append(ends[-1] + len(line))
    self._starts = np.asarray(ends[:-1], np.int64)
    self._length = len(self._starts)

  def _get(self, index):
    with open(self._path, "rb") as f:
      f.seek(int(self._starts[index]))
      return _json_record(f.readline(), self._field, f"{self._path}, line {index + 1}")


class _ParquetRows(_Records):
  """One column of one parquet file; row groups are decoded on demand."""

  def __init__(self, path: str, field: str):
    import pyarrow.parquet
    self._path, self._field = path, field
    try:
      self._file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as e:
      raise ValueError(f"{path}: not a parquet file ({e}).") from e
    if field not in (columns := self._file.schema_arrow.names):
      raise ValueError(f"{path}: no column {field!r} but {', '.join(columns)}. Set `field`.")
    metadata = self._file.metadata
    self._length = metadata.num_rows
    self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
    self._groups, self._lock = {}, threading.Lock()

  def __reduce__(self):
    return type(self), (self._path, self._field)

  def _get(self, index):
    group = int(np.searchsorted(self._ends, index, side="right"))
    with self._lock:
      if group not in self._groups:
        if len(self._groups) >= _ROW_GROUPS_KEPT:
          self._groups.pop(next(iter(self._groups)))
        table = self._file.read_row_group(group, columns=[self._field])
        self._groups[group] = table.column(self._field)
      column = self._groups[group]
    value = column[index - (int(self._ends[group - 1]) if group else 0)].as_py()
    return _record(value, f"{self._path}, row {index}")


class _Mapped(_Records):
  """`convert(item or item[key], where=...)` of the items of another sequence."""

  def __init__(self, items: Sequence, convert: Callable, where: str, key: str | None = None):
    self._length = len(items)
    self._items, self._convert, self._where, self._key = items, convert, where, key

  def _get(self, index):
    item = self._items[index]
    item = item if self._key is None else item[self._key]
    return self._convert(item, where=f"{self._where}, record {index}")
