"""Labelled records: sentences, pairs, scores and tagged words, from the files they come in.

Contents: KINDS, Labelled; Table (GLUE-style tsv, csv, jsonl), Conll, Conllu
(Universal Dependencies), TfdsLabelled; item_record, table_records, conll_records.

Convention: a record is {"texts": [str, ...], "label": str, "group": str} or {"words": [str],
"tags": [str]}, each with "where": file and line. Entity tags are in the scheme IOB2 (B-X begins an
entity, I-X goes on with it, O is none), whatever the file has.

References: Wang et al. 2019, arXiv:1804.07461 (GLUE); Tjong Kim Sang & De Meulder 2003, W03-0419
(CoNLL-2003); Nivre et al. 2020, arXiv:2004.10643 (Universal Dependencies).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.sources import files
from mdx.data.sources import tfds
from mdx.utils import readers

KINDS = ("text", "words")  # what a label is about
# What a tag's first letter stands for: Begin, Inside, End, Single.
_BIO = {"B": "B", "I": "I"}
_ENDED = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
_LETTERS = {"iob2": _BIO, "iob1": _BIO, "bioes": _ENDED, "bilou": _ENDED, "bmes": _ENDED}
SCHEMES = (*_LETTERS, "none")
_ONE_TYPE = "ENTITY"  # of tags that name none
_DELIMITERS = {".tsv": "\t", ".csv": ",", ".txt": "\t"}
_MAX_FIELD_CHARS = 2**31 - 1
_BLANKS = " \t"  # what separates columns; other white space, such as U+00A0, is text
_UD_COLUMNS = {"upos": 3, "xpos": 4, "deprel": 7}
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(files.Files):
  """Files of labelled records; subclasses have `_records(path)` and a `kind` of KINDS.

  Attributes:
    test_path: files of the test split; None = there is none.
  """

  layout = "labelled"
  in_memory = True
  kind = "text"
  test_path: str | Sequence[str] | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.test_path is not None:
      object.__setattr__(self, "test_path", source.find(self.test_path))
      trained = set(self.path) | set(self.validation_path or ())
      if shared := sorted(trained & set(self.test_path)):
        raise ValueError(f"{shared[0]} is in test_path and also in path or validation_path; take "
                         "it out of one of them.")

  @property
  def splits(self):
    """With "test" where it has files."""
    return source.SPLITS if self.test_path is None else source.LABELLED_SPLITS

  def paths(self, split):
    """The files."""
    return self.test_path if split == "test" else super().paths(split)

  def records(self, split: str) -> Sequence:
    """Returns the records of "train", "validation" or "test"."""
    if split != "test":
      return super().records(split)
    if self.test_path is None:
      raise ValueError("there is no test split; set data.source.test_path.")
    return source.hold_out(self._read(self.test_path), 0, "train", ", ".join(self.test_path))

  def _read(self, paths):
    return tuple(record for path in paths for record in self._records(path))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(Labelled):
  """Rows of a .tsv, .csv or .jsonl file (or .xz, .gz of it), as GLUE has them.

  Attributes:
    fields: names of the columns with the texts, one or two of them.
    label: name of the column with the label or the score.
    group: name of the column that rows of one question share (answer selection); "" = none.
    has_header: whether the first line has the names; otherwise they are "0", "1", ...
  """

  fields: Sequence[str] = ("text",)
  label: str = "label"
  group: str = ""
  has_header: bool = True

  def __post_init__(self):
    super().__post_init__()
    if len(self.fields) not in (1, 2):
      raise ValueError(f"data.source.fields names one or two columns, got {self.fields!r}.")
    if self.group and self.validation_path is None:
      raise ValueError("rows that share a question (data.source.group) cannot be held out one by "
                       "one; set data.source.validation_path.")

  def _records(self, path):
    return table_records(path, fields=self.fields, label=self.label, group=self.group,
                         has_header=self.has_header)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conll(Labelled):
  """Words in columns, one a line, and a blank line after every sentence.

  Attributes:
    word_column, tag_column: which columns, from 0; the tag's is the last unless given.
    scheme: how entities are written: "iob2", "iob1" (B-X only between two of one type), "bioes"
      (BILOU and BMES are other letters for it), or "none" for tags that are no entities. They are
      read as IOB2; tags without a type ("B", "I") are of one type, ENTITY.

  A line that begins with # is a comment if it stands before a sentence and has another number of
  columns than the words have, or ends in no tag of the scheme.
  """

  kind = "words"
  word_column: int = 0
  tag_column: int = -1
  scheme: str = "iob2"

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", choices=dict(scheme=SCHEMES))

  def _records(self, path):
    return conll_records(path, word_column=self.word_column, tag_column=self.tag_column,
                         scheme=self.scheme)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conllu(Labelled):
  """Universal Dependencies: ten columns, of which one is the tag.

  Attributes:
    field: "upos", "xpos" or "deprel".
  """

  kind = "words"
  field: str = "upos"

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", choices=dict(field=_UD_COLUMNS))

  def _records(self, path):
    return conll_records(path, word_column=1, tag_column=_UD_COLUMNS[self.field], scheme="none",
                         is_ud=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsLabelled(source.Source):
  """A prepared TensorFlow Dataset with labels, in array_record files; needs no TensorFlow.

  Attributes:
    data_dir, builder: as of the source tfds.
    fields: features with the texts; one with a list of words if the label is a list of tags.
    label: feature with the label; of class labels the names are taken.
    group: feature that items of one question share; "" = none.
    scheme: of tags, as of `Conll`.
    train_split, validation_split, test_split: split names or slices.
  """

  layout = "labelled"
  in_memory = True
  splits = source.LABELLED_SPLITS
  data_dir: str
  builder: str | None = None
  fields: Sequence[str] = ("text",)
  label: str = "label"
  group: str = ""
  scheme: str = "none"
  train_split: str = "train"
  validation_split: str = "validation"
  test_split: str = "test"


  def __post_init__(self):
    tfds.check_directory(self.data_dir)
    config_lib.check(self, "data.source", choices=dict(scheme=SCHEMES))

  def paths(self, split):
    """The directory."""
    del split
    return (self.data_dir,)

  @property
  def kind(self) -> str:
    """By what the first training item has."""
    return "words" if "words" in self.records("train")[0] else "text"

  def records(self, split: str) -> Sequence:
    """Returns the records of "train", "validation" or "test"."""
    source.check_split(split)
    found, items, where = tfds.open_tfds(self.data_dir, self.builder,
                                          getattr(self, f"{split}_split"))
    features = found.info.features
    for name in (*self.fields, self.label, *([self.group] if self.group else [])):
      if name not in features:
        raise ValueError(f"{where}: no feature {name!r}; it has {', '.join(sorted(features))}. "
                         "Set `fields` and `label` of the source.")
    label = features[self.label]
    names = getattr(getattr(label, "feature", label), "names", None)
    return tuple(item_record(items[i], self, names, f"{where}, record {i}")
                 for i in range(len(items)))


def item_record(item: Mapping[str, Any], own: Any, names: Sequence[str] | None, where: str
                ) -> Record:
  """Makes a record of an item of a data set.

  Args:
    item: feature -> value.
    own: the source, with `fields`, `label`, `group` and `scheme`.
    names: of the class labels; None: labels are as they are.
    where: it stands, for messages.

  Raises:
    ValueError: a value that is no text or label, named with `where`.
  """
  text = lambda value: _text(value, where)

  def write(value):
    if names is None:
      return text(value)
    if not 0 <= value < len(names):
      raise ValueError(f"{where}: label {value} is none of the {len(names)} of its data set; take "
                       "a split with labels.")
    return str(names[value])

  if getattr(item[own.label], "shape", ()) or isinstance(item[own.label], (list, tuple)):
    words = [text(word) for word in item[own.fields[0]]]
    tags = [write(tag) for tag in item[own.label]]
    if len(words) != len(tags) or not words:
      raise ValueError(f"{where}: {len(words)} words have {len(tags)} tags; expected one each.")
    return _sentence(words, tags, [where] * len(tags), own.scheme)
  record = {"texts": [text(item[name]) for name in own.fields],
            "label": write(item[own.label]), "where": where}
  return record | ({"group": text(item[own.group])} if own.group else {})


def _text(value: Any, where: str) -> str:
  """A value of JSON or of numpy as text; ValueError for a list or an object."""
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (list, tuple, dict)):
    raise ValueError(f"{where}: {value!r:.40} is no text; write one text there.")
  return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def table_records(path: str, *, fields: Sequence[str], label: str, group: str = "",
                  has_header: bool = True) -> Iterator[Record]:
  """Reads the rows of a .tsv, .csv or .jsonl file; records have no label if `label` is "".

  Raises:
    ValueError: a column is missing, named with file and line.
  """
  base, ending = os.path.splitext(path)
  ending = os.path.splitext(base)[1] if ending in (".xz", ".gz") else ending
  if ending not in (".jsonl", *_DELIMITERS):
    raise ValueError(f"{path}: a table ends in {', '.join(('.jsonl', *_DELIMITERS))} (or .xz, .gz "
                     "after it); rename it.")
  rows = (readers.json_rows(path) if ending == ".jsonl"
          else _delimited_rows(path, _DELIMITERS[ending], has_header))
  wanted = (*fields, *filter(None, (label, group)))
  for where, row in rows:
    for name in wanted:
      if name in row and row[name] is None:
        raise ValueError(f"{where}: the column {name!r} is null; correct the row, or take it out.")
      if name not in row:
        raise ValueError(f"{where}: no column {name!r}; it has {', '.join(row)}. Set fields, label "
                         "and group of data.source.")
    value = {name: _text(row[name], f"{where}, column {name!r}") for name in wanted}
    record = {"texts": [value[name] for name in fields], "where": where}
    if label:
      record["label"] = value[label].strip()
      if not record["label"]:
        raise ValueError(f"{where}: the column {label!r} is empty; every row needs a label.")
    yield record | ({"group": value[group]} if group else {})


def _delimited_rows(path: str, delimiter: str,
                    has_header: bool) -> Iterator[tuple[str, dict[str, str]]]:
  quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # GLUE quotes nothing
  csv.field_size_limit(_MAX_FIELD_CHARS)  # of the process; Python's own is 131,072
  reader = csv.reader(io.StringIO(readers.read_text(path), newline=""), delimiter=delimiter,
                      quoting=quoting)
  names, before = None, 0
  try:
    for row in reader:
      where, before = f"{path}, line {before + 1}", reader.line_num
      if not row:
        continue
      if names is None:
        names = [x.strip() for x in row] if has_header else [str(i) for i in range(len(row))]
        if has_header:
          continue
      if len(row) != len(names):
        raise ValueError(f"{where}: {len(row)} columns, expected the {len(names)} of the "
                         f"first line ({', '.join(names)}).")
      yield where, dict(zip(names, row))
  except csv.Error as e:
    raise ValueError(f"{path}, line {reader.line_num}: not a table ({e}).") from None


def conll_records(path: str, *, word_column: int, tag_column: int, scheme: str,
                  is_ud: bool = False) -> Iterator[Record]:
  """Reads sentences of words in columns.

  Args:
    path: the file.
    word_column, tag_column: which columns.
    scheme: of the tags, see `Conll`.
    is_ud: ten columns between tabs, with comments, ranges ("1-2") and empty words ("1.1").

  Raises:
    ValueError: too few columns, or a tag that breaks the scheme, named with file and line.
  """
  words, tags, places = [], [], []
  lines = readers.lines(readers.read_text(path))
  columns_of = lambda line: (line.split("\t") if is_ud or "\t" in line
                             else re.split(" +", line.strip(_BLANKS)))
  num_columns = next((len(columns_of(line)) for line in lines
                      if line.strip(_BLANKS) and not line.startswith(("#", "-DOCSTART-"))), 0)
  for number, line in enumerate([*lines, ""], 1):
    if not line.strip(_BLANKS):
      if words:
        yield _sentence(words, tags, places, scheme)
        words, tags, places = [], [], []
      continue
    if line.startswith("-DOCSTART-") or (is_ud and line.startswith("#")):
      continue
    where = f"{path}, line {number}"
    columns = columns_of(line)
    if line.startswith("#") and not words and (
        len(columns) != num_columns or scheme != "none" and _split(columns[-1], scheme) is None):
      continue
    needed = 10 if is_ud else max(word_column, tag_column, 1) + 1
    if len(columns) < needed or is_ud and len(columns) > needed:
      raise ValueError(f"{where}: {len(columns)} columns, expected {needed}"
                       f"{'' if is_ud else ' or more'}: {line!r:.60}.")
    if is_ud and not columns[0].isdigit():
      if not all(part.isdigit() for part in columns[0].replace("-", ".").split(".")):
        raise ValueError(f"{where}: the id {columns[0]!r} is no number, range or empty word.")
      continue
    words.append(columns[word_column].strip(_BLANKS))
    tags.append(columns[tag_column].strip(_BLANKS))
    places.append(where)
    if not words[-1] or not tags[-1]:
      raise ValueError(f"{where}: the word or its tag is empty: {line!r:.60}.")


def _sentence(words: list[str], tags: list[str], places: list[str], scheme: str) -> Record:
  if scheme != "none":
    tags = _to_iob2(tags, places, scheme)
  return {"words": words, "tags": tags, "where": places[0]}


def _split(tag: str, scheme: str) -> tuple[str, str] | None:
  """(O, Begin, Inside, End or Single; type) of a tag, or None if it is none of the scheme."""
  if tag == "O":
    return "O", ""
  letter, dash, kind = tag.partition("-")
  if letter not in _LETTERS[scheme] or bool(dash) != bool(kind):
    return None
  return _LETTERS[scheme][letter], kind or _ONE_TYPE


def _to_iob2(tags: Sequence[str], places: Sequence[str], scheme: str) -> list[str]:
  """Checks the tags of a sentence and writes them as IOB2."""
  found, before = [], ("O", "")
  for i, (tag, where) in enumerate(zip(tags, places)):
    wrong = lambda why, where=where, tag=tag: ValueError(
        f"{where}: tag {tag!r} breaks the scheme {scheme}: {why}; correct it, or set "
        "data.source.scheme.")
    split = _split(tag, scheme)
    if split is None:
      letters = " or ".join(_LETTERS[scheme])
      raise wrong(f"expected O, or {letters} alone or before a dash and a type")
    prefix, kind = split
    goes_on = before[0] in ("B", "I") and before[1] == kind  # an entity of this type is open
    if scheme == "iob2" and prefix == "I" and not goes_on:
      raise wrong(f"no {kind} is open before it")
    if scheme == "iob1" and prefix == "B" and not goes_on:
      raise wrong(f"no {kind} stands right before it")
    if _LETTERS[scheme] is _ENDED:
      if (prefix in "IE") != goes_on or (before[0] in ("B", "I") and not goes_on):
        raise wrong("an entity must end with E or L, and I, M, E and L go on with an open one")
      if prefix in "BI" and i + 1 == len(tags):
        raise wrong("the sentence ends within it")
    begins = prefix in "BS" or scheme == "iob1" and prefix == "I" and not goes_on
    found.append("O" if prefix == "O" else f"{'B' if begins else 'I'}-{kind}")
    before = (prefix, kind)
  return found
