"""Checksums of arrays, the same on every mesh, and of JSON values.

Contents: of_items, of_json, gathered, differing.

Convention: the sum of an array is that of its bit patterns, each times an odd weight of its
position in the whole array, modulo 2^32: one changed element always changes it, and shards can be
summed apart. Arrays on accelerators are summed there.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx.utils import processes
from mdx.utils import tree

_WORD = 2 ** 32


def _weighted(xp: Any, bits: Any, starts: tuple[int, ...], shape: tuple[int, ...]) -> Any:
  """Sum of unsigned integers, a block of an array of `shape` that begins at `starts`."""
  position, stride = xp.zeros((1,) * len(shape), xp.uint32), 1
  for axis in reversed(range(len(shape))):
    length = bits.shape[axis]
    along = (starts[axis] + xp.arange(length, dtype=xp.uint32)) * xp.uint32(stride % _WORD)
    position = position + along.reshape(
        tuple(length if axis == a else 1 for a in range(len(shape))))
    stride *= shape[axis]
  weight = 2 * position + xp.uint32(1)
  return xp.sum(bits.astype(xp.uint32) * weight, dtype=xp.uint32)


def _words(xp: Any, bits: Any, ndim: int) -> Any:
  """Elements of eight bytes, split into two words, as one."""
  return bits if bits.ndim == ndim else bits[..., 0] + bits[..., 1] * xp.uint32(5)


def _on_host(x: jax.Array) -> int:
  total = 0
  for shard in x.addressable_shards:
    if shard.replica_id:
      continue
    block: np.ndarray = np.asarray(shard.data)
    words = max(block.dtype.itemsize // 4, 1)
    bits: np.ndarray = np.ascontiguousarray(block).reshape(-1)
    bits = bits.view(f"uint{8 * block.dtype.itemsize // words}")
    bits = bits.reshape(block.shape + ((words,) if words > 1 else ()))
    starts = tuple(s.start or 0 for s in shard.index)
    total += int(_weighted(np, _words(np, bits, x.ndim), starts, x.shape))
  return total % _WORD


def _on_device(x: jax.Array) -> jax.Array:
  if x.dtype == jnp.bool_ or x.dtype.itemsize == 1 and x.dtype.kind in "iu":
    bits = x.astype(jnp.uint8)
  else:
    size = min(x.dtype.itemsize, 4)
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * size}")
  return _weighted(jnp, _words(jnp, bits, x.ndim), (0,) * x.ndim, x.shape)


_sums = jax.jit(lambda leaves: jnp.stack([_on_device(x) for x in leaves]))


def _on_devices(leaves: list[jax.Array]) -> list[int]:
  mesh = getattr(leaves[0].sharding, "mesh", None)  # which need not be that of the context
  with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
    return processes.fetch(_sums(leaves)).tolist()


def of_items(items: Mapping[str, Any]) -> dict[str, dict[str, int]]:
  """{item: {path: checksum}} of trees of arrays, also of arrays over several processes."""
  paths, leaves = [], []  # type: list[tuple[str, str]], list[Any]
  for item, one in items.items():
    for path, leaf in tree.flatten(one).items():
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      paths.append((item, path))
      leaves.append(jnp.asarray(leaf))
  if not leaves:
    return {}
  is_local = jax.process_count() == 1 and all(
      d.platform == "cpu" for d in leaves[0].sharding.device_set)
  sums = [_on_host(x) for x in leaves] if is_local else _on_devices(leaves)
  found: dict[str, dict[str, int]] = {}
  for (item, path), value in zip(paths, sums, strict=True):
    found.setdefault(item, {})[path] = value
  return found


def of_json(value: Any) -> int:
  """Checksum of a value of JSON, the same after it was written and read."""
  plain = json.loads(json.dumps(value))
  return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def gathered(value: int) -> list[int]:
  """The checksums of all processes, sorted."""
  return sorted(int(x) for x in np.ravel(processes.fetch(np.array([value], np.uint32))))


def differing(stored: Mapping[str, int], found: Mapping[str, int]) -> str:
  """Path of the first array whose checksum is not the stored one; "" if there is none."""
  return next((path for path, value in found.items() if stored.get(path, value) != value), "")
