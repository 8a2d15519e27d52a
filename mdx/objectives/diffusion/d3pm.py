"""D3PM with an absorbing state: discrete time, and a mask id that keeps some probability.

Contents: D3PM.

Reference: Austin et al. 2021, arXiv:2107.03006.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from mdx.networks import heads
from mdx.objectives.diffusion import masked as diffusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class D3PM(diffusion.MaskedDiffusion):
  """The exact bound of T steps of masked diffusion, in nats; reconstruction included.

  A step goes from t to s = t - 1 / T by the posterior of the process, in which the network's
  distribution over all ids, p_m of it on the mask, stands for the clean token. A token that is
  masked at t costs, with odds r(t) = alpha(t) / (1 - alpha(t)) and the probability
  u = (alpha(s) - alpha(t)) / (1 - alpha(t)) that it is revealed,

    u (-log p(x_i)) + log(1 + r(t) p_m) - (1 - u) log(1 + r(s) p_m).

  The last step, s = 0, is the reconstruction: u = 1. Without a mask column this is
  `MaskedDiffusion` in discrete time.

  Attributes:
    mask_column: as in the paper the mask id is one of the ids that are predicted.
    num_steps: T.
    schedule: linear, so that a token is absorbed at a uniform time; nothing is masked at 0.

  Raises:
    ValueError: no number of steps, or as `MaskedDiffusion`.
  """
  mask_column: bool = True
  schedule: Any = dataclasses.field(default_factory=lambda: {"name": "linear", "eps": 0.0})
  num_steps: int = 1000

  def __post_init__(self):
    super().__post_init__()
    if not self.num_steps >= 1:
      raise ValueError("objective d3pm is a process in discrete time: num_steps must be positive, "
                       f"got {self.num_steps}; for continuous time use objective diffusion.")

  def _nats(self, params, batch, noise):
    """The cost of the masked tokens over u: float32 [B, L]; 0 elsewhere."""
    if not self.mask_column:
      return super()._nats(params, batch, noise)
    cross_entropy, log_mask = self._scores(params, batch, noise, score=self._log_probs)
    step = jnp.round(batch["noise_level"] * self.num_steps)
    late, early = (self.alpha.mask_prob(x / self.num_steps)[:, None] for x in (step, step - 1))
    kept = early / (late - early)  # (1 - u) / u: 0 where nothing is masked at s
    early = jnp.where(early > 0, early, 1.0)
    mask = jnp.where(batch["is_masked"], jnp.exp(log_mask), 0.0)
    rise = [jnp.log1p((1 - level) / level * mask) for level in (late, early)]
    return cross_entropy + rise[0] + kept * (rise[0] - rise[1])

  @property
  def reads_time(self):
    """Returns whether the network or the cost of the mask column depends on the time."""
    return self.mask_column or super().reads_time

  @property
  def _never(self):
    return self.mask_id  # a token that is revealed is no mask

  def _log_probs(self, logits, targets):
    """-log p(target) and log p(mask)."""
    return (heads.cross_entropy(logits, targets),
            -heads.cross_entropy(logits, jnp.full_like(targets, self.mask_id)))
