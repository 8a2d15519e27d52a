"""Tensors of a Hugging Face directory <-> our parameters, one tensor at a time.

Contents: Entry, entries, unlike, check, is_beside, check_numbers, stored_types, load, head,
pending, beside.

Convention: a block of a parameter (what one device holds of it) is read tensor by tensor,
put on its device and forgotten, so that a model is never twice in memory. Rows that pad the
vocabulary are ours alone: zero after import, left out on export.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from typing import Any, Callable, Collection, Mapping, Sequence

import jax
from jax.experimental import multihost_utils
import numpy as np

from mdx.interop import family as family_lib
from mdx.interop import quantised
from mdx.interop import safetensors
from mdx.networks import axes as axes_lib
from mdx.networks import transformer
from mdx.networks.adaptation import sites
from mdx.utils import tree

# Bits of infinity, without the sign; those of what is no number are larger.
_FIRST_NO_NUMBER = {safetensors.DTYPES["BF16"]: 0x7F80, safetensors.DTYPES["F16"]: 0x7C00}
_COLUMNS = 64  # of a transposed copy: three times faster than all at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A parameter and its tensors.

  Attributes:
    path: of the parameter.
    names: place in its stacked axes -> tensor; places without one are not read.
    stacked: number of its leading axes that are stacked: of layers, and of experts.
    transpose: the tensors are stored transposed.
    part: (begin, end, n) of n equal parts of a tensor's first axis.
    shape: of that part, as the files have it.
    copies: name -> further names under which the files hold the same tensor.
  """
  path: str
  names: Mapping[tuple[int, ...], str]
  stacked: int
  transpose: bool
  part: tuple[int, int, int]
  shape: tuple[int, ...]
  copies: Mapping[str, tuple[str, ...]]

  @property
  def stored_shape(self) -> tuple[int, ...]:
    """Shape of a whole tensor."""
    return (self.unit * self.part[2],) + self.shape[1:]

  @property
  def unit(self) -> int:
    """Rows of one of the equal parts."""
    return self.shape[0] // (self.part[1] - self.part[0])


def entries(family: family_lib.Family, spec: transformer.Transformer, params: Any,
            present: Collection[str] = ()) -> dict[str, Entry]:
  """The entry of every parameter.

  Args:
    family: whose names.
    spec: of the model in the files; gives the rows of its vocabulary.
    params: tree of arrays or shape structs of the model here.
    present: names of tensors in the files, which decide where a tensor has several.

  Raises:
    ValueError: the family has no such parameter, or `params` lacks one of it.
  """
  table, leaves = family.tensors(spec), tree.flatten(params)
  for path in [p for p in leaves if p not in table]:
    raise ValueError(f"parameter {path} has no tensor in models of type {family.model_type!r}; "
                     "check the fields of config.network.")
  present = {name for name in present if not is_beside(family, name)}
  found, adapted = {}, sites.leaves(spec)
  for path, tensor in table.items():
    if path not in leaves:
      raise ValueError(f"tensor {tensor.name!r} has no parameter {path} in this model; check the "
                       "fields of config.network.")
    stacked = sum(name in tensor.name for name in ("{layer}", "{expert}"))
    axes = axes_lib.axes(path, leaves[path].shape, adapted)
    shape = [spec.vocab_size if axis == "vocab" else size
             for axis, size in zip(axes, leaves[path].shape)][stacked:]
    names, copies = {}, {}
    for place in itertools.product(*map(range, leaves[path].shape[:stacked])):
      if place and place[0] < tensor.first:
        continue
      layer, expert = (*place, 0, 0)[:2]
      known = [name.format(layer=layer + tensor.begin, expert=expert)
               for name in (tensor.name, *tensor.also)]
      there = [name for name in known if name in present] or known[:1]
      names[place] = there[0]
      copies[there[0]] = tuple(there[1:])
    found[path] = Entry(path=path, names=names, stacked=stacked,
                        transpose=tensor.transpose, part=tensor.part, copies=copies,
                        shape=tuple(shape[::-1] if tensor.transpose else shape))
  return found


def unlike(family: family_lib.Family, spec: transformer.Transformer,
           reader: safetensors.Reader) -> dict[str, list[str]]:
  """Path of a parameter -> names under which the files hold something else than what counts."""
  found = {}
  for path, tensor in family.tensors(spec).items():
    if not tensor.also:
      continue
    for layer in range(spec.num_layers) if "{layer}" in tensor.name else (0,):
      names = [name.format(layer=layer) for name in (tensor.name, *tensor.also)]
      names = [name for name in names if name in reader.names]
      used = tensor.used.format(layer=layer) if tensor.used.format(layer=layer) in names else (
          names[:1] or [""])[0]
      others = [name for name in names if name != used and not _is_equal(reader, name, used)]
      if others:
        found[path] = found.get(path, []) + others
  return found


