"""Drawing tokens from logits.

Contents: draw.

Convention: noise has a high dynamic range. With the default float32 uniforms
a token of probability below about 1e-6 is drawn too seldom, which acts like a
temperature below 1 (Zheng et al. 2024, arXiv:2409.02908).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw(keys: jax.Array, logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Draws one token per position.

  Args:
    keys: typed PRNG keys [B], consumed.
    logits: float32 [B, L, V]; other dtypes are refused.
    temperature: 0 takes the most likely token.

  Returns:
    int32 [B, L].
  """
  if logits.dtype != jnp.float32:
    raise ValueError(f"sampling needs float32 logits, got {logits.dtype}; cast them first.")
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  one = lambda key, row: jax.random.categorical(key, row / temperature, mode="high")
  return jax.vmap(one)(keys, logits).astype(jnp.int32)
