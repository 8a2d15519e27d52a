"""Selection of the positions to corrupt.

Contents: bernoulli, exact_count, allowed_positions.

Convention: uniforms are drawn per example from keys [B], so a row's mask is
the same in any batch; `allowed` is False on prompt and padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def allowed_positions(batch: dict[str, jax.Array]) -> jax.Array:
  """Positions that count in the loss, bool [B, L]: `loss_mask`, or all."""
  tokens = batch["tokens"]
  return batch["loss_mask"] if "loss_mask" in batch else jnp.ones(tokens.shape, bool)


def _uniforms(keys: jax.Array, length: int) -> jax.Array:
  return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(keys)


def bernoulli(keys: jax.Array, rate: jax.Array | float, allowed: jax.Array,
              is_shared: jax.Array | None = None) -> jax.Array:
  """Selects each allowed position independently.

  Args:
    keys: typed PRNG keys [B], consumed.
    rate: float32, broadcastable to [B, L], in [0, 1].
    allowed: bool [B, L].
    is_shared: bool [B, L] or None; these positions of a row are selected together.

  Returns:
    bool [B, L].
  """
  draws = _uniforms(keys, allowed.shape[1])
  if is_shared is not None:
    first = jnp.take_along_axis(draws, jnp.argmax(is_shared, axis=1)[:, None], axis=1)
    draws = jnp.where(is_shared, first, draws)
  return (draws < rate) & allowed


def exact_count(keys: jax.Array, count: jax.Array, allowed: jax.Array) -> jax.Array:
  """Selects exactly `count` of a row's allowed positions, uniformly.

  Args:
    keys: typed PRNG keys [B], consumed.
    count: int32 [B]; rows with fewer allowed positions select all of them.
    allowed: bool [B, L].

  Returns:
    bool [B, L].
  """
  noise = jnp.where(allowed, _uniforms(keys, allowed.shape[1]), 2.0)
  order = jnp.argsort(noise, axis=1)
  rank = jnp.argsort(order, axis=1)  # ties broken by position: always distinct
  return (rank < count[:, None]) & allowed
