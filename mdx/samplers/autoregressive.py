"""Left-to-right sampling.

Contents: LeftToRight.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftToRight:
  """Draws the first masked position of each row, one a step.

  Attributes:
    mask_id: id of the mask token.
    temperature: of the token draw; 0 is greedy.
  """
  mask_id: int
  temperature: float = 1.0

  def __post_init__(self):
    if self.temperature < 0:
      raise ValueError(f"sampler.temperature must be >= 0, got {self.temperature}.")

  def max_steps(self, length: int) -> int:
    """One step a position."""
    return length

  def init(self, canvas: jax.Array) -> dict[str, jax.Array]:
    """State: the canvas."""
    return {"canvas": canvas}

  def active(self, state) -> jax.Array:
    """Rows with masks left, bool [B]."""
    return jnp.any(state["canvas"] == self.mask_id, axis=1)

  def noise_level(self, state, step) -> jax.Array:
    """Unused by autoregressive models; zeros [B]."""
    del step
    return jnp.zeros(state["canvas"].shape[0], jnp.float32)

  def update(self, state, logits, keys, step) -> dict[str, jax.Array]:
    """Writes the token of the first masked position."""
    del step
    is_masked = state["canvas"] == self.mask_id
    first = is_masked & (jnp.cumsum(is_masked, axis=1) == 1)
    tokens = logits_lib.draw(keys, logits, self.temperature)
    return {"canvas": jnp.where(first, tokens, state["canvas"])}

  def finalize(self, state) -> jax.Array:
    """The canvas, int32 [B, L]."""
    return state["canvas"]
