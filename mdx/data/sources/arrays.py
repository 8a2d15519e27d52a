"""Arrays of vectors: frames of sound, patches of images.

Contents: Arrays, read.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx.data.sources import files
from mdx.utils import readers
from mdx.utils import streams

_BESIDE = {"y", "text", "scale"}  # arrays of a file beside its records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(files.Files):
  """.npz files of numbers, which are read into memory.

  A file has `x` [N, n, channels], as `np.savez(path, x=x, y=y)` writes it, or one array [n,
  channels] a record, of any n, as `np.savez(path, *arrays, y=y)` does; and, if wanted, `y` int [N],
  the labels, `text` [N], the transcripts, and `scale` [], a factor of all values.
  """

  layout = "frames"

  def _read(self, paths):
    return readers.Concatenated([_records(path) for path in paths])


def read(path: str) -> dict[str, np.ndarray]:
  """The plain arrays of an .npz file by name; ValueError for another file."""
  try:
    with zipfile.ZipFile(path) as file:
      packed = sum(x.file_size for x in file.infolist() if x.compress_type != zipfile.ZIP_STORED)
    if packed > streams.MAX_UNPACKED_BYTES:
      raise ValueError(f"its packed arrays hold {packed:,} bytes, more than the limit of "
                       f"{streams.MAX_UNPACKED_BYTES:,}, which numpy.savez does not need")
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError,
          NotImplementedError, RuntimeError, MemoryError, zlib.error) as e:
    raise ValueError(f"{path}: not an .npz file of plain arrays ({readers.reason(e)}); write it "
                     "with numpy.savez.") from e


def _records(path: str) -> Sequence[dict[str, Any]]:
  found = read(path)
  arrays = _arrays(found, path)
  for i, x in enumerate(arrays):
    if x.ndim != 2 or x.dtype.kind not in "fiub" or x.shape[1] != arrays[0].shape[1]:
      raise ValueError(f"{path}, record {i}: {x.dtype} of shape {x.shape}; expected numbers of "
                       "shape [n, channels], with the channels of all others.")
    if not np.isfinite(x).all():
      raise ValueError(f"{path}, record {i}: a value is nan or infinite; correct it, or leave the "
                       "record out.")
  scale = np.float32(_of_file(found, "scale", path, (), "fiu", 1.0))
  records = tuple({"x": scale * np.asarray(x, np.float32)} for x in arrays)
  if "text" in found:
    texts = _of_file(found, "text", path, (len(arrays),), "U")
    records = tuple({**one, "text": str(text)} for one, text in zip(records, texts))
  labels = found.get("y")
  if labels is None:
    return records
  if labels.shape != (len(arrays),) or labels.dtype.kind not in "iu":
    raise ValueError(f"{path}: y is {labels.dtype} of shape {labels.shape}; expected an int for "
                     f"each of the {len(arrays)} records.")
  return tuple({**one, "label": int(y)} for one, y in zip(records, labels))


def _of_file(found, name, path, shape, kinds, default=None):
  """An array of a file that need not be there."""
  value = np.asarray(found.get(name, default))
  if value.shape != shape or value.dtype.kind not in kinds:
    raise ValueError(f"{path}: {name} is {value.dtype} of shape {value.shape}; expected "
                     f"{'texts' if kinds == 'U' else 'a number'} of shape {shape}.")
  return value


def _arrays(found: Mapping[str, np.ndarray], path: str) -> list[np.ndarray]:
  """The arrays of a file, one a record."""
  if "x" in found:
    if found["x"].ndim != 3:
      raise ValueError(f"{path}: x has shape {found['x'].shape}; expected [records, n, channels].")
    return list(found["x"])
  names = [f"arr_{i}" for i in range(len(set(found) - _BESIDE))]
  if not names or set(names) != set(found) - _BESIDE:
    raise ValueError(f"{path}: it has {', '.join(found) or 'nothing'}; expected x [records, n, "
                     "channels], or arr_0, arr_1, ... [n, channels], and y.")
  return [found[name] for name in names]
