"""Memory of a device: what parameters need, and what it has.

Contents: per_device, limit, check, announce.
"""

from __future__ import annotations

import math
import os
from typing import Any

import jax

_GIB = 2 ** 30


def per_device(shapes: Any) -> int:
  """Bytes of a tree of arrays or shape structs on the device that holds most of it."""
  def one(leaf):
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize
  return sum(map(one, jax.tree.leaves(shapes)))


def limit(device: jax.Device | None = None) -> int:
  """Bytes that a device (default: the first) may use; of a CPU, the machine's memory."""
  device = device or jax.local_devices()[0]
  stats = device.memory_stats() if device.platform != "cpu" else None
  if stats and "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def check(name: str, shapes: Any) -> None:
  """Raises ValueError for arrays that cannot be on the devices of this job.

  Args:
    name: what they are, for people.
    shapes: tree of shape structs with shardings.
  """
  need, room = per_device(shapes), limit()
  if need > room:
    raise ValueError(f"{name} needs {need / _GIB:,.1f} GiB on each of {jax.device_count()} "
                     f"device(s), which have {room / _GIB:,.1f} GiB; use a smaller network, a mesh "
                     "that cuts it (mesh.fsdp, mesh.tensor), or more devices.")


def announce(name: str, shapes: Any) -> None:
  """Says what a model of a GiB or more, or one that does not fit, needs before it is loaded."""
  need, room = per_device(shapes), limit()
  if jax.process_index() or need < min(_GIB, room):
    return
  number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  verdict = "" if need < room else (
      ": too much; use init.weights=int8 or dtype bfloat16 weights, or more devices (mesh)")
  print(f"{name}: {number / 1e9:.2f} billion parameters need {need / _GIB:.1f} GiB of the "
        f"{room / _GIB:.1f} GiB of each of {jax.device_count()} device(s){verdict}", flush=True)
