"""Rotary position embedding.

Contents: check_scaling, is_long, rope_tables, rotate.

Reference: Su et al. 2021, arXiv:2104.09864; pairs are (i, i + H/2), the
layout of the Hugging Face implementations. Peng et al. 2023, arXiv:2309.00071 (YaRN); Ding et al.
2024, arXiv:2402.13753 (LongRoPE).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp


def check_scaling(scaling: tuple[Any, ...], head_dim: int) -> None:
  """Raises ValueError for a scaling that `rope_tables` does not have with H = `head_dim`."""
  numbers = {"linear": 1, "llama3": 4, "yarn": 5, "longrope": 2 + head_dim // 2 * 2}
  if scaling and (numbers.get(scaling[0]) != len(scaling) - 1 or not all(
      isinstance(x, (int, float)) and x > 0 for x in scaling[1:])):
    half = head_dim // 2
    raise ValueError(f"network.rope_scaling is {scaling!r:.200}; expected (), (\"linear\", "
                     "factor), (\"llama3\", factor, low, high, original length), (\"yarn\", "
                     "factor, original length, fast, slow, attention factor) or (\"longrope\", "
                     f"original length, attention factor, {half} short and {half} long factors), "
                     "positive numbers.")


def is_long(positions: jax.Array, segment_ids: jax.Array | None, scaling: tuple[Any, ...]
            ) -> jax.Array | None:
  """Marks the positions of documents that are longer than the original length of "longrope".

  Args:
    positions: int32 [B or 1, S], of whole rows.
    segment_ids: int32 [B, S], 0 on padding, at most S, or None: one document a row.
    scaling: as of `rope_tables`.

  Returns:
    bool [B or 1, S]; None of another scaling.
  """
  if not scaling or scaling[0] != "longrope":
    return None
  if segment_ids is None:
    last = jnp.broadcast_to(positions.max(axis=1, keepdims=True), positions.shape)
  else:
    positions = jnp.broadcast_to(positions, segment_ids.shape)
    of_row = lambda at, ids: jax.ops.segment_max(at, ids, num_segments=len(ids) + 1)[ids]
    last = jax.vmap(of_row)(positions, segment_ids)
  return last >= scaling[1]


def rope_tables(positions: jax.Array, head_dim: int, theta: float,
                scaling: tuple[Any, ...] = (), is_long: jax.Array | None = None
                ) -> tuple[jax.Array, jax.Array]:
  """Factors of both terms of `rotate`, float32 [..., L, 1, H].

  Args:
    positions: int32 [..., L].
    head_dim: H.
    theta: base of the frequencies.
    scaling: ("linear", factor) divides all frequencies; ("llama3", factor, low, high, length)
      those that turn less than `low` times over `length`, and none that turn more than `high`;
      ("yarn", factor, length, fast, slow, scale) between the indices of the frequencies that turn
      `fast` and `slow` times, and queries and keys are multiplied by `scale`; ("longrope", length,
      scale, short, ..., long, ...) divides each frequency by a number of its own, one of the H / 2
      `long` ones in documents of more than `length` positions.
    is_long: bool [..., L], see `is_long`; None = nowhere.
  """
  frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  scale, rank = 1.0, tuple(range(positions.ndim + 1))
  if scaling and scaling[0] == "longrope":
    scale, factors = scaling[2], jnp.array(scaling[3:], jnp.float32).reshape(2, -1)
    short, long = (jnp.expand_dims(frequency / own, rank) for own in factors)
    frequency = short if is_long is None else jnp.where(is_long[..., None, None], long, short)
  elif scaling:
    kept = 0.0
    if scaling[0] == "llama3":
      low, high, length = scaling[2:]
      kept = jnp.clip((length * frequency / (2 * math.pi) - low) / (high - low), 0, 1)
    elif scaling[0] == "yarn":
      length, fast, slow, scale = scaling[2:]
      index = lambda turns: head_dim * math.log(length / (turns * 2 * math.pi)) / (
          2 * math.log(theta))
      first, last = max(math.floor(index(fast)), 0), min(math.ceil(index(slow)), head_dim - 1)
      ramp = (jnp.arange(head_dim // 2) - first) / (last - first or 1e-3)
      kept = 1 - jnp.clip(ramp, 0, 1)
    frequency = kept * frequency + (1 - kept) * frequency / scaling[1]
  if frequency.ndim == 1:
    frequency = jnp.expand_dims(frequency, rank)
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
  both = functools.partial(jnp.concatenate, axis=-1)
  return both([cos, cos]), both([-sin, sin])


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates x [B, L, N, H], or its first entries as far as the tables go, in float32.

  Returns it in its dtype.
  """
  if (size := cos.shape[-1]) < x.shape[-1]:
    return jnp.concatenate([rotate(x[..., :size], cos, sin), x[..., size:]], axis=-1)
  other = jnp.roll(x, x.shape[-1] // 2, axis=-1)
  return (x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin).astype(x.dtype)
