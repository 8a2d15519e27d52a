"""Low-rank adapters of the transformer's linear maps: y = x W + (alpha / rank) (x A) B.

Contents: PROJECTIONS, init_a, is_adapter, scale, fresh, merge, unmerge.

Convention: A is `lora_a` [in, rank], B is `lora_b` [rank, out], beside the `kernel` [in, out] of
the map, float32, with the leading axis of layers that it has. A new adapter has B = 0 and changes
nothing.

Reference: Hu et al. 2021, arXiv:2106.09685; A is drawn as the authors' code does,
U(-1/sqrt(in), 1/sqrt(in)).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdx.utils import rng
from mdx.utils import tree

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def init_a(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
  """Values of an A [..., in, rank]."""
  bound = shape[-2] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def is_adapter(path: str) -> bool:
  """Whether the parameter of a path belongs to an adapter."""
  return path.endswith(("/lora_a", "/lora_b"))


def scale(spec: Any) -> float:
  """Factor of the low-rank product; alpha = 0 means alpha = rank."""
  return (spec.lora_alpha or spec.lora_rank) / spec.lora_rank


def fresh(shapes: Any, seed: int) -> Any:
  """New adapters, float32.

  Args:
    shapes: tree of shape structs of adapters alone, with shardings where there is a mesh.
    seed: of the run.
  """
  if not tree.flatten(shapes):
    return {}

  def one(path, leaf):
    if path.endswith("lora_b"):
      return jnp.zeros(leaf.shape, leaf.dtype)
    return init_a(rng.stream(rng.root(seed), path), leaf.shape, leaf.dtype)

  make = lambda: tree.map_with_path(one, shapes)
  return jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()


def merge(params: Any, spec: Any) -> Any:
  """Adds each adapter to its kernel, in float32, and leaves it out.

  Args:
    params: of one network, or of several, as nested dicts.
    spec: hyper-parameters of the network, with `lora_rank` and `lora_alpha`.

  Returns:
    Parameters of the network without adapters, of the types that the kernels had.
  """
  return unmerge(params, tree.part(params, is_adapter), spec, sign=1.0)


def unmerge(params: Any, adapter: Any, spec: Any, *, sign: float = -1.0) -> Any:
  """Takes an adapter out of merged kernels again: to a rounding in their type what they were.

  Args:
    params: parameters that hold it.
    adapter: tree of `lora_a` and `lora_b` alone.
    spec: as of `merge`.
    sign: 1 to put it in.
  """
  factors = tree.flatten(adapter)

  @jax.jit
  def add(kernel, a, b):
    delta = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32),
                       precision=jax.lax.Precision.HIGHEST)
    return (kernel.astype(jnp.float32) + sign * scale(spec) * delta).astype(kernel.dtype)

  def one(path, leaf):
    above, _, last = path.rpartition("/")
    name = f"{above}/lora_a"
    if last != "kernel" or name not in factors:
      return leaf
    return add(leaf, factors[name], factors[f"{above}/lora_b"])

  return tree.map_with_path(one, tree.part(params, lambda path: not is_adapter(path)))
