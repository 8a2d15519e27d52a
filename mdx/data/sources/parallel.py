"""Files of sources and their targets.

Contents: Parallel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mdx.data import source
from mdx.data.sources import files
from mdx.utils import readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(files.Files):
  """Records {"source": text, "target": text}.

  `path` is of jsonl files, one such object a line; with `target_path`, `path` is of text files,
  line i of which has its target in line i of those of `target_path`.

  Attributes:
    target_path: text files of targets.
    validation_target_path: those of `validation_path`.
  """

  layout = "sequences"
  target_path: str | Sequence[str] = ""
  validation_target_path: str | Sequence[str] = ""

  def __post_init__(self):
    super().__post_init__()
    if bool(self.target_path and self.validation_path is not None) != bool(
        self.validation_target_path):
      raise ValueError("data.source.validation_target_path goes with validation_path and "
                       "target_path; give all three, or leave it out.")
    for name in ("target_path", "validation_target_path"):
      if getattr(self, name):
        object.__setattr__(self, name, source.find(getattr(self, name)))

  def paths(self, split):
    """The files."""
    paths = super().paths(split)
    return (*paths, *self._targets_of(paths))

  def records(self, split):
    """Returns the records of "train" or "validation"."""
    source.is_validation(split)
    paths = super().paths(split)
    share = (self.holdout_every, split) if self.validation_path is None else (0, "train")
    return source.hold_out(self._read(paths), *share, ", ".join(paths))

  def _targets_of(self, paths):
    return (self.target_path if paths == self.path else self.validation_target_path) or ()

  def _read(self, paths):
    targets = self._targets_of(paths)
    if not targets:
      return readers.Concatenated([
          readers.JsonLines(path, ("source", "target"), _pair, self.is_checked) for path in paths])
    lines = [[line for path in side for line in readers.lines(readers.read_text(path))]
             for side in (paths, targets)]
    if len(lines[0]) != len(lines[1]):
      raise ValueError(f"{', '.join(paths)} has {len(lines[0])} sources, and {', '.join(targets)} "
                       f"{len(lines[1])} targets; give a line of each for every pair.")
    return tuple(_pair(*pair, where=f"{paths[0]}, line {i}") for i, pair in enumerate(
        zip(*lines), 1))


def _pair(one: Any, target: Any, where: str) -> dict[str, Any]:
  """Makes a record of two texts; ValueError names `where` they stand."""
  for name, value in (("source", one), ("target", target)):
    if not isinstance(value, str) or not value.strip():
      raise ValueError(f"{where}: the {name} must be a text that is not empty, got {value!r:.60}.")
  return {"source": one, "target": target}
