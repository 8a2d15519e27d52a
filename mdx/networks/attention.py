"""Attention visibility as a value, the attention product, and its memory.

Contents: Full, Causal, BlockCausal, ATTENTIONS, visible, attend, at_slots, write.

Convention: a query sees a key where the value allows it AND both lie in the
same segment (`segment_ids`, 0 is padding). Masks are boolean, True = visible,
and broadcast to [B, heads, queries, keys]. A slot is the index of a place of
a row; a cache holds the keys and values of all slots, [layers, B, S, K, H]
each, and `slots` [B, W] says which of them a call computes anew (S: none).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

_NEVER = -1e30  # finite, so that a row that sees nothing has no NaN


@dataclasses.dataclass(frozen=True)
class Full:
  """Every position sees every position (MLM, masked diffusion)."""

  def rule(self, positions: jax.Array, slots: jax.Array | None) -> jax.Array | None:
    """Visibility, bool [B or 1, W, S], of the keys at `positions`; None = all."""
    del positions, slots


@dataclasses.dataclass(frozen=True)
class Causal:
  """A position sees itself and what stands before it."""

  def rule(self, positions: jax.Array, slots: jax.Array | None) -> jax.Array | None:
    """Visibility, bool [B or 1, W, S]."""
    index = jnp.arange(positions.shape[1])[None]
    return index[:, None, :] <= (index if slots is None else slots)[..., None]


@dataclasses.dataclass(frozen=True)
class BlockCausal:
  """A position sees its own block and the blocks before it.

  Blocks are counted by `positions`, so they begin anew with every document.

  Attributes:
    block_length: positions of a block.

  Reference: Arriola et al. 2025, arXiv:2503.09573.
  """
  block_length: int

  def __post_init__(self):
    if self.block_length < 1:
      raise ValueError(f"attention block_length must be positive, got {self.block_length}.")

  def rule(self, positions: jax.Array, slots: jax.Array | None) -> jax.Array | None:
    """Visibility, bool [B or 1, W, S]."""
    block = positions // self.block_length
    return block[:, None, :] <= at_slots(block, slots)[..., None]


ATTENTIONS = {"full": Full, "causal": Causal, "block_causal": BlockCausal}


def at_slots(values: jax.Array, slots: jax.Array | None) -> jax.Array:
  """Values [B or 1, S] at slots [B, W]; all of them where `slots` is None."""
  if slots is None:
    return values
  values = jnp.broadcast_to(values, slots.shape[:1] + values.shape[1:])
  return jnp.take_along_axis(values, slots, axis=1, mode="clip")


def write(memory: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
  """Puts new [B, W, K, H] at slots [B, W] of memory [B, S, K, H]; slot S is dropped."""
  return memory.at[jnp.arange(len(slots))[:, None], slots].set(new, mode="drop")


def visible(attention, positions: jax.Array, segment_ids: jax.Array | None,
            slots: jax.Array | None = None) -> jax.Array | None:
  """Builds the mask, bool [B or 1, 1, W, S]; None if everything is visible.

  Args:
    attention: a value of this module.
    positions: int32 [B or 1, S], of all slots.
    segment_ids: int32 [B, S] or None (one segment a row, no padding).
    slots: int32 [B, W], the queries; None = all S slots.
  """
  mask = attention.rule(positions, slots)
  if segment_ids is not None:
    same = at_slots(segment_ids, slots)[:, :, None] == segment_ids[:, None, :]
    mask = same if mask is None else same & mask
  return None if mask is None else mask[:, None]


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
