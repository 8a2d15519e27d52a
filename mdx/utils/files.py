"""Files that are never seen half-written, and tables that a restarted run goes on with.

Contents: replacing, write_text, write_json, check_new, check_name, PartialRows.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from mdx.utils import readers
from mdx.utils import streams


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Path of a temporary file that takes the place of `path` when the block has ended well."""
  path = pathlib.Path(path)
  temporary = path.with_name(path.name + ".tmp")
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str, **options: Any) -> None:
  """Writes a text in UTF-8 that is never seen half-written; options are those of `write_text`."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8", **options)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value of JSON that is never seen half-written."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def check_new(path: Any) -> None:
  """Raises ValueError unless `config.export.path` is an empty directory or does not exist."""
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise ValueError(f"config.export.path {path} is not empty; give a new directory.")


def check_name(name: str, kind: str) -> None:
  """Raises ValueError for a name that cannot be that of a folder.

  Args:
    name: of an arm, a model or a task, which a run's folder is named after.
    kind: what has the name, for people.
  """
  if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\\0"):
    raise ValueError(f"{kind} {name!r} cannot name a folder; use letters, digits, - and _.")


class PartialRows:
  """Rows by number, kept in `NAME.partial.jsonl` until all are there.

  Process 0 writes. In a job of several processes nothing is read again, for they would have to
  agree on it.

  Attributes:
    rows: what is known, by number.
  """

  def __init__(self, path: pathlib.Path, identity: str):
    """Reads what an interrupted run of the same identity has written.

    Args:
      path: the final file, NAME.jsonl.
      identity: a hash of what the rows depend on; rows of another are dropped.
    """
    self._path, self._partial = path, path.with_suffix(".partial.jsonl")
    self.rows: dict[int, dict[str, Any]] = {}
    if jax.process_count() == 1:
      self._read(identity)
    if jax.process_index():
      self._file = open(os.devnull, "w", encoding="utf-8")
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"identity": identity}] + [{"row": i} | row for i, row in self.rows.items()]
    self._replace(self._partial, lines)  # anew, for the last line may have been cut short
    self._file = open(self._partial, "a", encoding="utf-8")

  def _read(self, identity: str) -> None:
    if not self._partial.exists():
      return
    *whole, last = streams.read_bytes(self._partial).split(b"\n")  # the last was cut short
    del last
    records = [self._record(line) for line in whole]
    if not records or records[0].get("identity") != identity:
      return
    for record in records[1:]:
      number = record.pop("row", None)
      if type(number) is int and number >= 0 and record:
        self.rows[number] = record
    if num_lost := len(records) - 1 - len(self.rows):
      warnings.warn(f"{self._partial}: {num_lost} damaged line(s) are left out; their rows are "
                    "made again.", stacklevel=2)

  def _record(self, line: bytes) -> dict[str, Any]:
    try:
      found = readers.parse_json(line, str(self._partial), "drop it")
    except ValueError:
      return {}
    return found if isinstance(found, dict) else {}

  def add(self, number: int, row: dict[str, Any]) -> None:
    """Keeps a row, at once."""
    self.rows[number] = row
    self._file.write(json.dumps({"row": number} | row, ensure_ascii=False) + "\n")
    self._file.flush()

  def finish(self) -> None:
    """Writes the final file, in the order of the numbers, in place of the partial one."""
    self._file.close()
    if jax.process_index() == 0:
      self._replace(self._path, [self.rows[i] for i in sorted(self.rows)])
      self._partial.unlink(missing_ok=True)

  def _replace(self, path, lines):
    write_text(path, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
