"""Ancestral sampling of absorbing-state diffusion.

Contents: Ancestral.

Reference: Austin et al. 2021, arXiv:2107.03006; Shi et al. 2024,
arXiv:2406.04329. A position is first drawn to be revealed with probability
(alpha_s - alpha_t) / (1 - alpha_t), then its token from the model: the fused
categorical of both loses rare tokens to float32 noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import schedule as schedule_lib
from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
  """Reveals each masked position at its random time, on a grid of `steps`.

  Attributes:
    mask_id: id of the mask token.
    steps: grid points; the last one reveals what is left.
    temperature: of the token draw; 0 is greedy.
    schedule: dict(name=..., ...), the schedule the model was trained with.
  """
  mask_id: int
  steps: int = 64
  temperature: float = 1.0
  schedule: Any = dataclasses.field(default_factory=lambda: {"name": "linear"})

  def __post_init__(self):
    if self.steps < 1:
      raise ValueError(f"sampler.steps must be positive, got {self.steps}.")
    if self.temperature < 0:
      raise ValueError(f"sampler.temperature must be >= 0, got {self.temperature}.")
    self.alpha  # pylint: disable=pointless-statement  (checks the schedule)

  @property
  def alpha(self):
    """The schedule object."""
    return config_lib.build(schedule_lib.SCHEDULES, self.schedule, what="schedule")

  def max_steps(self, length: int) -> int:
    """Steps of the loop."""
    del length
    return self.steps

  def init(self, canvas: jax.Array) -> dict[str, jax.Array]:
    """State: the canvas."""
    return {"canvas": canvas}

  def active(self, state) -> jax.Array:
    """Rows with masks left, bool [B]."""
    return jnp.any(state["canvas"] == self.mask_id, axis=1)

  def noise_level(self, state, step) -> jax.Array:
    """t at which the network is asked, float32 [B]."""
    return jnp.full(state["canvas"].shape[0], 1 - step / self.steps, jnp.float32)

  def update(self, state, logits, keys, step) -> dict[str, jax.Array]:
    """Reveals positions, then draws their tokens."""
    now, then = (self.alpha.mask_prob(1 - (step + i) / self.steps) for i in (0, 1))
    reveal_prob = jnp.where(step == self.steps - 1, 1.0, 1 - then / now)
    split = jax.vmap(jax.random.split)(keys)
    length = state["canvas"].shape[1]
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (length,)))(split[:, 0])
    reveal = (state["canvas"] == self.mask_id) & (uniform < reveal_prob)
    tokens = logits_lib.draw(split[:, 1], logits, self.temperature)
    return {"canvas": jnp.where(reveal, tokens, state["canvas"])}

  def finalize(self, state) -> jax.Array:
    """The canvas, int32 [B, L]."""
    return state["canvas"]
