"""Files of records, one field of which is the text, and records given in the config.

Contents: Jsonl, Chat, Parquet, ArrayRecord, Memory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from mdx.data import source
from mdx.data.sources import files
from mdx.utils import readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(files.Files):
  """One JSON object a line.

  Its `field` holds a text or a list of token ids; a list of messages, {"role": ..., "content":
  ...} each (layout "chat"); or a list of two texts (layout "views"), as the first line says. With
  `answer`, `field` holds a prompt and `answer` what is to be predicted (layout "answered").

  Only the offsets of the lines stay in memory. Files below 64 MB are checked line by line when
  they are indexed; in a larger one a line is checked when it is read.
  """

  layout = "text"
  field: str = "text"
  answer: str = ""

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, "layout", "answered" if self.answer else self._layout_of_values())

  def _layout_of_values(self) -> str:
    value = readers.first_value(self.path[0], self.field)
    is_list_of = lambda kind: isinstance(value, list) and value and isinstance(value[0], kind)
    return "chat" if is_list_of(dict) else "views" if is_list_of(str) else "text"

  def _read(self, paths):
    names = (self.field, self.answer) if self.answer else (self.field,)
    convert = _CONVERTERS[self.layout]
    return readers.Concatenated([readers.JsonLines(path, names, convert) for path in paths])


_CONVERTERS = {"text": readers.record, "chat": readers.messages, "views": readers.two_texts,
               "answered": readers.prompt}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(files.Files):
  """One conversation a line of jsonl: `field` holds a list of {"role": ..., "content": ...}."""

  layout = "chat"
  field: str = "messages"

  def _read(self, paths):
    return readers.Concatenated(
        [readers.JsonLines(path, (self.field,), readers.messages) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(files.Files):
  """Parquet files; column `field` holds strings or lists of token ids.

  Random access decodes a whole row group and keeps the last eight, so shuffled reading
  wants row groups of moderate size (some thousand rows).
  """

  layout = "text"
  field: str = "text"

  def _read(self, paths):
    return readers.Concatenated([readers.ParquetRows(path, self.field) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayRecord(files.Files):
  """ArrayRecord files.

  Attributes:
    field: None: a record is UTF-8 text. Otherwise a record is a JSON object whose
      `field` holds the text, or a list of token ids.
  """

  layout = "text"
  field: str | None = None

  def _read(self, paths):
    from array_record.python import array_record_data_source
    where = ", ".join(paths)
    try:
      items = array_record_data_source.ArrayRecordDataSource(list(paths))
      len(items)  # reads the headers
    except Exception as e:  # array_record raises whatever its C++ reader reports
      raise ValueError(f"{where}: not ArrayRecord files ({readers.reason(e)}); write them with "
                       "array_record.") from e
    convert = readers.record
    if self.field:
      convert = functools.partial(readers.json_record, fields=(self.field,))
    return readers.Mapped(items, convert, where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(source.Source):
  """Documents given in the config: strings, or sequences of token ids."""

  layout = "text"
  in_memory = True
  documents: Sequence
  holdout_every: int = 20

  def __post_init__(self):
    if isinstance(self.documents, (str, bytes)) or not isinstance(self.documents, Sequence):
      raise ValueError("memory source: documents must be a list of documents, got "
                       f"{self.documents!r:.60}.")

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    records = tuple(readers.record(document, f"memory source, document {i}")
                    for i, document in enumerate(self.documents))
    return source.hold_out(records, self.holdout_every, split, "memory source")
