"""Replacement of selected tokens.

Contents: mask_all, mask_random_keep.

Reference: Devlin et al. 2019, arXiv:1810.04805 (the 80/10/10 split).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mask_all(tokens: jax.Array, selected: jax.Array, mask_id: int) -> jax.Array:
  """Writes `mask_id` at the selected positions of tokens int32 [B, L]."""
  return jnp.where(selected, mask_id, tokens)


def mask_random_keep(keys: jax.Array, tokens: jax.Array, selected: jax.Array, *, mask_id: int,
                     vocab_size: int, mask_rate: float, random_rate: float,
                     units: jax.Array | None = None) -> jax.Array:
  """Replaces selected tokens by [MASK], a random token, or themselves.

  Args:
    keys: typed PRNG keys [B], consumed.
    tokens: int32 [B, L].
    selected: bool [B, L].
    mask_id: id of [MASK].
    vocab_size: random tokens are uniform over [0, vocab_size) without `mask_id`.
    mask_rate: share of selected tokens that become [MASK].
    random_rate: share that become a random token; the rest is kept.
    units: int32 [B, L] of `mdx.corruption.unit`, whose places have the same of these fates
      (random tokens differ); or None.

  Returns:
    int32 [B, L].
  """
  length = tokens.shape[1]

  def draw(key):
    choice_key, token_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (length,))
    # One id fewer, then step over mask_id: uniform over the others.
    other = jax.random.randint(token_key, (length,), 0, vocab_size - 1)
    return choice, other + (other >= mask_id)

  choice, other = jax.vmap(draw)(keys)
  if units is not None:
    choice = jnp.take_along_axis(choice, units, axis=1)
  replaced = jnp.where(choice < mask_rate, mask_id,
                       jnp.where(choice < mask_rate + random_rate, other, tokens))
  return jnp.where(selected, replaced, tokens).astype(tokens.dtype)
