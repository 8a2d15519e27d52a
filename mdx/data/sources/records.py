"""Files of records, one field of which is the text, and records given in the config.

Contents: Jsonl, Chat, Preferences, Parquet, Arrow, ArrayRecord, Memory, layout_of_values,
convert_column, NUM_LOOKED_AT.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from mdx.data import source
from mdx.data.sources import files
from mdx.utils import columns
from mdx.utils import readers


def _column_messages(value: Any, where: str) -> dict[str, Any]:
  """Messages of a column, in which a key that a message lacks is null."""
  if isinstance(value, list):
    value = [{k: v for k, v in m.items() if v is not None or k == "content"}
             if isinstance(m, dict) else m for m in value]
  return readers.messages(value, where)


def layout_of_values(values: Sequence) -> str:
  """The layout that the first value of a column that is no null asks for."""
  return _layout_of(next((value for value in values if value is not None), None))


def convert_column(layout: str) -> Callable[..., dict[str, Any]]:
  """The function that makes records of this layout of the values of columns."""
  return _column_messages if layout == "chat" else _CONVERTERS[layout]


def _layout_of(value: Any) -> str:
  """The layout that a value of a field asks for."""
  is_list_of = lambda kind: isinstance(value, list) and value and isinstance(value[0], kind)
  texts = "triplets" if is_list_of(str) and len(value) == 3 else "views"
  return "chat" if is_list_of(dict) else texts if is_list_of(str) else "text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(files.Files):
  """One JSON object a line.

  Its `field` holds a text or a list of token ids; a list of messages, {"role": ..., "content":
  ...} each (layout "chat"); a list of two texts (layout "views"), or of three, a text with one like
  it and one unlike it (layout "triplets"), as the first line says. With `answer`, `field` holds a
  prompt and `answer` what is to be predicted (layout "answered").

  Only the offsets of the lines stay in memory. Files below 64 MB are checked line by line when
  they are indexed (`is_checked`); in a larger one a line is checked when it is read.
  """

  layout = "text"
  field: str = "text"
  answer: str = ""

  def __post_init__(self):
    super().__post_init__()
    layout = "answered" if self.answer else _layout_of(
        readers.first_value(self.path[0], self.field))
    object.__setattr__(self, "layout", layout)

  def _read(self, paths):
    names = (self.field, self.answer) if self.answer else (self.field,)
    convert = _CONVERTERS[self.layout]
    return readers.Concatenated(
        [readers.JsonLines(path, names, convert, self.is_checked) for path in paths])


NUM_LOOKED_AT = 100  # values, for the first that is no null
_CONVERTERS = {"text": readers.record, "chat": readers.messages, "views": readers.two_texts,
               "triplets": readers.three_texts, "answered": readers.prompt}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(files.Files):
  """Conversations: `field` holds a list of {"role": ..., "content": ...}.

  One a line of jsonl, or a row of Parquet and Arrow files, or of a directory of them.
  """

  layout = "chat"
  files_of = staticmethod(columns.files_of)
  field: str = "messages"

  def _read(self, paths):
    return readers.Concatenated([self._rows(path) for path in paths])

  def _rows(self, path: str) -> Sequence:
    ending = os.path.splitext(path)[1]
    if ending in columns.ENDINGS:
      return columns.Rows(ending[1:], path, self.field, _column_messages, self.is_checked)
    return readers.JsonLines(path, (self.field,), readers.messages, self.is_checked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(files.Files):
  """Pairs of answers, one JSON object a line: `prompt`, `chosen` and `rejected`.

  The prompt is a text, or a list of messages as in a conversation.
  """

  layout = "preferences"

  def _read(self, paths):
    return readers.Concatenated([
        readers.JsonLines(path, ("prompt", "chosen", "rejected"), readers.preference,
                          self.is_checked) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(files.Files):
  """Parquet files, or directories of them.

  Column `field` holds strings, lists of token ids, conversations (layout "chat") or pairs of texts
  (layout "views"), as the first row says. A null is found when a file is opened, if its metadata
  count them, as most do.

  Random access decodes a whole row group and keeps the last eight, so shuffled reading
  wants row groups of moderate size (some thousand rows).
  """

  layout = "text"
  files_of = staticmethod(columns.files_of)
  kind_of_file = "parquet"
  field: str = "text"

  def __post_init__(self):
    super().__post_init__()
    others = tuple(x for x in columns.ENDINGS if x != f".{self.kind_of_file}")
    if wrong := next((path for path in self.path if path.endswith(others)), None):
      raise ValueError(f"{wrong}: a source {self.kind_of_file} reads .{self.kind_of_file} files; "
                       "set data.source.name to the other.")
    object.__setattr__(self, "layout", self._layout_of_values())

  def _layout_of_values(self) -> str:
    try:
      rows = columns.Rows(self.kind_of_file, self.path[0], self.field, lambda value, where: value,
                          is_checked=False)
      return layout_of_values([rows[i] for i in range(min(len(rows), NUM_LOOKED_AT))])
    except ValueError:
      return "text"  # the reader says what is wrong

  def _read(self, paths):
    convert = convert_column(self.layout)
    return readers.Concatenated([
        columns.Rows(self.kind_of_file, path, self.field, convert, self.is_checked)
        for path in paths])


class Arrow(Parquet):
  """Arrow files, or directories that `datasets` has written with save_to_disk; memory-mapped.

  Otherwise as Parquet.
  """

  kind_of_file = "arrow"


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
  is_checked: bool = True

  def __post_init__(self):
    if isinstance(self.documents, (str, bytes)) or not isinstance(self.documents, Sequence):
      raise ValueError("memory source: documents must be a list of documents, got "
                       f"{self.documents!r:.60}.")

  def unchecked(self) -> source.Source:
    """The source whose documents are read one by one."""
    return dataclasses.replace(self, is_checked=False)

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    if not self.is_checked:
      records = readers.Mapped(self.documents, readers.record, "memory source")
      return source.hold_out(records, self.holdout_every, split, "memory source")
    records = tuple(readers.record(document, f"memory source, document {i}")
                    for i, document in enumerate(self.documents))
    return source.hold_out(records, self.holdout_every, split, "memory source")
