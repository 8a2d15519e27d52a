"""Bytes of files that others wrote: regular files only, and unpacked only so far.

Contents: MAX_UNPACKED_BYTES, check_regular, read_bytes.
"""

from __future__ import annotations

import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MAX_UNPACKED_BYTES = 256 * 2**20  # of a packed file; a megabyte can hold gigabytes
_MAX_DICTIONARY_BYTES = 256 * 2**20  # that unpacking .xz may ask for; its presets need up to 65 MiB
_CHUNK_BYTES = 2**20
_GZIP = 16 + zlib.MAX_WBITS
_KINDS = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"),
          (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"))


def check_regular(path: str | os.PathLike) -> None:
  """Refuses what has no end or blocks.

  Raises:
    OSError: there is nothing at the path.
    ValueError: a directory, a FIFO, a socket or a device.
  """
  mode = os.stat(path).st_mode
  if not stat.S_ISREG(mode):
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "special file")
    raise ValueError(f"{os.fspath(path)}: expected a regular file, got a {kind}; copy what it "
                     "holds into a file.")


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads a regular file, plain, .xz or .gz, with memory of what it holds and a few megabytes.

  Raises:
    ValueError: no regular file, or a packed one that holds more than MAX_UNPACKED_BYTES.
    OSError, EOFError, lzma.LZMAError, zlib.error: it cannot be read, or is cut short.
  """
  check_regular(path)
  new = _UNPACKERS.get(os.path.splitext(path)[1])
  with open(path, "rb") as f:
    if new is None:
      return f.read()
    parts, size = [], 0
    for part in _unpacked(f, new):
      parts.append(part)
      size += len(part)
      if size > MAX_UNPACKED_BYTES:
        raise ValueError(f"{os.fspath(path)}: it holds more than {MAX_UNPACKED_BYTES:,} bytes, the "
                         "limit for a packed file; unpack it, and name the unpacked file.")
  return b"".join(parts)


class _Gzip:
  """zlib's decompressor with the interface of lzma's."""

  def __init__(self):
    self._object, self._tail = zlib.decompressobj(_GZIP), b""

  @property
  def eof(self) -> bool:
    return self._object.eof

  @property
  def needs_input(self) -> bool:
    return not self._tail

  @property
  def unused_data(self) -> bytes:
    return self._object.unused_data

  def decompress(self, data: bytes, max_length: int) -> bytes:
    """At most `max_length` bytes; what was not consumed is kept."""
    found = self._object.decompress(self._tail + data, max_length)
    self._tail = self._object.unconsumed_tail
    return found


def _new_lzma() -> lzma.LZMADecompressor:
  return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_MAX_DICTIONARY_BYTES)


_UNPACKERS: dict[str, Callable[[], Any]] = {".xz": _new_lzma, ".gz": _Gzip}


def _unpacked(file: BinaryIO, new: Callable[[], Any]) -> Iterator[bytes]:
  """Contents of the streams of a file, in parts of at most a megabyte."""
  data = file.read(_CHUNK_BYTES)
  while data:
    unpacker = new()
    while not unpacker.eof:
      part = unpacker.decompress(data, _CHUNK_BYTES)
      data = b""
      if part:
        yield part
      elif not unpacker.eof and unpacker.needs_input and not (data := file.read(_CHUNK_BYTES)):
        raise EOFError("it ends within a stream")
    # Zeros may pad the end of a stream.
    data = unpacker.unused_data.lstrip(b"\0")
    while not data and (more := file.read(_CHUNK_BYTES)):
      data = more.lstrip(b"\0")
