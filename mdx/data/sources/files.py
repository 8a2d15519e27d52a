"""Files of records with a hold-out: what sources of several kinds share.

Contents: SPLITS, Files, open_tfds, is_validation, hold_out, find.

Convention: in a source without splits of its own, record i belongs to validation if
i % holdout_every == holdout_every - 1, unless `validation_path` names other files.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from typing import Any

from mdx import assets
from mdx.utils import readers

SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
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
    object.__setattr__(self, "path", find(self.path))
    if self.validation_path is not None:
      object.__setattr__(self, "validation_path", find(self.validation_path))
      if shared := sorted(set(self.path) & set(self.validation_path)):
        raise ValueError(f"{shared[0]} is in both path and validation_path, so the model would "
                         "train on it; take it out of path.")

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    is_held_out = is_validation(split)
    if self.validation_path is None:
      return hold_out(self._read(self.path), self.holdout_every, split, ", ".join(self.path))
    paths = self.validation_path if is_held_out else self.path
    return hold_out(self._read(paths), 0, "train", ", ".join(paths))


def open_tfds(data_dir: str, builder: str | None, split: str) -> tuple[Any, Any, str]:
  """Opens one split of a prepared TensorFlow Dataset, without TensorFlow.

  Returns:
    The builder, the sequence of its items, and where they are, for messages.

  Raises:
    ValueError: there is no such data set or split.
  """
  where = f"tfds {builder or data_dir}, split {split!r}"
  try:
    import tensorflow_datasets as tfds
    found = (tfds.builder(builder, data_dir=data_dir) if builder
             else tfds.builder_from_directory(data_dir))
    return found, found.as_data_source(split), where
  except Exception as e:  # tfds raises many kinds, from import to file errors
    raise ValueError(f"{where}: cannot be opened ({readers.reason(e)}); "
                     "prepare it with file_format='array_record' and check the split.") from e


def is_validation(split: str) -> bool:
  """Whether a split is "validation"; ValueError if it is not "train" either."""
  if split not in SPLITS:
    raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
  return split == "validation"


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


def find(paths: str | os.PathLike | Sequence[str]) -> tuple[str, ...]:
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
