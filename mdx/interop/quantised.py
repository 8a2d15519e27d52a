"""Quantised weights of released checkpoints, read as the plain matrices that they stand for.

Contents: KEY, BESIDE, Scaled, Integers, METHODS, scheme, Reader, open_reader.

Convention: a matrix NAME.weight [out, in] is stored in parts, NAME.PART. It is computed where it is
read, in float32: the exact product of a code and its scale, rounded once. What no parts belong to
(norms, embeddings, biases) is stored as ever.

References: Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Lin et al. 2023, arXiv:2306.00978 (AWQ);
DeepSeek-AI 2024, arXiv:2412.19437 (floats of 8 bits in blocks).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Callable, ClassVar, Mapping

import numpy as np

from mdx.interop import safetensors
from mdx.interop import settings

KEY = "quantization_config"  # of config.json
BESIDE = ("quantize_config.json", "quant_config.json")  # files that say the same again
_CODES = 64  # words of codes that are unpacked at a time
_Fetch = Callable[[str, tuple[slice, ...]], np.ndarray]
_ALL = slice(None)


@dataclasses.dataclass(frozen=True)
class Scaled:
  """Matrices of floats of 8 bits, with a scale for each block, row or matrix.

  Attributes:
    scales: part with the scales.
    block: rows and columns of a block; None: the shape of the scales says it.
  """
  scales: str
  block: tuple[int, int] | None = None
  optional: ClassVar[tuple[str, ...]] = ("input_scale", "activation_scale")

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts of a matrix, first the one that tells it from a plain one."""
    return self.scales, "weight"

  def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Shape of the matrix; None where the shapes of its parts do not fit."""
    scales, whole = shapes[self.scales], shapes["weight"]
    if len(whole) != 2 or not all(whole) or (len(scales) != 2 and scales not in ((), (1,))):
      return None
    (rows, columns), block = whole, self._block(whole, scales)
    blocks = (-(-rows // block[0]), -(-columns // block[1]))
    return (rows, columns) if len(scales) < 2 or scales == blocks else None

  def _block(self, whole: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if len(scales) < 2:
      return whole[0], whole[1]
    if self.block:
      return self.block
    rows, columns = (1 if number == size else size for number, size in zip(scales, whole))
    return rows, columns

  def read(self, fetch: _Fetch, shapes: Mapping[str, tuple[int, ...]],
           bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Computes the part of a matrix between bounds, float32."""
    value = fetch("weight", tuple(slice(*bound) for bound in bounds)).astype(np.float32)
    sizes = self._block(shapes["weight"], shapes[self.scales])
    scales = fetch(self.scales, (_ALL,) * len(shapes[self.scales])).astype(np.float32)
    scales = scales.reshape(scales.shape if scales.ndim == 2 else (1, 1))
    index = [np.arange(*bound) // size for bound, size in zip(bounds, sizes)]
    for block in np.unique(index[0]):
      value[index[0] == block] *= scales[block, index[1]][None]
    return value


@dataclasses.dataclass(frozen=True)
class Integers:
  """Matrices of integers that are packed into words of 32 bits: (code - zero) * scale.

  Attributes:
    bits: of a code.
    group: inputs that share zeros and scales, where `g_idx` does not say the groups; -1 = all.
    offset: number that is added to stored zeros.
    order: column of a word that stands in each place of it, from the lowest bits; None: the words
      hold codes of neighbouring inputs, and zeros of neighbouring columns in order.
  """
  bits: int
  group: int
  offset: int = 0
  order: tuple[int, ...] | None = None
  optional: ClassVar[tuple[str, ...]] = ("g_idx",)

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts of a matrix, first the one that tells it from a plain one."""
    return "qweight", "qzeros", "scales"

  @property
  def _pack(self) -> int:
    return 32 // self.bits

  def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Shape of the matrix; None where the shapes of its parts do not fit."""
    if any(len(shapes[part]) != 2 for part in self.parts):
      return None
    first, second = shapes["qweight"]
    inputs, outputs = (first, second * self._pack) if self.order else (first * self._pack, second)
    groups = shapes["scales"][0]
    fits = (shapes["scales"] == (groups, outputs) and shapes["qzeros"] == (
        groups, outputs // self._pack) and outputs % self._pack == 0)
    said = shapes["g_idx"] == (inputs,) if "g_idx" in shapes else (
        groups == (1 if self.group < 0 else -(-inputs // self.group)))
    return (outputs, inputs) if fits and said else None

  def _unpacked(self, words: np.ndarray, axis: int) -> np.ndarray:
    """Codes of words [R, C], int32, as many along an axis as a word has."""
    shifts = (self.bits * np.arange(self._pack)).astype(np.uint32)
    shifts = shifts[None, :, None] if axis == 0 else shifts[None, None, :]
    codes = (np.expand_dims(np.ascontiguousarray(words).view(np.uint32), axis + 1) >> shifts) & (
        2 ** self.bits - 1)
    if self.order:
      codes = codes[..., np.argsort(self.order)]
    rows, columns = words.shape
    return codes.astype(np.int32).reshape(
        (rows * self._pack, columns) if axis == 0 else (rows, columns * self._pack))

  def _codes(self, fetch: _Fetch, inputs: tuple[int, int], outputs: tuple[int, int]) -> np.ndarray:
    """Codes [inputs, outputs] between bounds."""
    rows, columns = (inputs, self._words(outputs)) if self.order else (self._words(inputs), outputs)
    codes = self._unpacked(fetch("qweight", (slice(*rows), slice(*columns))), int(bool(self.order)))
    return self._cut(codes.T, outputs).T if self.order else self._cut(codes, inputs)

  def _words(self, bound: tuple[int, int]) -> tuple[int, int]:
    return bound[0] // self._pack, -(-bound[1] // self._pack)

  def _cut(self, codes: np.ndarray, bound: tuple[int, int]) -> np.ndarray:
    start = bound[0] // self._pack * self._pack
    return codes[bound[0] - start:bound[1] - start]

  def read(self, fetch: _Fetch, shapes: Mapping[str, tuple[int, ...]],
           bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Computes the part of a matrix between bounds, float32.

    Raises:
      ValueError: a group that has no scales.
    """
    outputs, (first, last) = bounds
    out = np.empty((last - first, outputs[1] - outputs[0]), np.float32)
    if not out.size:
      return out.T
    zeros = self._unpacked(fetch("qzeros", (_ALL, slice(*self._words(outputs)))), 1)
    zeros = self._cut(zeros.T, outputs).T + self.offset
    scales = fetch("scales", (_ALL, slice(*outputs))).astype(np.float32)
    if "g_idx" in shapes:
      groups = fetch("g_idx", (slice(first, last),))
    else:
      groups = np.arange(first, last) // (self.group if self.group > 0 else last)
    if groups.min() < 0 or groups.max() >= len(scales):
      raise ValueError(f"g_idx names group {groups.max()} of {len(scales)}; fetch it again.")
    for begin in range(first, last, _CODES * self._pack):
      end = min(begin + _CODES * self._pack, last)
      own = groups[begin - first:end - first]
      codes = self._codes(fetch, (begin, end), outputs) - zeros[own]
      out[begin - first:end - first] = codes.astype(np.float32) * scales[own]
    return out.T


def _refuse(name: str, value: Any, expected: str) -> None:
  raise ValueError(f"{KEY}.{name} is {value!r:.60}, which is not read; expected {expected}. Export "
                   "plain weights where the model was quantised.")


def _among(config: Mapping[str, Any], name: str, default: Any, known: tuple[Any, ...]) -> Any:
  value = config.get(name, default)
  if not any(value == one and type(value) is type(one) for one in known):
    _refuse(name, value, " or ".join(map(repr, known)))
  return value


def _size(name: str, value: Any, least: int = 1) -> int:
  if type(value) is not int or not (value == -1 == least or 0 < value < 2**28):
    _refuse(name, value, "a positive integer")
  return value


def _fp8(config: Mapping[str, Any]) -> Scaled:
  _among(config, "fmt", "e4m3", ("e4m3",))
  block = config.get("weight_block_size")
  if block is None:
    return Scaled("weight_scale_inv")
  if not isinstance(block, list) or len(block) != 2:
    _refuse("weight_block_size", block, "two positive integers")
  rows, columns = (_size("weight_block_size", size) for size in block)
  return Scaled("weight_scale_inv", (rows, columns))


def _gptq(config: Mapping[str, Any]) -> Integers:
  name = "checkpoint_format" if "checkpoint_format" in config else "format"
  kind = _among(config, name, "gptq", ("gptq", "gptq_v2"))
  return Integers(bits=_among(config, "bits", None, (4, 8)), offset=int(kind == "gptq"),
                  group=_size("group_size", config.get("group_size", 128), -1))


def _awq(config: Mapping[str, Any]) -> Integers:
  name = "version" if "version" in config else "format"
  _among({name: str(config.get(name, "gemm")).lower()}, name, "gemm", ("gemm",))
  _among(config, "zero_point", True, (True,))
  return Integers(bits=_among(config, "bits", 4, (4,)), order=(0, 2, 4, 6, 1, 3, 5, 7),
                  group=_size("group_size", config.get("group_size", 128), -1))


def _compressed(config: Mapping[str, Any]) -> Scaled:
  _among(config, "format", None, ("float-quantized",))
  groups = config.get("config_groups")
  if not isinstance(groups, dict) or not groups:
    _refuse("config_groups", groups, "groups of modules")
  for group in groups.values():
    own = (group.get("weights") if isinstance(group, dict) else None) or {}
    _among(own, "num_bits", None, (8,))
    _among(own, "type", None, ("float",))
    _among(own, "strategy", None, ("channel", "tensor"))
  return Scaled("weight_scale")


METHODS = {"fp8": _fp8, "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}


def scheme(config: Mapping[str, Any]) -> Scaled | Integers | None:
  """How the weights of a config.json are quantised; None: they are not.

  Raises:
    ValueError: in a way that is not read.
  """
  found = config.get(KEY)
  if found is None:
    return None
  if not isinstance(found, dict):
    raise ValueError(f"{KEY} is {found!r:.60}; expected an object.")
  method = found.get("quant_method")
  if not isinstance(method, str) or method not in METHODS:
    _refuse("quant_method", method, " or ".join(map(repr, METHODS)))
  return METHODS[method](found)


class Reader(safetensors.Reader):
  """The tensors of a directory with quantised weights, under the names of plain ones."""

  def __init__(self, path: str | pathlib.Path, rule: Scaled | Integers):
    """Opens every file, reads its header, and finds the parts of each matrix.

    Raises:
      ValueError: as `safetensors.Reader`, or parts that are missing or do not fit each other.
    """
    super().__init__(path)
    self._rule, self._parts = rule, {}
    try:
      self._find_parts()
    except BaseException:
      self.close()
      raise

  def _find_parts(self) -> None:
    stored, mark, used = set(self.names), self._rule.parts[0], set()
    for name in self.names:
      base, _, last = name.rpartition(".")
      if last != mark:
        continue
      missing = [part for part in self._rule.parts if f"{base}.{part}" not in stored]
      if missing:
        raise ValueError(f"{self.path} lacks tensor {f'{base}.{missing[0]}'!r}, which belongs to "
                         f"{name!r}; fetch it again.")
      parts = {part: f"{base}.{part}" for part in (*self._rule.parts, *self._rule.optional)
               if f"{base}.{part}" in stored}
      shapes = {part: super(Reader, self).shape(whole) for part, whole in parts.items()}
      shape = self._rule.shape(shapes)
      if shape is None:
        raise ValueError(f"{self.where(name)} and its parts have the shapes {shapes}, which do not "
                         f"fit {KEY}; fetch both again.")
      self._parts[f"{base}.weight"] = parts, shapes, shape
      used |= set(parts.values())
    self.names = tuple(name for name in self.names if name not in used) + tuple(self._parts)

  def where(self, name: str) -> str:
    """A tensor and its file in words, for messages."""
    return super().where(self._parts[name][0][self._rule.parts[0]] if name in self._parts else name)

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return self._parts[name][2] if name in self._parts else super().shape(name)

  def dtype(self, name: str, *, of_any_kind: bool = False) -> np.dtype:
    """Type of a tensor as it is read, float32 where it is quantised."""
    if name in self._parts:
      return np.dtype(np.float32)
    return super().dtype(name, of_any_kind=of_any_kind)

  def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a part of a tensor, one slice for each dimension.

    Raises:
      ValueError: codes of a group that has no scales.
    """
    if name not in self._parts:
      return super().read(name, index)
    parts, shapes, shape = self._parts[name]
    bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
    fetch = lambda part, where: super(Reader, self).read(parts[part], where)
    try:
      return self._rule.read(fetch, shapes, bounds)
    except ValueError as error:
      raise ValueError(f"{self.where(name)}: {error}") from None


def open_reader(path: str | pathlib.Path) -> safetensors.Reader:
  """The reader of a directory's weights, quantised or not.

  Raises:
    ValueError: as `scheme` and the readers.
  """
  rule = scheme(settings.load_config(path))
  return safetensors.Reader(path) if rule is None else Reader(path, rule)
