"""Weights placed for decoding, on another mesh than that of the updates.

Contents: Placement.

Convention: a model that is cut over `fsdp` gathers each layer in every decoding step. Where
decoding has a mesh of its own, the weights are rounded to the type of the activations and moved to
it once, and gathered by no step. The devices of both meshes are the same in the same order, so one
compiled program moves the weights by collectives, without the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import jax.numpy as jnp

from mdx import sharding
from mdx import types
from mdx.utils import processes
from mdx.utils import tree


class Placement:
  """The mesh that a model decodes on, and how its weights come there."""

  def __init__(self, home: jax.sharding.Mesh, mesh: jax.sharding.Mesh | None = None, *,
               parts: Mapping[str, types.Part] = {}, dtype: str = "float32",
               table: Mapping[str, str] | None = None):
    """Compiles nothing yet.

    Args:
      home: the mesh of the weights, and of the records of what was decoded.
      mesh: that decodes; None: `home`, and weights stay as they are.
      parts: of the weights.
      dtype: of the activations.
      table: logical axis -> mesh axis, as of `sharding.specs`.
    """
    self.home, self.mesh, self.is_home = home, mesh or home, mesh is None
    self._parts, self._dtype, self._table = parts, jnp.dtype(dtype), table
    self._programs: dict[frozenset[str], Callable] = {}

  @property
  def num_shards(self) -> int:
    """Number that rows are a multiple of, so that both meshes divide them."""
    return math.lcm(*map(sharding.num_batch_shards, (self.home, self.mesh)))

  def shapes(self, params: types.Params) -> types.Params:
    """Shape structs of the weights for decoding.

    Args:
      params: weights, or their shape structs.

    Raises:
      ValueError: the mesh does not divide a parameter.
    """
    if self.is_home:
      return params
    rounded = tree.map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(x.shape, self._type(path, x)), params)
    return sharding.with_shardings(rounded, self._parts, self.mesh, self._table)

  def _type(self, path: str, leaf: Any) -> jnp.dtype:
    name, _, rest = path.partition("/")
    is_rounded = leaf.dtype == jnp.float32 and self._parts[name].is_rounded(rest)
    return self._dtype if is_rounded else leaf.dtype

  def _halfway(self, shape: jax.ShapeDtypeStruct) -> NamedSharding:
    """Sharding on the way: a dimension that the home mesh cuts more often is cut over `data` too.

    From there each device gathers what it needs; at once, it would gather the whole parameter.
    """
    axes, sizes = list(shape.sharding.spec), self.mesh.shape
    for i, axis in enumerate(axes if "data" not in axes else ()):
      if axis and sizes[axis] < self.home.shape[axis] and not (
          shape.shape[i] % (sizes[axis] * sizes["data"])):
        axes[i] = (axis, "data")
        break
    return NamedSharding(self.mesh, P(*axes))

  def program(self, params: types.Params) -> Callable[[types.Params], types.Params]:
    """Returns the compiled program that moves weights of these parts, one for each such set."""
    names = frozenset(params)
    if names not in self._programs:
      shapes = self.shapes(params)
      move = lambda x, s: jax.lax.with_sharding_constraint(x.astype(s.dtype), self._halfway(s))
      self._programs[names] = processes.Jitted(
          lambda params: jax.tree.map(move, params, shapes),
          out_shardings=jax.tree.map(lambda s: s.sharding, shapes))
    return self._programs[names]

  def weights(self, params: types.Params) -> types.Params:
    """Returns weights where they decode; they are the caller's to drop."""
    if self.is_home:
      return params
    with jax.set_mesh(self.mesh):
      return self.program(params)(params)
