"""The mesh, and one table from logical axes of parameters to its axes.

Contents: AXES, DEFAULT_TABLE, make_mesh, of_other_sizes, specs, state_sharding, with_shardings,
batch_spec, check_batch, local_rows, num_rows, num_positions, place_batch, constrain,
positions_sharded, num_batch_shards, batch_shards, padded_rows.

Convention: Auto mesh axes; a mode sets the mesh around its work (`jax.set_mesh`), arguments carry
their shardings and jitted functions get `out_shardings` only. The logical axes of a parameter are
said where it is born (`types.Part`).
"""

from __future__ import annotations

from typing import Any, Mapping

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from mdx import types
from mdx.utils import tree

AXES = ("replica", "data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("replica", "data", "fsdp")

DEFAULT_TABLE = dict(vocab="tensor", embed="fsdp", mlp="tensor", heads="tensor")


def make_mesh(sizes: Mapping[str, int], devices=None) -> Mesh:
  """Builds the device mesh.

  Devices of several TPU slices, which only the data centre's network joins, differ along
  `replica`, or else along `data`.

  Args:
    sizes: axis name -> size; one axis may be -1 and takes the remaining devices.
    devices: defaults to all devices of the job.

  Raises:
    ValueError: unknown axis, a product that is not the number of devices, or one that slices do
      not divide.
  """
  devices = jax.devices() if devices is None else devices
  shape = _shape(sizes, len(devices))
  slices = len({getattr(d, "slice_index", None) for d in devices})
  if slices > 1:
    return _hybrid_mesh(shape, slices, devices)
  types = (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(tuple(shape), AXES, devices=devices, axis_types=types)
  except NotImplementedError:  # no axis is a product of dimensions of the torus
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=types)


def of_other_sizes(mesh: Mesh, sizes: Mapping[str, int]) -> Mesh:
  """Builds a mesh of the devices of another in the same order: programs take arrays of both.

  Args:
    mesh: has the devices.
    sizes: as of `make_mesh`.

  Raises:
    ValueError: as `make_mesh`.
  """
  shape = _shape(sizes, mesh.size)
  return Mesh(mesh.devices.reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _shape(sizes: Mapping[str, int], num_devices: int) -> list[int]:
  """Sizes of all axes of a mesh."""
  unknown = [a for a in sizes if a not in AXES]
  if unknown:
    raise ValueError(f"unknown mesh axis {unknown[0]!r}; the axes are {', '.join(AXES)}.")
  shape = [int(sizes.get(a, 1)) for a in AXES]
  if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
    raise ValueError(f"mesh sizes must be positive, with at most one -1; got {dict(sizes)}.")
  known = int(np.prod([s for s in shape if s > 0]))
  if num_devices % known or (-1 not in shape and known != num_devices):
    raise ValueError(f"mesh {dict(zip(AXES, shape))} does not fit {num_devices} devices; their "
                     "product must equal the number of devices (write -1 for the rest).")
  return [num_devices // known if s == -1 else s for s in shape]


def _hybrid_mesh(shape: list[int], slices: int, devices) -> Mesh:
  """A mesh whose `replica` or `data` axis is cut over slices."""
  cut = next((i for i, name in enumerate(AXES[:2]) if shape[i] % slices == 0), None)
  if cut is None:
    raise ValueError(f"the devices are {slices} slices, which divide neither mesh axis replica="
                     f"{shape[0]} nor data={shape[1]}; make one of them a multiple of {slices}.")
  between = [slices if i == cut else 1 for i in range(len(shape))]
  within = [size // number for size, number in zip(shape, between)]
  grid = mesh_utils.create_hybrid_device_mesh(within, between, devices=devices,
                                              allow_split_physical_axes=True)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def specs(params: Any, parts: Mapping[str, types.Part], mesh: Mesh,
          table: Mapping[str, str] | None = None) -> Any:
  """PartitionSpec of every parameter.

  Args:
    params: tree of arrays or shape structs, one sub-tree a part.
    parts: description of each sub-tree.
    mesh: the mesh whose axis sizes must divide the dimensions.
    table: logical axis -> mesh axis; None for `DEFAULT_TABLE`.

  Raises:
    ValueError: a parameter whose part does not know it, or an indivisible dimension.
  """
  table = dict(DEFAULT_TABLE if table is None else table)
  for logical, axis in table.items():
    if logical not in DEFAULT_TABLE:
      raise ValueError(f"unknown config.sharding.{logical}; choose from "
                       f"{', '.join(DEFAULT_TABLE)}.")
    if axis and axis not in AXES:
      raise ValueError(f"config.sharding.{logical} is {axis!r}; choose from {', '.join(AXES)}, or "
                       "'' for none.")

  def spec(path, leaf):
    name, _, rest = path.partition("/")
    if name not in parts:
      raise ValueError(f"parameter {path} belongs to no part; the parts are {', '.join(parts)}.")
    axes = [table.get(a) or None if a else None for a in parts[name].axes(rest, leaf.shape)]
    if len(axes) != len(leaf.shape):
      raise ValueError(f"parameter {path} has {len(leaf.shape)} dimensions, its part gives axes of "
                       f"{len(axes)}.")
    used = [a for a in axes if a]
    if len(set(used)) < len(used):
      raise ValueError(f"config.sharding cuts two dimensions of parameter {path} over the same "
                       f"mesh axis {max(used, key=used.count)}; use another for one of them.")
    for size, axis in zip(leaf.shape, axes):
      if axis and size % mesh.shape[axis]:
        raise ValueError(f"mesh axis {axis}={mesh.shape[axis]} does not divide dimension {size} of "
                         f"parameter {path}; use a divisor or map that axis to '' in "
                         "config.sharding.")
    return P(*axes)

  return tree.map_with_path(spec, params)


def state_sharding(state: Any, params: Any, parts: Mapping[str, types.Part], mesh: Mesh,
                   table: Mapping[str, str] | None = None) -> Any:
  """NamedSharding of a whole train state.

  A leaf whose path ends with a parameter's path (EMA, Adam moments) is sharded like that parameter,
  or, of another shape, replicated behind a key `replicated` (factored moments); scalars, keys and
  all of `extra` (an objective's untrained state, of any shape) are replicated.
  """
  by_path = tree.flatten(specs(params, parts, mesh, table))
  shapes = {path: tuple(x.shape) for path, x in tree.flatten(params).items()}

  def sharding(path, leaf):
    parts = path.split("/")
    if not leaf.shape or parts[0] == "extra":
      return NamedSharding(mesh, P())
    for start in range(len(parts)):
      name = "/".join(parts[start:])
      if name in by_path and shapes[name] == tuple(leaf.shape):
        return NamedSharding(mesh, by_path[name])
      if name in by_path and "replicated" in parts[:start]:
        return NamedSharding(mesh, P())
    raise ValueError(f"state leaf {path} {tuple(leaf.shape)} belongs to no parameter; "
                     "it must be a scalar, shaped like the parameters, or in `extra`.")

  return tree.map_with_path(sharding, state)


def with_shardings(state: Any, parts: Mapping[str, types.Part], mesh: Mesh,
                   table: Mapping[str, str] | None = None) -> Any:
  """Adds `state_sharding` to the shape structs of a train state, or of parameters alone."""
  params = getattr(state, "params", state)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state,
                      state_sharding(state, params, parts, mesh, table))


def batch_spec(ndim: int) -> P:
  """Rows over replica, data and fsdp; positions, the second dimension, over sequence."""
  return P(BATCH_AXES, *(("sequence",) if ndim > 1 else ()))


def check_batch(mesh: Mesh, batch_size: int, length: int, num_microbatches: int = 1) -> None:
  """Raises ValueError unless the mesh divides rows, positions and microbatches."""
  shards = num_batch_shards(mesh)
  if batch_size % (shards * num_microbatches):
    raise ValueError(
        f"batch_size {batch_size} is not divisible by {shards} batch shards (replica x data x "
        f"fsdp) x {num_microbatches} microbatches; use a multiple of {shards * num_microbatches}.")
  if length % mesh.shape["sequence"]:
    raise ValueError(f"mesh axis sequence={mesh.shape['sequence']} does not divide length "
                     f"{length}; use a divisor.")


def local_rows(mesh: Mesh, num_rows: int) -> slice:
  """The rows of a global batch that the devices of this process hold, from first to last."""
  cuts = NamedSharding(mesh, P(BATCH_AXES)).addressable_devices_indices_map((num_rows,)).values()
  bounds = [rows.indices(num_rows) for rows, in cuts]
  return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def num_rows(batch: Mapping[str, Any]) -> int:
  """Number of rows of a batch, whatever its fields are."""
  return len(next(iter(batch.values())))


def num_positions(batch: Mapping[str, Any]) -> int:
  """Number of positions of a batch: rows times length of its first field that has positions."""
  first = next(x for x in batch.values() if x.ndim > 1)
  return first.shape[0] * first.shape[1]


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, *,
                num_rows: int = 0) -> dict[str, jax.Array]:
  """Makes global arrays.

  Args:
    batch: arrays of a leading axis of rows: all rows, or `local_rows` of them.
    mesh: where they go.
    num_rows: of the global batch, where `batch` has this process's rows; 0 = it has all.
  """
  first = local_rows(mesh, num_rows).start if num_rows else 0

  def place(x):
    total = num_rows or len(x)

    def part(index):
      begin, end, _ = index[0].indices(total)
      return x[(slice(begin - first, end - first), *index[1:])]

    return jax.make_array_from_callback((total, *x.shape[1:]),
                                        NamedSharding(mesh, batch_spec(x.ndim)), part)

  return {k: place(np.asarray(v)) for k, v in batch.items()}


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
  """Constrains an activation; the identity where no mesh is set.

  Args:
    x: array.
    *axes: per dimension "batch", a mesh axis, or None. A dimension that its
      axis does not divide (few key-value heads) is left to the compiler.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x

  def entry(size, axis):
    names = BATCH_AXES if axis == "batch" else (axis,) if axis else ()
    divides = size % int(np.prod([mesh.shape[a] for a in names])) == 0
    return names if names and divides else P.UNCONSTRAINED if names else None

  return jax.lax.with_sharding_constraint(x, P(*map(entry, x.shape, axes)))


def positions_sharded() -> bool:
  """Returns whether the mesh in context cuts the positions of a row."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.shape.get("sequence", 1) > 1


def num_batch_shards(mesh: Mesh | jax.sharding.AbstractMesh) -> int:
  """Number of shards of the batch axis on a mesh; 1 on an empty one."""
  return 1 if mesh.empty else int(np.prod([mesh.shape[a] for a in BATCH_AXES]))


def batch_shards() -> int:
  """`num_batch_shards` of the mesh in context; 1 without one."""
  return num_batch_shards(jax.sharding.get_abstract_mesh())


def padded_rows(num_rows: int, batch_size: int, mesh: Mesh | None = None) -> int:
  """Rows of a batch that holds `num_rows`: few sizes, so that few programs are compiled.

  The next power of two, at most `batch_size` (at least `num_rows`), as many on every shard.
  """
  shards = num_batch_shards(mesh) if mesh else 1
  wanted = max(min(1 << max(num_rows - 1, 0).bit_length(), batch_size), num_rows)
  return -(-wanted // shards) * shards
