"""Prepared TensorFlow Datasets in array_record files; need no TensorFlow.

Contents: Tfds, check_directory, open_tfds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from mdx.data import source
from mdx.utils import readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds(source.Source):
  """A prepared TensorFlow Dataset in array_record files; needs no TensorFlow.

  Attributes:
    data_dir: with `builder`, the directory of all datasets; without, the directory of
      one prepared dataset and version (it holds dataset_info.json).
    builder: name such as "lm1b", or None.
    field: feature with the text, or with token ids.
    train_split, validation_split: split names or slices, "train[:95%]".
  """

  layout = "text"
  data_dir: str
  builder: str | None = None
  field: str = "text"
  train_split: str = "train"
  validation_split: str = "validation"

  def __post_init__(self):
    check_directory(self.data_dir)

  def paths(self, split):
    """The directory."""
    del split
    return (self.data_dir,)

  def records(self, split: str) -> Sequence:
    """Returns the records of "train" or "validation"."""
    native = self.validation_split if source.is_validation(split) else self.train_split
    found, items, where = open_tfds(self.data_dir, self.builder, native)
    if self.field not in found.info.features:
      raise ValueError(f"{where}: no feature {self.field!r}; it has "
                       f"{', '.join(sorted(found.info.features))}. Set `field` of the source.")
    return readers.Mapped(items, readers.record, where, key=self.field)


def check_directory(data_dir: str) -> None:
  """Raises ValueError if a data set has no directory."""
  if not os.path.isdir(data_dir):
    raise ValueError(f"tfds data_dir {data_dir!r} is not a directory; prepare the dataset "
                     "there with file_format='array_record'.")


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
