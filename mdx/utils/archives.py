""".zip files that others wrote: their names, and their contents up to a limit.

Contents: names, read.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator

from mdx.utils import readers
from mdx.utils import streams

# zipfile raises RuntimeError for a password, NotImplementedError for a method it does not know.
_ERRORS = (zipfile.BadZipFile, OSError, EOFError, KeyError, RuntimeError, zlib.error)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
  try:
    with zipfile.ZipFile(path) as file:
      yield file
  except _ERRORS as e:
    raise ValueError(f"{path}: not a .zip file that can be read ({readers.reason(e)}); correct it, "
                     "or unpack it and give the folder.") from e


def names(path: str) -> list[str]:
  """Names of the files of an archive, sorted.

  Raises:
    ValueError: no archive.
  """
  with _opened(path) as file:
    return sorted(entry.filename for entry in file.infolist() if not entry.is_dir())


def read(path: str, chosen: list[str]) -> dict[str, bytes]:
  """Contents of files of an archive by name.

  Raises:
    ValueError: no archive, no such file, or more than streams.MAX_UNPACKED_BYTES in all.
  """
  with _opened(path) as file:
    size = sum(file.getinfo(name).file_size for name in chosen)
    if size > streams.MAX_UNPACKED_BYTES:
      raise ValueError(f"{path}: its files hold {size:,} bytes, more than the limit of "
                       f"{streams.MAX_UNPACKED_BYTES:,}; unpack it, and give the folder.")
    return {name: file.read(name) for name in chosen}
