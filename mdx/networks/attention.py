"""Attention visibility as a value, and the attention product.

Contents: Full, Causal, ATTENTIONS, visible, attend.

Convention: a query sees a key where the value allows it AND both lie in the
same segment (`segment_ids`, 0 is padding). Masks are boolean, True = visible,
and broadcast to [B, heads, queries, keys].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

_NEVER = -1e30  # finite, so that a row that sees nothing has no NaN


@dataclasses.dataclass(frozen=True)
class Full:
  """Every position sees every position (MLM, masked diffusion)."""

  def rule(self, query: jax.Array, key: jax.Array) -> jax.Array | None:
    """Visibility from row indices of queries and keys; None = all."""
    del query, key


@dataclasses.dataclass(frozen=True)
class Causal:
  """A position sees itself and what stands before it."""

  def rule(self, query: jax.Array, key: jax.Array) -> jax.Array | None:
    """Visibility from row indices of queries and keys."""
    return key <= query


ATTENTIONS = {"full": Full, "causal": Causal}


def visible(attention, length: int, segment_ids: jax.Array | None) -> jax.Array | None:
  """Builds the mask, bool [B or 1, 1, L, L]; None if everything is visible.

  Args:
    attention: a value of this module.
    length: L.
    segment_ids: int32 [B, L] or None (one segment a row, no padding).
  """
  index = jnp.arange(length)
  mask = attention.rule(index[:, None], index[None, :])
  mask = None if mask is None else mask[None, None]
  if segment_ids is None:
    return mask
  same = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
  return same if mask is None else same & mask


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Scaled dot-product attention with float32 softmax.

  Args:
    query: [B, L, N, H].
    key: [B, S, K, H]; K divides N (grouped queries).
    value: [B, S, K, H].
    mask: bool, broadcastable to [B, N, L, S], or None.

  Returns:
    [B, L, N, H] in the dtype of `query`. A row that sees nothing averages all
    values: mask such positions in the loss.
  """
  batch, length, heads, width = query.shape
  keys, groups = key.shape[1], heads // key.shape[2]
  # Heads before positions, so that both products are plain batched matmuls.
  query = (query * width ** -0.5).reshape(batch, length, -1, groups, width)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, -1, groups * length, width)
  key, value = (x.transpose(0, 2, 1, 3) for x in (key, value))
  scores = jnp.einsum("bklh,bksh->bkls", query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    split = scores.reshape(batch, -1, groups, length, keys)
    mask = mask.reshape(mask.shape[:1] + (-1, groups if mask.shape[1] > 1 else 1) + mask.shape[2:])
    scores = jnp.where(mask, split, _NEVER).reshape(scores.shape)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  mixed = jnp.einsum("bkls,bksh->bklh", weights, value)
  mixed = mixed.reshape(batch, -1, groups, length, width).transpose(0, 3, 1, 2, 4)
  return mixed.reshape(batch, length, heads, width)
