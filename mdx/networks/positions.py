"""Rotary position embedding.

Contents: rope_tables, rotate.

Reference: Su et al. 2021, arXiv:2104.09864; pairs are (i, i + H/2), the
layout of the Hugging Face implementations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rope_tables(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines, float32 [..., L, 1, H/2], of int32 positions [..., L]."""
  frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  frequency = jnp.expand_dims(frequency, tuple(range(positions.ndim + 1)))
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates x [B, L, N, H] by the tables, in float32; keeps the dtype."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x.dtype)
