"""Python files of a user as modules.

Contents: load, errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator

from mdx.utils import streams


def load(path: str, what: str) -> types.ModuleType:
  """Runs a Python file and returns its module, whose classes can be pickled.

  Args:
    path: the file.
    what: kind of file, for messages ("config file").

  Raises:
    ValueError: the file is a device, is no Python file, or fails.
  """
  streams.check_regular(path)
  name = "mdx_file_" + hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{what} {path!r} is no Python file; expected a name that ends in .py.")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses and pickle look a class up by its module
  with errors(path, what):
    spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def errors(path: str, what: str) -> Iterator[None]:
  """Turns whatever a file of a user raises into one ValueError that names the file."""
  try:
    yield
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise ValueError(f"{what} {path!r} fails: {type(error).__name__}: {error} (--debug shows "
                     "where)") from error
