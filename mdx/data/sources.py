"""Sources: where documents come from, as random-access sequences of records.

Contents: SOURCES (name -> frozen dataclass), build; Text, Jsonl, Chat, Parquet, ArrayRecord,
Tfds, Memory, Task. A source has `records(split)`, a picklable sequence whose items are
{"text": str}, {"tokens": int32 [n]}, {"messages": [{"role", "content"}]} (see `mdx.data.chat`)
or {"prompt": str, "answer": str}, where a "blank": str that is not empty says that the answer is
the prompt with these filled in; or labelled (see `mdx.data.labelled`). `split` is "train" or
"validation"; labelled sources also have a "test" split.

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mdx import config as config_lib
from mdx import tasks
from mdx.data import files
from mdx.data import labelled
from mdx.data import packaged
from mdx.data import readers

SPLITS = files.SPLITS


def build(cfg: Mapping[str, Any]):
  """Builds a source from {"name": ..., **fields}; ValueError for a missing file.

  A field that is "" or -1 is left at its default, so that one config serves every source.
  """
  fields = config_lib.to_dict(cfg)
  if isinstance(fields, dict):
    fields = {k: v for k, v in fields.items() if k == "name" or not _is_unset(v)}
  return config_lib.build(SOURCES, fields, what="data source")


def _is_unset(value: Any) -> bool:
  return isinstance(value, str) and not value or isinstance(value, int) and value == -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(files.Files):
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
                 for document in readers.cut(readers.read_text(path), self.document_chars))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(files.Files):
  """One JSON object a line; `field` holds the text, or a list of token ids.

  Only the offsets of the lines stay in memory. Files below 64 MB are checked line by
  line when they are indexed; in a larger one a line is checked when it is read.
  """

  field: str = "text"

  def _read(self, paths):
    return readers.Concatenated([readers.JsonLines(path, self.field) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(files.Files):
  """One conversation a line of jsonl: `field` holds a list of {"role": ..., "content": ...}."""

  has_answers = True
  field: str = "messages"

  def _read(self, paths):
    return readers.Concatenated(
        [readers.JsonLines(path, self.field, readers.messages) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(files.Files):
  """Parquet files; column `field` holds strings or lists of token ids.

  Random access decodes a whole row group and keeps the last eight, so shuffled reading
  wants row groups of moderate size (some thousand rows).
  """

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
      convert = functools.partial(readers.json_record, field=self.field)
    return readers.Mapped(items, convert, where)


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

  in_memory = has_answers = False
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
    native = self.validation_split if files.is_validation(split) else self.train_split
    found, items, where = files.open_tfds(self.data_dir, self.builder, native)
    if self.field not in found.info.features:
      raise ValueError(f"{where}: no feature {self.field!r}; it has "
                       f"{', '.join(sorted(found.info.features))}. Set `field` of the source.")
    return readers.Mapped(items, readers.record, where, key=self.field)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Documents given in the config: strings, or sequences of token ids."""

  in_memory = True
  has_answers = False
  documents: Sequence
  holdout_every: int = 20

  def __post_init__(self):
    if isinstance(self.documents, (str, bytes)):
      raise ValueError("memory source: documents is one text; give a list of documents.")

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    records = tuple(readers.record(document, f"memory source, document {i}")
                    for i, document in enumerate(self.documents))
    return files.hold_out(records, self.holdout_every, split, "memory source")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Prompts of a task with a reference answer each, for supervised training.

  Attributes:
    task: `name` and fields of a task of `mdx.tasks`.
  """

  in_memory = has_answers = True
  path = ()
  task: Mapping[str, Any]

  def __post_init__(self):
    if not hasattr(tasks.build(self.task), "training_pairs"):
      raise ValueError(f"task {self.task['name']!r} has no answers to train on.")

  def records(self, split: str) -> Sequence:
    """Returns {"prompt", "answer", "blank"} of "train" or "validation"."""
    files.is_validation(split)
    task = tasks.build(self.task)
    return tuple({"prompt": prompt, "answer": answer, "blank": tasks.blank_of(task)}
                 for prompt, answer in task.training_pairs(split))


SOURCES = {"text": Text, "jsonl": Jsonl, "chat": Chat, "parquet": Parquet,
           "array_record": ArrayRecord, "tfds": Tfds, "memory": Memory, "task": Task,
           "table": labelled.Table, "conll": labelled.Conll, "conllu": labelled.Conllu,
           "tfds_labelled": labelled.TfdsLabelled, "packaged": packaged.Packaged}
