"""SEDD with an absorbing state: ratios of probabilities learned by score entropy.

Contents: SEDD.

References: Lou et al. 2023, arXiv:2310.16834 (score entropy); Ou et al. 2024,
arXiv:2406.03736 (RADD: the scores are a posterior times a known function of time).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.diffusion import masked as diffusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class SEDD(diffusion.MaskedDiffusion):
  """Denoising score entropy, in nats: a bound of -log p(x) as that of `MaskedDiffusion` is.

  The network gives the ratios s_y = p_t(y at position i) / p_t(x_t) of a masked position. With
  r = alpha / (1 - alpha) a masked token costs -alpha'/alpha times

    sum over y of s_y - r log s_{x_i} + r (log r - 1).

  The scores are s_y = r e^{l_y} / V: scaling the logits l by time and by the number of tokens
  V keeps them near 0. The cost so is -alpha'/(1 - alpha) times
  sum_y e^{l_y} / V - log(e^{l_{x_i}} / V) - 1, which is -log p(x_i) where the e^{l_y} / V sum
  to 1. The cost is never below -log p(x_i).

  Attributes:
    score: "free" (SEDD), or "posterior": the e^{l_y} / V are normalized, which makes the loss
      that of `MaskedDiffusion` (RADD).

  Raises:
    ValueError: a mask column, or no carry-over, for which it has no score; or as `MaskedDiffusion`.
  """
  score: str = "free"

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(score=("free", "posterior")))
    if self.mask_column:
      raise ValueError("objective sedd has no score of the mask itself; leave mask_column False.")
    if not self.carry_over:
      raise ValueError("objective sedd has no prediction of clean tokens; leave carry_over True.")

  def _nats(self, params, batch, noise):
    """The cost of the masked tokens over their weight: float32 [B, L]; 0 elsewhere."""
    log_total, log_true = self._scores(params, batch, noise, score=self._log_scores)
    if self.score == "posterior":
      return log_total - log_true
    return jnp.where(batch["is_masked"], jnp.expm1(log_total) - log_true, 0.0)

  def _log_scores(self, logits, targets):
    """log of sum_y s_y / r and of s_target / r; the mask id is blocked."""
    scale = math.log(self.network.vocab_size - 1)
    true = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - scale, true - scale