def _is_equal(reader: safetensors.Reader, one: str, other: str) -> bool:
  shape = reader.shape(one)
  if shape != reader.shape(other):
    return False
  rows = max(2**22 // int(np.prod(shape[1:], dtype=np.int64)), 1) if len(shape) > 1 else 2**22
  rest = (slice(None),) * (len(shape) - 1)
  for first in range(0, shape[0], rows):
    part = (slice(first, min(first + rows, shape[0])), *rest)
    pair = [reader.read(name, part) for name in (one, other)]
    if not np.array_equal(*pair):
      return False
  return True


def check(family: family_lib.Family, reader: safetensors.Reader,
          table: Mapping[str, Entry]) -> None:
  """Checks names, shapes and types against the headers; reads no tensor.

  Raises:
    ValueError: a tensor is missing, too many, of another shape or not of floats.
  """
  expected = {copy: entry for entry in table.values() for name in entry.names.values()
              for copy in (name, *entry.copies[name])}
  extra = [name for name in reader.names if name not in expected and not is_beside(family, name)]
  _check_tensors(reader, expected, extra)


def _check_tensors(reader, expected, extra=()):
  """Raises ValueError unless tensors are there as expected, and none is `extra`."""
  missing = [name for name in expected if name not in reader.names]
  if missing:
    raise ValueError(f"{reader.path} lacks tensor {missing[0]!r}{_more(missing)}, which its "
                     "config.json asks for.")
  if extra:
    raise ValueError(f"{reader.where(extra[0])}{_more(extra)} has no place in the model that "
                     "config.json describes.")
  for name, entry in expected.items():
    if reader.shape(name) != entry.stored_shape:
      raise ValueError(f"{reader.where(name)} has shape {reader.shape(name)}; this model expects "
                       f"{entry.stored_shape}.")
    reader.dtype(name)


def is_beside(family: family_lib.Family, name: str) -> bool:
  """Whether a tensor may be there without being part of the network."""
  return any(re.fullmatch(pattern, name) for pattern in family.beside)


def check_numbers(value: np.ndarray, where: str) -> None:
  """Raises ValueError if some weights, which stand `where`, are infinite or no numbers."""
  if not value.size:
    return
  if first := _FIRST_NO_NUMBER.get(value.dtype):  # several times faster than isfinite
    is_finite = (value.view(np.uint16) & 0x7FFF).max() < first
  else:
    is_finite = np.isfinite(value.min()) and np.isfinite(value.max())
  if not is_finite:
    raise ValueError(f"{where} has numbers that are infinite or no numbers (nan); such weights "
                     "compute nothing: fetch them again, or take another checkpoint.")


def _more(names: Sequence[str]) -> str:
  return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def stored_types(reader: safetensors.Reader, table: Mapping[str, Entry], shapes: Any) -> Any:
  """Shape structs with bfloat16 where all tensors of a parameter are stored so."""
  bfloat16 = safetensors.DTYPES["BF16"]

  def typed(path, leaf):
    is_half = all(reader.dtype(name) == bfloat16 for name in table[path].names.values())
    return jax.ShapeDtypeStruct(leaf.shape, bfloat16 if is_half else leaf.dtype,
                                sharding=leaf.sharding)

  return tree.map_with_path(typed, shapes)


def load(reader: safetensors.Reader, table: Mapping[str, Entry], shapes: Any,
         finish: Callable[[str, jax.Array], Any] = lambda path, x: x) -> Any:
  """Reads parameters onto their devices.

  Args:
    reader: files that passed `check`.
    table: see `entries`.
    shapes: tree of shape structs; those without a sharding go to the first device. Values
      are cast to their types.
    finish: (path, parameter) -> what takes its place; called before the next one is read.
  """
  return tree.map_with_path(
      lambda path, leaf: finish(path, _place(reader, table[path], leaf)), shapes)


def head(path: Any, tensors: Mapping[str, family_lib.Tensor], shapes: Any) -> Callable[[], Any]:
  """Checks the tensors of a head beside a network, and returns a function that reads them.

  Args:
    path: the directory.
    tensors: parameter path -> Tensor, which is not stacked.
    shapes: tree of shape structs, with shardings where there is a mesh.

  Raises:
    ValueError: a tensor is missing, of another shape or not of floats.
  """
  leaves = tree.flatten(shapes)
  table = {key: Entry(path=key, names={(): one.name}, stacked=0, transpose=one.transpose,
                      part=one.part, copies={one.name: ()},
                      shape=leaves[key].shape[::-1] if one.transpose else leaves[key].shape)
           for key, one in tensors.items()}
  with quantised.open_reader(path) as reader:
    _check_tensors(reader, {entry.names[()]: entry for entry in table.values()})

  def read():
    with quantised.open_reader(path) as reader:
      return load(reader, table, shapes)

  return read


def _place(reader: safetensors.Reader, entry: Entry, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Makes one array, block by block; devices with the same block share its reading."""
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  blocks: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
  for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
    bounds = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape))
    blocks.setdefault(bounds, []).append(device)
  buffers = []
  for bounds, devices in blocks.items():
    block = _read(reader, entry, bounds, leaf.dtype)
    buffers += [jax.device_put(block, device) for device in devices]
    jax.block_until_ready(buffers)  # the host holds one block at a time
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, buffers)


def _read(reader: safetensors.Reader, entry: Entry, bounds, dtype: np.dtype) -> np.ndarray:
  """Reads the block of a parameter between bounds, a pair (start, stop) a dimension."""
  block = np.zeros([stop - start for start, stop in bounds], dtype)
  stack, bounds = bounds[:entry.stacked], list(bounds[entry.stacked:])
  for place in itertools.product(*(range(*bound) for bound in stack)):
    if place not in entry.names:
      continue
    name, target = entry.names[place], block[tuple(i - bound[0] for i, bound in zip(place, stack))]
    target, index = (target.T, bounds[::-1]) if entry.transpose else (target, bounds)
    index = [(min(start, size), min(stop, size)) for (start, stop), size in zip(index, entry.shape)]
    begin = entry.part[0] * entry.unit
    index = [(index[0][0] + begin, index[0][1] + begin)] + index[1:]
    value = reader.read(name, tuple(slice(*bound) for bound in index))
    check_numbers(value, reader.where(name))
    target = target[tuple(slice(0, size) for size in value.shape)]
    for i in range(0, len(value), _COLUMNS):
      target[i:i + _COLUMNS] = value[i:i + _COLUMNS]
  return block


def pending(table: Mapping[str, Entry], params: Any,
            dtypes: Mapping[str, np.dtype]) -> list[safetensors.Pending]:
  """The tensors of parameters, to be fetched one at a time, blocks in order.

  Args:
    table: see `entries`.
    params: tree of arrays, of any sharding; every process of a job must fetch.
    dtypes: tensor name -> type to store; the parameter's own where it is silent.
  """
  leaves, parts = tree.flatten(params), {}
  for entry in table.values():
    for place, name in entry.names.items():
      parts.setdefault(name, []).append((entry.part[0], place, entry))
  found = []
  for name, pieces in parts.items():
    pieces.sort(key=lambda piece: piece[0])
    _, place, entry = pieces[0]
    dtype = np.dtype(dtypes.get(name, leaves[entry.path].dtype))
    fetch = functools.partial(_fetch_all, [(leaves[e.path], e) for _, _, e in pieces], place, dtype)
    found += [(place[0] if entry.stacked else -1, safetensors.Pending(
        name=copy, shape=entry.stored_shape, dtype=dtype, fetch=fetch))
        for copy in (name, *entry.copies[name])]
  return [tensor for _, tensor in sorted(found, key=lambda pair: pair[0])]


def beside(family: family_lib.Family, reader: safetensors.Reader) -> list[safetensors.Pending]:
  """The tensors of some files that are no part of the network, to be copied as they are."""
  return [safetensors.Pending(
      name=name, shape=reader.shape(name), dtype=reader.dtype(name, of_any_kind=True),
      fetch=functools.partial(reader.read, name, (slice(None),) * len(reader.shape(name))))
          for name in reader.names if is_beside(family, name)]


def _fetch_all(pieces: Sequence[tuple[jax.Array, Entry]], place: tuple[int, ...],
               dtype: np.dtype) -> np.ndarray:
  values = [_fetch(leaf, entry, place, dtype) for leaf, entry in pieces]
  return values[0] if len(values) == 1 else np.concatenate(values)


def _fetch(leaf: jax.Array, entry: Entry, place: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  value, rest = leaf, leaf.shape[len(place):]
  if place:
    value = jax.lax.dynamic_slice(leaf, place + (0,) * len(rest), (1,) * len(place) + rest)
    value = value.reshape(rest)
  if isinstance(value, jax.Array) and not value.is_fully_addressable:
    value = multihost_utils.process_allgather(value, tiled=True)
  value = np.asarray(value)
  value = value.T if entry.transpose else value
  return value[tuple(slice(0, size) for size in entry.shape)].astype(dtype)
