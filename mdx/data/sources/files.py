"""Files of records with a hold-out.

Contents: Files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from mdx.data import source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files(source.Source):
  """Files with a hold-out; subclasses have `_read(paths)`, all records of the files.

  Attributes:
    path: a file, "asset:NAME", a glob, or several of them, read one after another; for text,
      Parquet and Arrow also a directory.
    validation_path: files of the validation split; None holds out of `path`.
    holdout_every: one record in this many is validation; 0 holds out none.
    is_checked: whether files are looked through for bad records when they are opened, where that
      is quick; data.on_error=skip does not.
  """

  files_of: ClassVar[Callable[[str], list[str]] | None] = None  # of a directory

  path: str | Sequence[str]
  validation_path: str | Sequence[str] | None = None
  holdout_every: int = 20
  is_checked: bool = True

  def __post_init__(self):
    object.__setattr__(self, "path", source.find(self.path, self.files_of))
    if self.validation_path is not None:
      object.__setattr__(self, "validation_path", source.find(
          self.validation_path, self.files_of))
      if shared := sorted(set(self.path) & set(self.validation_path)):
        raise ValueError(f"{shared[0]} is in both path and validation_path, so the model would "
                         "train on it; take it out of path.")

  def paths(self, split):
    """The files."""
    return self.validation_path or self.path if split == "validation" else self.path

  def unchecked(self) -> source.Source:
    """The source that does not look through its files."""
    return dataclasses.replace(self, is_checked=False)

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train" or "validation"."""
    source.is_validation(split)
    paths = self.paths(split)
    share = (self.holdout_every, split) if self.validation_path is None else (0, "train")
    return source.hold_out(self._read(paths), *share, ", ".join(paths))
