"""The base of data sources, and the splits of their records.

Contents: SPLITS, LABELLED_SPLITS, Source, build, is_validation, check_split, hold_out, find.

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from mdx import assets
from mdx import config as config_lib
from mdx.utils import readers
from mdx.utils import streams

SPLITS = ("train", "validation")
LABELLED_SPLITS = (*SPLITS, "test")


class Source(Protocol):
  """Documents as random-access records: a frozen dataclass that names this class as its base.

  Records are what its layout reads, with a "label": int for probes where there is one, and
  "where", the file and line, where that says more than the number of the record.

  Attributes:
    layout: name of the `data.layouts.LAYOUTS` that makes rows of its records.
    in_memory: whether records stay in memory, so that their tokens may too.
    has_questions: whether `questions(split, number)` gives premises with candidates for probes.
    kind: of labelled records: "text" or "words", what a label is about.
  """

  layout: ClassVar[str]
  in_memory: ClassVar[bool] = False
  has_questions: ClassVar[bool] = False
  kind: ClassVar[str] = ""

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of a split, a sequence that can be pickled."""

  def paths(self, split: str) -> tuple[str, ...]:
    """Returns the files of a split, for messages."""
    del split
    return ()

  def dates(self) -> dict[str, str]:
    """Returns {"first_date", "last_date"} of dated documents; {} of others."""
    return {}

  def law(self) -> Mapping[str, float]:
    """Returns the probability of every text, where the distribution is known; else {}."""
    return {}

  def probes(self, split: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Returns questions with their answers by kind, for `eval.evaluators.questions`; {} = none."""
    del split
    return {}

  @property
  def augments(self) -> bool:
    """Returns whether `augmented` changes anything."""
    return False

  def augmented(self, document: Mapping[str, Any], draw: np.random.Generator) -> Mapping[str, Any]:
    """Returns a random variant of a document; those of training are drawn anew in every epoch."""
    del draw
    return document

  def unchecked(self) -> Source:
    """Returns the source whose bad records are found when they are read, and not before."""
    return self

  def probed(self) -> Source:
    """Returns the source whose records a probe of the hidden states reads."""
    return self

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits that it has."""
    return SPLITS

  @property
  def title(self) -> str:
    """Name of the source, for messages."""
    return type(self).__name__.lower()


def build(table: Mapping[str, type], cfg: Mapping[str, Any], *, what: str) -> Source:
  """Builds a source of a table from {"name": ..., **fields}; a field "" or -1 is left out."""
  fields = config_lib.to_dict(cfg)
  if isinstance(fields, dict):
    fields = {k: v for k, v in fields.items() if k == "name" or not _is_unset(v)}
  return config_lib.build(table, fields, what=what)


def _is_unset(value: Any) -> bool:
  return isinstance(value, str) and not value or isinstance(value, int) and value == -1


def is_validation(split: str) -> bool:
  """Whether a split is "validation"; ValueError if it is not "train" either."""
  check_split(split, SPLITS)
  return split == "validation"


def check_split(split: str, splits: Sequence[str] = LABELLED_SPLITS) -> None:
  """Raises ValueError for a split that is none of `splits`."""
  if split not in splits:
    raise ValueError(f"split must be one of {', '.join(splits)}; got {split!r}.")


def hold_out(records: Sequence, holdout_every: int, split: str, where: str) -> Sequence:
  """Returns one split of `records`; holdout_every 0 means all of them are train."""
  if holdout_every < 0 or holdout_every == 1:
    raise ValueError(f"holdout_every must be 0 (no hold-out) or at least 2, got "
                     f"{holdout_every}; 20 holds out one record in 20.")
  if is_validation(split) and holdout_every == 0:
    raise ValueError(f"{where}: there is no validation split because holdout_every is 0; "
                     "set holdout_every=20, or name a validation_path if it reads files.")
  subset = records
  if holdout_every:
    subset = readers.Subset(records, holdout_every, is_validation(split))
  if not len(subset):
    raise ValueError(f"{where}: the {split} split is empty ({len(records)} records, "
                     f"holdout_every={holdout_every}); give more records or hold out more often.")
  return subset


def find(paths: str | os.PathLike | Sequence[str],
         files_of: Callable[[str], list[str]] | None = None) -> tuple[str, ...]:
  """Resolves assets, globs and directories; raises ValueError for a missing or special file.

  Args:
    paths: one or several.
    files_of: the files that a directory stands for; None = it stands for none.
  """
  found = []
  paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths or [""]
  for path in paths:
    num_before = len(found)
    path = os.fspath(assets.resolve(path))
    if os.path.exists(path) and not os.path.isdir(path):
      streams.check_regular(path)
    for match in [path] if os.path.isfile(path) else sorted(glob.glob(path)):
      if os.path.isfile(match):
        found.append(match)
      elif files_of is not None and os.path.isdir(match):
        found += files_of(match)
    if len(found) == num_before:
      raise ValueError(f"no data file {path!r} (working directory {os.getcwd()}); correct the "
                       "path, or use asset:NAME with one of " + ", ".join(assets.names()) + ".")
  return tuple(found)
