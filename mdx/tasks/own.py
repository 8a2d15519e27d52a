"""Tasks in files of a user.

Contents: load.
"""

from __future__ import annotations

import dataclasses
import os

from mdx.utils import python_file

_METHODS = ("examples", "prompt", "score")
_loaded: dict[tuple[str, int], type] = {}  # (path, time of the last change) -> class


def load(path: str) -> type:
  """Returns the task of a Python file: its one dataclass with `examples`, `prompt` and `score`.

  `blank` is "" where the class has none, as in `types.Task`.

  Raises:
    ValueError: no such file, one that fails, or one without exactly one task.
  """
  if not os.path.isfile(path):
    raise ValueError(f"task file {path!r} does not exist (working directory {os.getcwd()}); "
                     "correct the path.")
  key = os.path.abspath(path), os.stat(path).st_mtime_ns
  if key not in _loaded:
    module = python_file.load(path, "task file")
    own = [value for value in vars(module).values()
           if isinstance(value, type) and value.__module__ == module.__name__]
    found = [cls for cls in own if all(hasattr(cls, name) for name in _METHODS)]
    if len(found) != 1:
      names = ", ".join(cls.__name__ for cls in found or own) or "no class"
      raise ValueError(f"task file {path!r}: expected one class with {', '.join(_METHODS)}, got "
                       f"{names}.")
    if not dataclasses.is_dataclass(found[0]):
      raise ValueError(f"task file {path!r}: {found[0].__name__} is no dataclass; put "
                       "@dataclasses.dataclass(frozen=True, kw_only=True) above it.")
    if not hasattr(found[0], "blank"):
      found[0].blank = ""
    _loaded[key] = found[0]
  return _loaded[key]
