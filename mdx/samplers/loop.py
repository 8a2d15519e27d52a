"""The one sampling loop.

Contents: decode.

Convention: the key of a draw depends on (seed, row, step) alone, so a row's
text is the same in any batch and at any position of it. One `lax.while_loop`
inside one jit; no host round trip.
"""

from __future__ import annotations

from typing import Any, Callable

import jax
import jax.numpy as jnp

from mdx.utils import rng


def decode(denoise: Callable[[jax.Array, jax.Array], jax.Array], sampler: Any, canvas: jax.Array,
           *, key: jax.Array, row_index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Fills the mask tokens of a batch of canvases.

  Args:
    denoise: (canvas int32 [B, L], noise level float32 [B]) -> logits float32 [B, L, V].
    sampler: a `types.Sampler`.
    canvas: int32 [B, L]; the sampler's mask id marks what is to be filled.
    key: typed key of the run.
    row_index: int32 [B], the identity of each row.

  Returns:
    The filled canvas int32 [B, L], and the number of network calls that each
    row needed, int32 [B].
  """
  row_keys = rng.per_example(rng.stream(key, "sample"), row_index)

  def body(carry):
    state, step, calls = carry
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(row_keys, step)
    active = sampler.active(state)
    logits = denoise(state["canvas"], sampler.noise_level(state, step))
    new = sampler.update(state, logits, keys, step)
    keep = lambda old, new: jnp.where(
        active.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    return jax.tree.map(keep, state, new), step + 1, calls + active

  def proceed(carry):
    state, step, _ = carry
    return jnp.any(sampler.active(state)) & (step < sampler.max_steps(canvas.shape[1]))

  carry = (sampler.init(canvas), jnp.int32(0), jnp.zeros(canvas.shape[0], jnp.int32))
  state, _, calls = jax.lax.while_loop(proceed, body, carry)
  return sampler.finalize(state), calls
