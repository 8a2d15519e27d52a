"""Data sets of the library `datasets`: of the Hugging Face hub, or files and folders here.

Contents: Hf, HfLabelled, open_split.

Convention: a data set is read at random from the library's cache on disk, which is memory-mapped,
and not as a stream: so the order is that of the seed, every process reads its share, and a resumed
run goes on with the next row, as with every other source.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from mdx import config as config_lib
from mdx.data import source
from mdx.data.sources import labelled
from mdx.data.sources import records
from mdx.utils import readers

_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv",
            ".tsv": "csv", ".arrow": "arrow"}


def open_split(path: str, split: str, subset: str = "", revision: str = "") -> tuple[Any, str]:
  """Opens one split of a data set.

  Args:
    path: name on the hub; or a file of Parquet, JSON, csv, tsv or Arrow, a folder of them, or one
      that `save_to_disk` wrote.
    split: its name, or a slice, "train[:95%]".
    subset: name of a part of the data set; "" = the only one.
    revision: of the hub; "" = the newest.

  Returns:
    The rows, and where they are, for messages.

  Raises:
    ValueError: the library, the data set, the split or the network is missing.
  """
  where = f"data set {path}{f' ({subset})' if subset else ''}, split {split!r}"
  try:
    import datasets
  except ImportError:
    raise ValueError(f"{where}: source hf reads it with a library that is not installed; pip "
                     "install 'mdx-lm[datasets]'.") from None
  is_here, ending = os.path.exists(path), os.path.splitext(path)[1]
  if not is_here and (ending in _READERS or path.startswith((".", "/"))):
    raise ValueError(f"{where}: there is no such file or folder (working directory {os.getcwd()}); "
                     "correct data.source.path.")
  try:
    if is_here and any(os.path.isfile(os.path.join(path, name)) for name in (
        "state.json", "dataset_dict.json")):
      return _saved(datasets, path, split), where
    if is_here and os.path.isfile(path):
      options = {"sep": "\t"} if ending == ".tsv" else {}
      return datasets.load_dataset(_READERS[ending], data_files={"train": path}, split=split,
                                   **options), where
    return datasets.load_dataset(path, subset or None, split=split,
                                 revision=revision or None), where
  except KeyError:
    raise ValueError(f"{where}: a file ends in {', '.join(_READERS)}; rename it, or use another "
                     "source.") from None
  except Exception as error:  # pylint: disable=broad-except  (of the library and of its HTTP)
    remedy = ("check the files, the subset and the split" if is_here else
              "check the name, the subset, the split and the network, or give a folder or file")
    raise ValueError(f"{where}: cannot be opened ({type(error).__name__}: "
                     f"{readers.reason(error)}); {remedy}.") from None


def _saved(datasets, path, split):
  """A split of a folder that `save_to_disk` wrote; without splits of its own it is "train"."""
  found = datasets.load_from_disk(path)
  found = found if isinstance(found, dict) else {"train": found}
  if split not in found:
    raise ValueError(f"it has the splits {', '.join(found)}, written whole")
  return found[split]


def _check_columns(found: Any, names: Sequence[str], where: str) -> None:
  for name in names:
    if name not in found.column_names:
      raise ValueError(f"{where}: no column {name!r}; it has {', '.join(found.column_names)}. Set "
                       "`field`, or `fields` and `label`, of the source.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hf(source.Source):
  """Rows of a data set of the library `datasets`, one column of which is the text.

  Column `field` holds texts or lists of token ids; conversations, lists of {"role": ..., "content":
  ...} (layout "chat"); or lists of two texts (layout "views"), or three (layout "triplets"), as the
  first rows say. With `answer`, `field` holds a prompt and `answer` what is to be predicted (layout
  "answered").

  Attributes:
    path, subset, revision: see `open_split`.
    field: column with the text.
    answer: column with the answer; "" = there is none.
    train_split: its name, or a slice.
    validation_split: likewise; "" holds out of `train_split`.
    holdout_every: one row in this many is then validation; 0 holds out none.
  """

  layout = "text"
  path: str
  subset: str = ""
  revision: str = ""
  field: str = "text"
  answer: str = ""
  train_split: str = "train"
  validation_split: str = ""
  holdout_every: int = 20

  def __post_init__(self):
    found, where = self._open("train")
    _check_columns(found, (self.field, *filter(None, (self.answer,))), where)
    object.__setattr__(self, "layout", "answered" if self.answer else records.layout_of_values(
        found.select_columns([self.field])[:records.NUM_LOOKED_AT][self.field]))

  def _open(self, split: str):
    native = self.validation_split if split == "validation" else self.train_split
    return open_split(self.path, native or self.train_split, self.subset, self.revision)

  def paths(self, split):
    """The name."""
    del split
    return (self.path,)

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    source.is_validation(split)
    found, where = self._open(split)
    _check_columns(found, (self.field,), where)
    items = found.select_columns([self.field, *filter(None, (self.answer,))])
    share = (0, "train") if self.validation_split else (self.holdout_every, split)
    return source.hold_out(readers.Mapped(items, self._record, where), *share, where)

  def _record(self, item, where):
    values = (item[self.field], *([item[self.answer]] if self.answer else []))
    return records.convert_column(self.layout)(*values, where=where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfLabelled(source.Source):
  """Rows of a data set of the library `datasets` with labels.

  Attributes:
    path, subset, revision: see `open_split`.
    fields: columns with the texts; one with a list of words if the label is a list of tags.
    label: column with the label; of class labels the names are taken.
    group: column that rows of one question share; "" = none.
    scheme: of tags, as of `labelled.Conll`.
    train_split, validation_split, test_split: names of splits, or slices.
  """

  layout = "labelled"
  in_memory = True
  splits = source.LABELLED_SPLITS
  path: str
  subset: str = ""
  revision: str = ""
  fields: Sequence[str] = ("text",)
  label: str = "label"
  group: str = ""
  scheme: str = "none"
  train_split: str = "train"
  validation_split: str = "validation"
  test_split: str = "test"

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(scheme=labelled.SCHEMES))
    self._open("train")

  def _open(self, split: str):
    found, where = open_split(self.path, getattr(self, f"{split}_split"), self.subset,
                              self.revision)
    _check_columns(found, (*self.fields, self.label, *filter(None, (self.group,))), where)
    return found, where

  def paths(self, split):
    """The name."""
    del split
    return (self.path,)

  @property
  def kind(self) -> str:
    """By what the first training row has."""
    return "words" if "words" in self.records("train")[0] else "text"

  def records(self, split: str) -> Sequence:
    """Returns the records of "train", "validation" or "test"."""
    source.check_split(split)
    found, where = self._open(split)
    label = found.features[self.label]
    names = getattr(getattr(label, "feature", label), "names", None)
    return tuple(labelled.item_record(found[i], self, names, f"{where}, record {i}")
                 for i in range(len(found)))
