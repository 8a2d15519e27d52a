"""Safetensors directories: one file or shards with an index, read and written by tensor.

Contents: Reader, Pending, write.

Convention: opening reads headers only. Pickles are refused: reading one runs its code. What
torch.compile and its parallel wrappers put into names (`_orig_mod.`, `module.`) is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
from typing import Any, Callable, Sequence

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from mdx.utils import readers
from mdx.utils import streams

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16),
          "F16": np.dtype(np.float16), "F64": np.dtype(np.float64)}
# Of quantised weights, which the library does not hand to numpy.
_EIGHT_BITS = {"F8_E4M3": np.dtype(jnp.float8_e4m3fn)}
# Of buffers, which are copied and never computed with.
_OTHER_DTYPES = {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "U8": np.dtype(np.uint8),
                 "BOOL": np.dtype(np.bool_), **_EIGHT_BITS}
_MAX_SHARD_BYTES = 4 * 2 ** 30
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")


class Reader:
  """The tensors of a directory, read lazily.

  Attributes:
    path: the directory.
    names: names of all tensors.
  """

  def __init__(self, path: str | pathlib.Path, file: str = FILE):
    """Opens every file and reads its header.

    Args:
      path: the directory.
      file: the one file that holds all tensors, where there are no shards.

    Raises:
      ValueError: no safetensors, a missing, truncated or foreign file, or an index that
        disagrees with the files.
    """
    self.path, self._file = pathlib.Path(path), file
    self._stack = contextlib.ExitStack()
    self._handles, self._slices, self._headers = {}, {}, {}
    try:
      self._files = {}
      for stored, file in self._find().items():
        name = _WRAPPED.sub("", stored)
        if name in self._files:
          raise ValueError(f"{self.path / file} has tensor {name!r} twice, also as {stored!r}; "
                           "leave one of them out.")
        self._files[name], self._slices[name] = file, self._slice(stored, file)
    except BaseException:
      self.close()
      raise
    self.names = tuple(self._files)

  def _find(self) -> dict[str, str]:
    """Returns the file of each tensor."""
    if (self.path / self._file).is_file():
      return dict.fromkeys(self._open(self._file).keys(), self._file)
    if self._file == FILE and (self.path / INDEX).is_file():
      return _read_index(self.path)
    pickles = [p.name for pattern in PICKLES for p in sorted(self.path.glob(pattern))]
    if pickles:
      raise ValueError(f"{self.path / pickles[0]} is a pickle, and reading one can run any code; "
                       f"convert it to {self._file} where you trust it.")
    shards = f", or {INDEX} and its shards" if self._file == FILE else ""
    raise ValueError(f"{self.path} has no weights; expected {self._file}{shards}.")

  def _open(self, file: str):
    if file not in self._handles:
      try:
        streams.check_regular(self.path / file)
        handle = safetensors.safe_open(self.path / file, "numpy")
      except FileNotFoundError:
        raise ValueError(f"{self.path / file} is missing, which {INDEX} names; fetch it "
                         "again.") from None
      except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{self.path / file} {_damage(self.path / file, error)}.") from None
      self._handles[file] = self._stack.enter_context(handle)
    return self._handles[file]

  def _slice(self, name: str, file: str):
    try:
      return self._open(file).get_slice(name)
    except safetensors.SafetensorError:
      raise ValueError(f"{self.path / file} lacks tensor {name!r}, which {INDEX} says it has; "
                       "fetch both again.") from None

  def close(self) -> None:
    """Closes the files."""
    self._handles, self._slices = {}, {}
    self._stack.close()

  def __enter__(self) -> Reader:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def where(self, name: str) -> str:
    """A tensor and its file in words, for messages."""
    return f"tensor {name!r} in {self.path / self._files[name]}"

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return tuple(self._slices[name].get_shape())

  def dtype(self, name: str, *, of_any_kind: bool = False) -> np.dtype:
    """Type of a tensor, which must be floating unless it may be `of_any_kind`.

    Raises:
      ValueError: not one of `DTYPES`.
    """
    code = self._slices[name].get_dtype()
    if of_any_kind and code in _OTHER_DTYPES:
      return _OTHER_DTYPES[code]
    if code not in DTYPES:
      raise ValueError(f"{self.where(name)} is stored as {code}; expected "
                       f"{', '.join(DTYPES)} (quantised weights are read where config.json says "
                       "how, in quantization_config).")
    return DTYPES[code]

  def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a part of a tensor, one slice for each dimension."""
    if self._slices[name].get_dtype() in _EIGHT_BITS:
      return self._mapped(name)[index]
    return self._slices[name][index]

  def _mapped(self, name: str) -> np.ndarray:
    """A tensor as a view of its file."""
    path, found = self.path / self._files[name], self._slices[name]
    if path not in self._headers:
      with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        self._headers[path] = 8 + length, json.loads(f.read(length))
    begin, header = self._headers[path]
    entry = next(entry for stored, entry in header.items() if _WRAPPED.sub("", stored) == name)
    shape, dtype = tuple(found.get_shape()), _EIGHT_BITS[found.get_dtype()]
    if not all(shape):
      return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", begin + entry["data_offsets"][0], shape)


