"""Small files that ship with mdx: texts, conversations, spoken digits, and their tokenizers.

Contents: path, resolve, names. `README.md` in this folder says where each file comes
from. Anywhere mdx takes a path, "asset:holmes.txt.xz" means the file here.
"""

from __future__ import annotations

import importlib.resources
import os

PREFIX = "asset:"
_NOT_ASSETS = (".py", ".pyc", ".md")


def names() -> list[str]:
  """The assets that this installation has."""
  folder = importlib.resources.files(__name__)
  return sorted(f.name for f in folder.iterdir()
                if f.is_file() and not f.name.endswith(_NOT_ASSETS))


def path(name: str) -> str:
  """Returns the path of an asset on disk.

  Raises:
    ValueError: no such asset; lists the ones there are.
  """
  if name not in names():
    raise ValueError(f"no asset {name!r}; the assets are {', '.join(names()) or 'none'}.")
  return str(importlib.resources.files(__name__) / name)


def resolve(name_or_path: str | os.PathLike) -> str:
  """Turns "asset:NAME" into its path; returns every other path unchanged."""
  text = os.fspath(name_or_path)
  return path(text[len(PREFIX):]) if text.startswith(PREFIX) else text
