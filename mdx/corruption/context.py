"""Weights of context-adaptive noise: the share of its context that each position has.

Contents: context_weights.

Reference: Ye et al. 2025, arXiv:2508.15487 (Dream 7B, context-adaptive token-level noise
rescheduling, CART).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def context_weights(is_clean: jax.Array, segment_ids: jax.Array | None, rate: float) -> jax.Array:
  """1/2 sum over clean j of rate (1 - rate)^(|i - j| - 1), float32 [B, L].

  Args:
    is_clean: bool [B, L], the tokens that are not masked.
    segment_ids: int32 [B, L] or None; only tokens of the same segment count.
    rate: of the geometric distribution of distances, in (0, 1).
  """
  clean = is_clean.astype(jnp.float32)
  segments = jnp.zeros(clean.shape, jnp.int32) if segment_ids is None else segment_ids
  left = _before(clean, segments, rate)
  right = _before(clean[:, ::-1], segments[:, ::-1], rate)[:, ::-1]
  return 0.5 * (left + right)


def _before(clean, segments, rate):
  """The sum over j < i, a linear recurrence that begins anew with every segment."""
  first = ((0, 0), (1, 0))
  joined = (segments == jnp.pad(segments[:, :-1], first, constant_values=-1)).astype(jnp.float32)
  gain, decay = rate * joined * jnp.pad(clean[:, :-1], first), (1 - rate) * joined

  def after(early, late):
    return early[0] * late[0], early[1] * late[0] + late[1]

  return jax.lax.associative_scan(after, (decay, gain), axis=1)[1]
