"""Rotary position embedding.

Contents: check_scaling, rope_tables, rotate.

Reference: Su et al. 2021, arXiv:2104.09864; pairs are (i, i + H/2), the
layout of the Hugging Face implementations.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp


def check_scaling(scaling: tuple[Any, ...]) -> None:
  """Raises ValueError for a scaling that `rope_tables` does not have."""
  numbers = {"linear": 1, "llama3": 4}
  if scaling and (numbers.get(scaling[0]) != len(scaling) - 1 or min(scaling[1:]) <= 0):
    raise ValueError(f"network.rope_scaling is {scaling}; expected (), (\"linear\", factor) or "
                     "(\"llama3\", factor, low, high, original length), positive numbers.")


def rope_tables(positions: jax.Array, head_dim: int, theta: float,
                scaling: tuple[Any, ...] = ()) -> tuple[jax.Array, jax.Array]:
  """Factors of both terms of `rotate`, float32 [..., L, 1, H].

  Args:
    positions: int32 [..., L].
    head_dim: H.
    theta: base of the frequencies.
    scaling: ("linear", factor) divides all frequencies; ("llama3", factor, low, high, length)
      those that turn less than `low` times over `length`, and none that turn more than `high`.
  """
  frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  if scaling:
    kept = 0.0
    if scaling[0] == "llama3":
      low, high, length = scaling[2:]
      kept = jnp.clip((length * frequency / (2 * math.pi) - low) / (high - low), 0, 1)
    frequency = kept * frequency + (1 - kept) * frequency / scaling[1]
  frequency = jnp.expand_dims(frequency, tuple(range(positions.ndim + 1)))
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  both = functools.partial(jnp.concatenate, axis=-1)
  return both([cos, cos]), both([-sin, sin])


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates x [B, L, N, H] by the tables, in float32; keeps the dtype."""
  other = jnp.roll(x, x.shape[-1] // 2, axis=-1)
  return (x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin).astype(x.dtype)
