"""Sources: where documents come from, as random-access sequences of records.

Contents: SOURCES (name -> frozen dataclass), build; Text, Jsonl, Chat, Parquet, ArrayRecord, Tfds,
Memory, Task, GrammarText, Structure. A source has `records(split)`, a picklable sequence whose
items are {"text": str}, {"tokens": int32 [n]}, {"messages": [{"role", "content"}]} (see
`mdx.data.chat`), {"parts": [premise, candidate, ...], "labels": [bool, ...]} (see `sources.pairs`;
a part is a text or ids) or {"prompt": str, "answer": str}, where a "blank": str that is not empty
says that the answer is the prompt with these filled in; a text or tokens may have a "label": int,
for probes; documents with a date have "spans" and "day" (see `sources.dated`); or labelled records
(see `sources.labelled`). `split` is "train" or "validation", of labelled records also "test".
`documents(split)`, where a source has it, gives documents as lists of paragraphs, which are lists
of sentences.

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx import tasks
from mdx.data.sources import dated
from mdx.data.sources import files
from mdx.data.sources import labelled
from mdx.data.sources import pairs
from mdx.data.toys import grammar
from mdx.data.toys import grammar_tags
from mdx.data.toys import news
from mdx.data.toys import packaged
from mdx.data.toys import recall
from mdx.utils import readers

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarText:
  """Documents of the toy grammar, as ids of the tokenizer "grammar"; the label is the topic.

  Attributes:
    num_documents, num_validation: documents of the splits.
    num_paragraphs, num_sentences: of a document, and of a paragraph.
    seed: of the documents.
    held_out: only held-out pairs of verb and object, and verbs that have some.
    one_determiner: all determiners are written alike, and tell no gender.
  """

  in_memory = True
  has_answers = False
  path = ()
  num_documents: int = 4000
  num_validation: int = 400
  num_paragraphs: int = 1
  num_sentences: int = 6
  seed: int = 0
  held_out: bool = False
  one_determiner: bool = False

  def __post_init__(self):
    for name in ("num_documents", "num_validation", "num_paragraphs", "num_sentences"):
      if getattr(self, name) < 1:
        raise ValueError(f"grammar source: {name} must be positive, got {getattr(self, name)}.")

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def _drawn(self, is_validation: bool):
    drawn, size = grammar.Grammar(self.held_out), (self.num_paragraphs, self.num_sentences)
    return [drawn.document([self.seed, int(is_validation), i], *size)
            for i in range(self.num_validation if is_validation else self.num_documents)]

  def records(self, split: str) -> Sequence:
    """Returns {"tokens", "label"} of "train" or "validation"."""
    write = grammar_tags.one_determiner if self.one_determiner else lambda ids: ids
    return tuple({"tokens": write(np.concatenate([s for part in paragraphs for s in part])),
                  "label": topic} for topic, paragraphs in self._drawn(files.is_validation(split)))

  def documents(self, split: str) -> list[pairs.Document]:
    """Paragraphs and sentences as they were drawn."""
    return [paragraphs for _, paragraphs in self._drawn(files.is_validation(split))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure:
  """Premises with candidates from the documents of another source; see `sources.pairs`.

  Attributes:
    documents: `name` and fields of a source that has documents.
    task: "ssp", "sp" or "psd".
    size, validation_size: rows of the splits, which are drawn when they are read.
    seed: of the draws.
    num_candidates, right_min, right_max, hard_rate, premise_sentences, candidate_sentences: as
      `pairs.Pairs` takes them.
  """

  in_memory = False
  has_answers = True
  layout = "parts"
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
    is_validation = files.is_validation(split)
    drawn = pairs.Pairs(
        build(self.documents).documents(split), self.task,
        self.validation_size if is_validation else self.size, (self.seed, int(is_validation)),
        self.num_candidates, (self.right_min, self.right_max), self.hard_rate,
        self.premise_sentences, self.candidate_sentences)
    return readers.Mapped(drawn, _parts_record, "structure source")

  def questions(self, split: str, number: int, *, num_words: int = 3,
                num_candidates: int = 5) -> list[dict[str, Any]]:
    """Answer selection: a sentence's rarest words, and sentences one of which is its neighbour.

    Returns:
      {"parts": [question, candidate, ...], "labels"}: one candidate is another span of the
      sentence's paragraph, the others are wrong ones as in training.
    """
    documents = build(self.documents).documents(split)
    drawn = pairs.Pairs(documents, "ssp", number, (self.seed, 2 + int(files.is_validation(split))),
                        num_candidates, (1, 1), self.hard_rate)
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
           "array_record": ArrayRecord, "tfds": Tfds, "memory": Memory, "task": Task,
           "grammar": GrammarText, "grammar_tags": grammar_tags.GrammarTags,
           "dated": dated.Dated, "news": news.News, "structure": Structure, "table": labelled.Table,
           "conll": labelled.Conll, "conllu": labelled.Conllu,
           "tfds_labelled": labelled.TfdsLabelled, "packaged": packaged.Packaged,
           "recall": recall.Recall}
