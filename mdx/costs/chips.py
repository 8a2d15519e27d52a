"""Chips to compile for, without having them: topologies, memory, speeds, and links.

Contents: TooLarge, Chip, CHIPS, Target, target, transfer_seconds.

Convention: peaks and sizes are the vendors' figures for a whole chip, GB = 2^30 bytes of memory;
cycles are those of one device (a core where a chip has several). Nothing here was measured.

Speeds of links, both directions apart, in bytes a second: Google's system pages of each TPU, and
Austin et al. 2025, "How to scale your model".
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from mdx.costs import hlo


class TooLarge(Exception):
  """A program does not fit the memory of a chip."""


class Chip(NamedTuple):
  """Properties of a kind of chip.

  Attributes:
    hbm: bytes of memory.
    peak: bfloat16 FLOPs a second.
    clock: cycles a second; peak / (FLOPs a cycle of the matrix units).
    link: bytes a second over one link in one direction.
    slow: bytes a second a chip between slices, over the data centre's network.
    wraps: a dimension of the torus that is a multiple of this is a ring.
    rank: dimensions of the torus.
  """
  hbm: int
  peak: float
  clock: float
  link: float
  slow: float
  wraps: int
  rank: int


CHIPS = {
    "v4": Chip(32 << 30, 275e12, 1.05e9, 4.5e10, 6.25e9, 4, 3),
    "v5e": Chip(16 << 30, 197e12, 1.5e9, 4.5e10, 3.125e9, 16, 2),
    "v5p": Chip(95 << 30, 459e12, 1.75e9, 9e10, 6.25e9, 4, 3),
    "v6e": Chip(32 << 30, 918e12, 1.75e9, 9e10, 1.25e10, 16, 2),
    "tpu7x": Chip(192 << 30, 2307e12, 2.2e9, 1e11, 1.25e10, 4, 3),
}
_SIMULATED = "gpu"
# Variables that libtpu wants where there is no TPU, of several processes at a time.
_WITHOUT_TPU = dict(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost",
                    TPU_ACCELERATOR_TYPE="v5p-8", ALLOW_MULTIPLE_LIBTPU_LOAD="1")


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices that a program is compiled for.

  Attributes:
    name: of the topology, with the number of slices if there are several.
    chip: its figures; None for simulated GPUs.
    devices: all of them.
    num_chips: over all slices.
  """
  name: str
  chip: Chip | None
  devices: tuple[Any, ...]
  num_chips: int

  @property
  def devices_per_chip(self) -> int:
    """Cores that are devices of their own."""
    return len(self.devices) // self.num_chips


def target(name: str, slices: int = 1) -> Target:
  """The devices of a topology.

  Args:
    name: a kind of TPU and its shape in chips, "v5p:4x4x4"; or "gpu:8", that many devices
      simulated on the host.
    slices: TPU slices, joined by the data centre's network.

  Raises:
    ValueError: no such topology, libtpu is not installed, or too few simulated devices.
  """
  kind, _, shape = name.partition(":")
  jax.config.update("jax_platforms", "cpu")  # the host compiles, whatever else it has
  if not isinstance(slices, int) or slices < 1:
    raise ValueError(f"config.compile.slices must be a positive number, got {slices!r}.")
  if kind == _SIMULATED and shape.isdecimal() and int(shape):
    return _simulated(name, int(shape), slices)
  if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape):
    raise ValueError(f"config.compile.topology {name!r} does not exist; write a kind of "
                     f"{', '.join(CHIPS)} and a shape in chips, such as v5p:4x4x4 or v5e:4x4, or "
                     "gpu:8 for simulated devices.")
  dims = [int(x) for x in shape.split("x")]
  if len(dims) not in (CHIPS[kind].rank, 2):
    raise ValueError(f"config.compile.topology {name!r} does not exist; {kind} has "
                     f"{CHIPS[kind].rank} dimensions.")
  full = f"{kind}:{shape}" + "x1" * (CHIPS[kind].rank - len(dims))
  if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
    raise ValueError("compiling for TPUs needs libtpu; pip install -e '.[aot]'.")
  for key, value in _WITHOUT_TPU.items():
    os.environ.setdefault(key, value)
  from jax.experimental import topologies  # pylint: disable=g-import-not-at-top
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=full, num_slices=slices)
  except Exception as error:  # pylint: disable=broad-except  (libtpu raises many kinds)
    text = " ".join(str(error).split())
    raise ValueError(f"config.compile.topology {name!r} does not exist: {text:.200}") from None
  return Target(name + (f" x {slices} slices" if slices > 1 else ""), CHIPS[kind],
                tuple(found.devices), math.prod(dims) * slices)


def _simulated(name: str, number: int, slices: int) -> Target:
  if slices > 1:
    raise ValueError("config.compile.slices is of TPUs; a simulated topology has one.")
  with contextlib.suppress(RuntimeError):  # the host's devices exist already
    jax.config.update("jax_num_cpu_devices", number)
  devices = jax.devices("cpu")
  if len(devices) < number:
    raise ValueError(f"config.compile.topology {name!r} needs {number} simulated devices, this "
                     f"process has {len(devices)}; set XLA_FLAGS="
                     f"--xla_force_host_platform_device_count={number}.")
  return Target(name, None, tuple(devices[:number]), number)


def transfer_seconds(collective: hlo.Collective, devices: np.ndarray, chip: Chip) -> float:
  """Time of one collective over the links, if nothing else uses them.

  Within a slice a group of g devices gathers or reduces n bytes in n (g - 1) / g over the summed
  bandwidth of the dimensions of the torus that it spans, in both directions where a dimension is a
  ring. Between s slices each chip sends its share of what is exchanged, n s / g, over the slow
  network.

  Args:
    collective: the exchange; its groups are indices into `devices`.
    devices: of the mesh, flat, in the order of the program.
    chip: gives the bandwidths.
  """
  factor = 2 if collective.kind == "all-reduce" else 1
  if collective.kind == "collective-permute":
    far = any(_slice(devices[a]) != _slice(devices[b]) for a, b in collective.groups)
    # Of a matmul's operand, half goes round each way at the same time.
    return collective.size / (chip.slow if far else chip.link * (2 if collective.in_ring else 1))
  group = [devices[i] for i in (collective.groups[0] if collective.groups else range(len(devices)))]
  slices = len({_slice(d) for d in group})
  near = [d for d in group if _slice(d) == _slice(group[0])]
  seconds = 0.0
  if slices > 1:
    seconds += factor * collective.size / len(near) * (slices - 1) / slices / chip.slow
  if len(near) > 1:
    seconds += (factor * collective.size * (len(near) - 1) / len(near)
                * (_mean_hops(near) if "all-to-all" in collective.kind else 1)
                / _bandwidth(near, devices, chip))
  return seconds


def _slice(device) -> int:
  return getattr(device, "slice_index", None) or 0


def _bandwidth(group, devices, chip: Chip) -> float:
  """Bytes a second that a device of a group can receive over the links within it."""
  inside = np.array([d.coords for d in group])
  extent = np.array([d.coords for d in devices]).max(axis=0) + 1
  total = 0.0
  for axis, size in enumerate(extent):
    number = len(set(inside[:, axis]))
    if number > 1:
      is_ring = number == size and size % chip.wraps == 0
      total += chip.link * (2 if is_ring else 1)
  return total or 2 * chip.link  # the cores of one chip


def _mean_hops(group) -> float:
  """Number of links that a message crosses; in a ring, a quarter of its length."""
  inside = np.array([d.coords for d in group])
  return max(1.0, max(len(set(column)) for column in inside.T) / 4)