def _read_index(path: pathlib.Path) -> dict[str, str]:
  try:
    files = readers.read_json(path / INDEX, "fetch it again")["weight_map"]
    # The name of "" is "", and that of ".." is "..".
    usable = bool(files) and all(pathlib.PurePath(f).name == f and f not in ("", "..")
                                 and "\0" not in f for f in files.values())
  except (ValueError, KeyError, TypeError, AttributeError):
    usable = False
  if not usable:
    raise ValueError(f"{path / INDEX} is not an index; expected a weight_map of tensor names to "
                     "files beside it.")
  return files


def _damage(path: pathlib.Path, error: Exception) -> str:
  """Says what is wrong with a file that does not open."""
  size = path.stat().st_size
  with path.open("rb") as f:
    start = f.read(8)
    length = int.from_bytes(start, "little")
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
      return "is a pickle under another name, and reading one can run any code; it is refused"
    if start == b"version ":
      return "is a Git LFS pointer, not the weights; run git lfs pull"
    if length > size - 8:
      return f"is truncated: {size} bytes end within its header; fetch it again"
    try:
      ends = {name: 8 + length + entry["data_offsets"][1]
              for name, entry in json.loads(f.read(length)).items() if name != "__metadata__"}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
      return f"is not a safetensors file ({error})"
  cut = sorted((end, name) for name, end in ends.items() if end > size)
  if cut:
    return (f"is truncated: tensor {cut[0][1]!r} ends at byte {cut[0][0]}, the file at {size}; "
            "fetch it again")
  return f"is damaged ({error}); fetch it again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pending:
  """A tensor that will be written.

  Attributes:
    name, shape, dtype: what the file says of it.
    fetch: brings it to the host.
  """
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  fetch: Callable[[], np.ndarray]

  @property
  def num_bytes(self) -> int:
    """Bytes of the tensor."""
    return int(np.prod(self.shape)) * self.dtype.itemsize


def write(path: pathlib.Path, tensors: Sequence[Pending], *, is_writer: bool = True,
          max_shard_bytes: int = _MAX_SHARD_BYTES, name: str = FILE) -> None:
  """Writes tensors, holding one shard at a time.

  Args:
    path: an existing directory.
    tensors: in the order of the files.
    is_writer: False on the processes of a job that only take part in `fetch`.
    max_shard_bytes: a file grows no larger than this, unless by a single tensor.
    name: of the file, if there is only one.

  Raises:
    OSError: it cannot be written.
  """
  shards: list[list[Pending]] = []
  room = -1
  for tensor in tensors:
    if tensor.num_bytes > room or not shards:
      shards.append([])
      room = max_shard_bytes
    shards[-1].append(tensor)
    room -= tensor.num_bytes
  files: dict[str, str] = {}
  for i, shard in enumerate(shards):
    file = name if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    values: dict[str, Any] = {}
    for tensor in shard:
      # The file is written from memory in order: a transposed view would be stored wrongly.
      value = np.ascontiguousarray(tensor.fetch())
      if is_writer:
        values[tensor.name] = value
    files |= dict.fromkeys([t.name for t in shard], file)
    if is_writer:
      try:
        safetensors_numpy.save_file(values, path / file, metadata={"format": "pt"})
      except safetensors.SafetensorError as error:
        raise OSError(f"{path / file} could not be written ({error}).") from None
  if is_writer and len(shards) > 1:
    index = {"metadata": {"total_size": sum(t.num_bytes for t in tensors)}, "weight_map": files}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
