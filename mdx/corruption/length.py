"""Rows cut to a random length, so that a model has seen short texts.

Contents: cut_rows.

Reference: Nie et al. 2025, arXiv:2502.09992 (LLaDA: 1 % of the pre-training data).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx.corruption import mask as mask_lib


def cut_rows(keys: jax.Array, batch: dict[str, jax.Array], rate: float) -> dict[str, jax.Array]:
  """Keeps a uniform number 1 .. L of the first positions of some rows.

  Args:
    keys: typed PRNG keys [B], consumed.
    batch: its rows.
    rate: probability that a row is cut.

  Returns:
    The batch, with `loss_mask` False and `segment_ids` 0 (padding) where rows were cut.
  """
  allowed = mask_lib.allowed_positions(batch)
  length = allowed.shape[1]

  def draw(key):
    cut_key, length_key = jax.random.split(key)
    return jnp.where(jax.random.uniform(cut_key) < rate,
                     jax.random.randint(length_key, (), 1, length + 1), length)

  kept = jnp.arange(length)[None] < jax.vmap(draw)(keys)[:, None]
  segments = batch.get("segment_ids", jnp.ones(kept.shape, jnp.int32))
  return batch | {"loss_mask": allowed & kept, "segment_ids": jnp.where(kept, segments, 0)}
