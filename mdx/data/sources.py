"""Sources: where documents come from, as random-access sequences of records.

Contents: SOURCES (name -> frozen dataclass), build; Text, Jsonl, Chat, Parquet, ArrayRecord,
Tfds, Memory, Task, Structure; the grammar is in `mdx.data.grammar`. A source has
`records(split)`, a picklable sequence whose items are {"text": str}, {"tokens": int32 [n]},
{"messages": [{"role", "content"}]} (see `mdx.data.chat`), {"parts": [premise, candidate, ...],
"labels": [bool, ...]} (see `mdx.data.pairs`; a part is a text or ids) or
{"prompt": str, "answer": str}, where a "blank": str that is not empty says that the answer is the
prompt with these filled in; a text or tokens may have a "label": int, for probes; `split` is
"train" or "validation". `documents(split)`, where a source has it, gives documents as lists of
paragraphs, which are lists of sentences.

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import assets
from mdx import config as config_lib
from mdx import tasks
from mdx.data import grammar
from mdx.data import pairs
from mdx.data import readers



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
class _Files:
  """Files with a hold-out; subclasses have `_read(paths)`, all records of the files.

  Attributes:
    path: a file, "asset:NAME", a glob, or several of them, read one after another.
    validation_path: files of the validation split; None holds out of `path`.
    holdout_every: one record in this many is validation; 0 holds out none.
  """

  in_memory = False  # True if records stay in memory, so that their tokens may too
  has_answers = False  # True if only answers are targets
  path: str | Sequence[str]
  validation_path: str | Sequence[str] | None = None
  holdout_every: int = 20

  def __post_init__(self):
    object.__setattr__(self, "path", _find(self.path))
    if self.validation_path is not None:
      object.__setattr__(self, "validation_path", _find(self.validation_path))
      if shared := sorted(set(self.path) & set(self.validation_path)):
        raise ValueError(f"{shared[0]} is in both path and validation_path, so the model would "
                         "train on it; take it out of path.")

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    is_validation = readers.is_validation(split)
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

  With `section_marks` a new document begins at the first occurrence of each of these strings, and
  the label of a document is the number of the last one before it.
  """

  in_memory = True
  document_chars: int = 4000
  section_marks: Sequence[str] = ()

  def _read(self, paths):
    if self.document_chars < 1:
      raise ValueError(f"document_chars must be positive, got {self.document_chars}.")
    return tuple({"text": document, **label} for path in paths
                 for text, label in self._sections(readers.read_text(path))
                 for document in readers.cut(text, self.document_chars))

  def _sections(self, text):
    """The text in sections that begin with the marks, each with its label."""
    if not self.section_marks:
      return [(text, {})]
    firsts = [text.find(mark) for mark in self.section_marks]
    if min(firsts) < 0 or sorted(firsts) != firsts:
      raise ValueError("section_marks must all occur in the text, in this order; look for "
                       f"{self.section_marks[firsts.index(min(firsts))]!r}.")
    cuts = [*firsts, len(text)]
    found = [(text[a:b], {"label": i}) for i, (a, b) in enumerate(zip(cuts, cuts[1:]))]
    return ([(text[:firsts[0]], {"label": 0})] if firsts[0] else []) + found

  def documents(self, split: str) -> list[pairs.Document]:
    """Lines are paragraphs."""
    return [[found for line in record["text"].splitlines()
             if (found := pairs.sentences_of(line))] for record in self.records(split)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(_Files):
  """One JSON object a line; `field` holds the text, or a list of token ids.

  Only the offsets of the lines stay in memory. Files below 64 MB are checked line by
  line when they are indexed; in a larger one a line is checked when it is read.
  """

  field: str = "text"

  def _read(self, paths):
    return readers.Concatenated([readers.JsonLines(path, self.field) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(_Files):
  """One conversation a line of jsonl: `field` holds a list of {"role": ..., "content": ...}."""

  has_answers = True
  field: str = "messages"

  def _read(self, paths):
    return readers.Concatenated(
        [readers.JsonLines(path, self.field, readers.messages) for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(_Files):
  """Parquet files; column `field` holds strings or lists of token ids.

  Random access decodes a whole row group and keeps the last eight, so shuffled reading
  wants row groups of moderate size (some thousand rows).
  """

  field: str = "text"

  def _read(self, paths):
    return readers.Concatenated([readers.ParquetRows(path, self.field) for path in paths])


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
    native = self.validation_split if readers.is_validation(split) else self.train_split
    where = f"tfds {self.builder or self.data_dir}, split {native!r}"
    import tensorflow_datasets as tfds
    try:
      found = (tfds.builder(self.builder, data_dir=self.data_dir) if self.builder
               else tfds.builder_from_directory(self.data_dir))
      items = found.as_data_source(native)
    except Exception as e:  # tfds raises many kinds, from import to file errors
      raise ValueError(f"{where}: cannot be opened ({readers.reason(e)}); "
                       "prepare it with file_format='array_record' and check the split.") from e
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
    return _hold_out(records, self.holdout_every, split, "memory source")


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
    readers.is_validation(split)
    task = tasks.build(self.task)
    return tuple({"prompt": prompt, "answer": answer, "blank": tasks.blank_of(task)}
                 for prompt, answer in task.training_pairs(split))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure:
  """Premises with candidates from the documents of another source; see `mdx.data.pairs`.

  Attributes:
    documents: `name` and fields of a source that has documents.
    task: "ssp", "sp" or "psd".
    size, validation_size: rows of the splits, which are drawn when they are read.
    seed: of the draws.
    num_candidates, right_min, right_max, hard_rate, premise_sentences, candidate_sentences: as
      `pairs.Pairs` takes them.
  """

  in_memory = False
  has_answers = has_parts = True
  path = ()
  documents: Mapping[str, Any]
  task: str = "ssp"
  size: int = 100_000
  validation_size: int = 1000
  seed: int = 0
  num_candidates: int = 1
  right_min: int = 1
  right_max: int = 2
  hard_rate: float = 0.5
  premise_sentences: int = 1
  candidate_sentences: int = 2

  def __post_init__(self):
    if self.task not in pairs.TASKS:
      raise ValueError(f"structure source: task is {self.task!r}; choose from "
                       f"{', '.join(pairs.TASKS)}.")
    for name in ("size", "validation_size", "num_candidates", "premise_sentences",
                 "candidate_sentences"):
      if getattr(self, name) < 1:
        raise ValueError(f"structure source: {name} must be positive, got {getattr(self, name)}.")
    if not 0 <= self.hard_rate <= 1:
      raise ValueError(f"structure source: hard_rate must lie in [0, 1], got {self.hard_rate}.")
    if self.num_candidates > 1 and not (
        0 <= self.right_min <= self.right_max <= self.num_candidates):
      raise ValueError("structure source: right_min and right_max must be ordered numbers of "
                       f"candidates, got {self.right_min} and {self.right_max} of "
                       f"{self.num_candidates}.")
    if not callable(getattr(build(self.documents), "documents", None)):
      raise ValueError(f"structure source: source {self.documents['name']!r} has no paragraphs; "
                       "use text or grammar.")

  def records(self, split: str) -> Sequence:
    """Returns {"parts", "labels"} of "train" or "validation"."""
    is_validation = readers.is_validation(split)
    drawn = pairs.Pairs(
        build(self.documents).documents(split), self.task,
        self.validation_size if is_validation else self.size, (self.seed, int(is_validation)),
        self.num_candidates, (self.right_min, self.right_max), self.hard_rate,
        self.premise_sentences, self.candidate_sentences)
    return readers.Mapped(drawn, _parts_record, "structure source")

  def questions(self, split: str, number: int, *, num_words: int = 3,
                num_candidates: int = 5) -> list[dict[str, Any]]:
    """Answer selection: the rarest words of a sentence, and sentences, one of them its neighbour.

    Returns:
      {"parts": [question, candidate, ...], "labels"}: one candidate is another span of the
      sentence's paragraph, the others are wrong ones as in training.
    """
    documents = build(self.documents).documents(split)
    seed = self.seed, 2 + int(readers.is_validation(split))
    drawn = pairs.Pairs(documents, "ssp", number, seed, num_candidates, (1, 1), self.hard_rate)
    counts = pairs.word_counts(documents)
    rows = []
    for row in drawn:
      words = pairs.rarest(row.parts[0], counts, num_words)
      rows.append(_parts_record(row._replace(parts=[[words], *row.parts[1:]])))
    return rows


def _parts_record(row: pairs.Row, where: str = "") -> dict[str, Any]:
  """Sentences joined: texts by a space, ids end to end."""
  del where
  join = lambda part: " ".join(part) if isinstance(part[0], str) else np.concatenate(part)
  return {"parts": [join(part) for part in row.parts], "labels": row.labels}


SOURCES = {"text": Text, "jsonl": Jsonl, "chat": Chat, "parquet": Parquet,
           "grammar": grammar.GrammarText, "structure": Structure,
           "array_record": ArrayRecord, "tfds": Tfds, "memory": Memory, "task": Task}


def _hold_out(records: Sequence, holdout_every: int, split: str, where: str) -> Sequence:
  """Returns one split of `records`; holdout_every 0 means all of them are train."""
  if holdout_every < 0 or holdout_every == 1:
    raise ValueError(f"holdout_every must be 0 (no hold-out) or at least 2, got "
                     f"{holdout_every}; 20 holds out one record in 20.")
  if readers.is_validation(split) and holdout_every == 0:
    raise ValueError(f"{where}: there is no validation split because holdout_every is 0; "
                     "set holdout_every=20, or name a validation_path if it reads files.")
  subset = records
  if holdout_every:
    subset = readers.Subset(records, holdout_every, readers.is_validation(split))
  if not len(subset):
    raise ValueError(f"{where}: the {split} split is empty ({len(records)} records, "
                     f"holdout_every={holdout_every}); give more records or hold out more often.")
  return subset


def _find(paths: str | os.PathLike | Sequence[str]) -> tuple[str, ...]:
  """Resolves assets and globs; raises ValueError for a missing file."""
  found = []
  paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths or [""]
  for path in paths:
    path = assets.resolve(path)
    matches = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path)))
    if not matches:
      raise ValueError(f"no data file {path!r} (working directory {os.getcwd()}); correct the "
                       "path, or use asset:NAME with one of " + ", ".join(assets.names()) + ".")
    found += matches
  return tuple(found)
