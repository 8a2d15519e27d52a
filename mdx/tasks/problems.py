"""Tasks: splits, files, and examples that are made once.

Contents: SPLITS, INSTRUCTION, check_split, split_of, cached, read_rows, check_files, field, Draws,
divide, read, same_length, check_at_least.

Convention: which split a problem belongs to depends on its identity (`key`) alone, not on a seed,
a size or a file, so that the test problems of one run are never training problems of another. Of
20 problems 17 are for training, one for validation and two for testing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mdx.utils import readers

SPLITS = ("train", "validation", "test")
INSTRUCTION = "Think step by step and write the final answer inside \\boxed{}."
_BUCKETS = ("test", "test", "validation") + 17 * ("train",)


def check_split(split: str) -> None:
  """Raises ValueError unless `split` is one of SPLITS."""
  if split not in SPLITS:
    raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")


def check_at_least(task: Any, **smallest: int) -> None:
  """Raises ValueError unless each named field of `task` is an integer of at least this."""
  for name, bound in smallest.items():
    value = getattr(task, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < bound:
      raise ValueError(f"{name} must be an integer of at least {bound}, got {value!r}.")


def split_of(key: str) -> str:
  """The split that the problem with this identity belongs to."""
  digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
  return _BUCKETS[int.from_bytes(digest, "little") % len(_BUCKETS)]


def cached(task: Any, split: str, make: Callable[[str], list[dict[str, Any]]]) -> list[dict]:
  """Returns `make(split)`, made at the first call for this task object.

  Raises:
    ValueError: unknown split, or one without examples.
  """
  check_split(split)
  made = task.__dict__.setdefault("_examples", {})  # not a field: no part of what the task is
  if split not in made:
    examples = make(split)
    if not examples:
      raise ValueError(f"{type(task).__name__}: the {split} split has no examples; raise "
                       f"num_{split}, or give more problems or a file for it.")
    made[split] = examples
  return list(made[split])


class Draws:
  """Collects problems of one split until there are enough of them.

  Args:
    split: problems of other splits are passed over.
    count: number of problems wanted.
  """

  def __init__(self, split: str, count: int):
    self._split, self._count, self.found, self._idle = split, count, {}, False

  def missing(self) -> bool:
    """Whether another round of draws is needed; to be called before each round.

    Raises:
      ValueError: the last round found nothing new, so there are no more.
    """
    if self._idle:
      raise ValueError(f"only {len(self.found)} {self._split} problems exist under these settings, "
                       f"not num_{self._split}={self._count}; ask for fewer or widen the settings.")
    self._idle = len(self.found) < self._count
    return self._idle

  def offer(self, key: str, name: Any, example: Any) -> None:
    """Keeps `example` as `found[name]` if its key is of this split and it is new and wanted."""
    if name not in self.found and split_of(key) == self._split:
      self._idle = False
      if len(self.found) < self._count:
        self.found[name] = example


def read_rows(path: str) -> list[tuple[str, dict[str, Any]]]:
  """Reads JSON objects, one a line; returns (where it stands, object), for `field`."""
  rows = list(readers.json_rows(path))
  if not rows:
    raise ValueError(f"{path}: no problems; write one JSON object a line.")
  return rows


def check_files(task: Any, line: str) -> None:
  """Raises ValueError unless `path` and, if given, `test_path` are files; `line` is an example."""
  for name in ("path", "test_path"):
    path = getattr(task, name)
    if (path or name == "path") and not os.path.isfile(path):
      raise ValueError(f"{type(task).__name__}: {name} {path!r} is not a file; name one with a "
                       f"problem a line, such as {line}.")


def field(where: str, row: dict[str, Any], *names: str, kind: type = str) -> Any:
  """Returns the first of the fields `names` that `row` has; ValueError if none or of wrong type."""
  for name in names:
    if name in row:
      if not isinstance(row[name], kind) or isinstance(row[name], bool):
        raise ValueError(f"{where}: field {name!r} must be of type {kind.__name__}, got "
                         f"{row[name]!r:.60}.")
      return row[name]
  raise ValueError(f"{where}: no field {' or '.join(map(repr, names))} but "
                   f"{', '.join(row) or 'none'}; rename the field in the file.")


def divide(examples: Iterable[dict[str, Any]], tests: Sequence[dict[str, Any]] | None,
           split: str) -> list[dict[str, Any]]:
  """Returns the examples of one split; equal prompts once.

  Args:
    examples: those of the main file.
    tests: those of a test file, which then are the test split; a problem that is in both is left
      out of the others. None divides `examples` in three.
    split: one of SPLITS.
  """
  if tests is not None:
    if split == "test":
      return _distinct(tests)
    held_out = {e["key"] for e in tests}
    examples = [e for e in examples if e["key"] not in held_out]
    if split == "train":
      return _distinct(e for e in examples if split_of(e["key"]) != "validation")
  return _distinct(e for e in examples if split_of(e["key"]) == split)


def read(task: Any, read_file: Callable[[str], list[dict[str, Any]]],
         split: str) -> list[dict[str, Any]]:
  """Returns a split of the files `path` and `test_path` of a task, at most its `num_*`.

  Args:
    task: the task.
    read_file: path -> examples of a file.
    split: one of SPLITS.
  """
  tests = read_file(task.test_path) if task.test_path else None
  return divide(read_file(task.path), tests, split)[:getattr(task, f"num_{split}", None)]


def _distinct(examples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  return list({e["prompt"]: e for e in examples}.values())


def same_length(examples: Sequence, completions: Sequence) -> None:
  """Raises ValueError unless every completion has its example."""
  if len(examples) != len(completions):
    raise ValueError(f"score needs one example per completion, got {len(examples)} examples and "
                     f"{len(completions)} completions; repeat each example for its completions.")
