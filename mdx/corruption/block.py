"""Blocks of rows, counted from the beginning of each document.

Contents: block_index, count_in_block, exact_count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def block_index(positions: jax.Array, segment_ids: jax.Array | None,
                block_length: int) -> jax.Array:
  """Number of each position's block in its row, int32 [B, L], ascending from 0.

  Args:
    positions: int32 [B, L], counted from the beginning of each document.
    segment_ids: int32 [B, L], or None.
    block_length: positions of a block; the last of a document may be shorter.
  """
  begins = positions % block_length == 0
  if segment_ids is not None:
    begins |= segment_ids != jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  begins = begins.at[:, 0].set(False)
  return jnp.cumsum(begins, axis=1)


def count_in_block(blocks: jax.Array, chosen: jax.Array) -> jax.Array:
  """Number of chosen positions of each position's block, int32 [B, L]."""
  size = blocks.shape[1]

  def row(block, chosen):
    return jax.ops.segment_sum(chosen.astype(jnp.int32), block, size)[block]

  return jax.vmap(row)(blocks, chosen)


def exact_count(keys: jax.Array, count: jax.Array, blocks: jax.Array,
                allowed: jax.Array) -> jax.Array:
  """Selects exactly `count` of the allowed positions of every block, uniformly.

  Args:
    keys: typed PRNG keys [B], consumed.
    count: int32 [B, L], the same at all positions of a block.
    blocks: int32 [B, L], as `block_index` gives them.
    allowed: bool [B, L].

  Returns:
    bool [B, L].
  """
  size = blocks.shape[1]

  def row(key, count, block, allowed):
    noise = jnp.where(allowed, jax.random.uniform(key, (size,)), 2.0)
    rank = jnp.argsort(jnp.lexsort((noise, block)))
    first = jax.ops.segment_min(jnp.arange(size), block, size)[block]
    return (rank - first < count) & allowed

  return jax.vmap(row)(keys, count, blocks, allowed)
