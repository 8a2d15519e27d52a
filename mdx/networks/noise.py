"""Noise inside the network in training: dropout of positions, of attention, of whole heads.

Contents: named, of_layer, shared_key, keep, dropout, drop_heads.

Convention: a `types.Noise` is folded by layer and by the name of a use, and the draws of a row
depend on its key alone: not on the mesh, the microbatch, or the number of the row in its batch.
None is no noise. Kept values are divided by the share that is kept, so that means stay.

References: Srivastava et al. 2014 (dropout); Zhou et al. 2020, arXiv:2004.13342 (DropHead; there
the kept heads are rescaled by the number of them that was drawn, here by their expected share).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx import types
from mdx.utils import rng


def named(noise: types.Noise | None, name: str) -> types.Noise | None:
  """Returns the noise of a named use."""
  if noise is None:
    return None
  fold = lambda key: rng.stream(key, name)
  return types.Noise(fold(noise.shared), jax.vmap(fold)(noise.rows))


def of_layer(noise: types.Noise | None, layer: jax.Array) -> types.Noise | None:
  """Returns the noise of a layer, by its number, int32 []."""
  if noise is None:
    return None
  fold = jax.random.fold_in
  return types.Noise(fold(noise.shared, layer), jax.vmap(fold, (0, None))(noise.rows, layer))


def shared_key(noise: types.Noise | None, name: str) -> jax.Array | None:
  """Returns the key [] of noise that all rows share, of a named use."""
  return None if noise is None else rng.stream(noise.shared, name)


def keep(noise: types.Noise, rate: float, shape: tuple[int, ...]) -> jax.Array:
  """Returns independent factors float32 [B, *shape]: 0 at a share `rate`, else 1 / (1 - rate)."""
  drawn = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(noise.rows)
  return jnp.where(drawn, 1 / (1 - rate), 0.0)


def dropout(x: jax.Array, noise: types.Noise | None, rate: float, name: str) -> jax.Array:
  """Returns x [B, ...] with a share `rate` of its entries dropped, in its type."""
  if noise is None or not rate:
    return x
  return x * keep(named(noise, name), rate, x.shape[1:]).astype(x.dtype)


def drop_heads(x: jax.Array, noise: types.Noise | None, rate: float) -> jax.Array:
  """Returns the outputs of heads [B, L, N, H] with a share `rate` of whole heads dropped."""
  if noise is None or not rate:
    return x
  factors = keep(named(noise, "heads"), rate, x.shape[2:3])
  return x * factors[:, None, :, None].astype(x.dtype)
