"""Masking schedules alpha(t) of absorbing-state diffusion.

Contents: Linear, Cosine, Polynomial, SCHEDULES, TINY.

Convention: t = 0 is clean, t = 1 fully masked; alpha(t) is the probability that a token is still
clean. Everything is computed from the mask probability m(t) = 1 - alpha(t), which stays accurate in
float32 where m is small. All schedules are squashed to m(t) = (1 - eps) * m0(t) + eps: alpha(1) = 0
exactly, so there is no prior term, and m(0) = eps keeps the loss weight finite.

Reference: Shi et al. 2024, arXiv:2406.04329, section 3; Sahoo et al. 2024, arXiv:2406.07524.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from mdx import config as config_lib

TINY = 1e-37  # above float32's denormals


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Schedule:
  """Squashing and the loss weight, shared by all schedules.

  Attributes:
    eps: mask probability at t = 0, in [0, 0.5).
  """
  eps: float = 1e-4

  def __post_init__(self):
    config_lib.check(self, "schedule", between=dict(eps="[0, 0.5)"))

  def _mask_prob(self, t):
    raise TypeError("a schedule defines _mask_prob")

  def _dmask_prob(self, t):
    raise TypeError("a schedule defines _dmask_prob")

  def _mean_mask_prob(self):
    raise TypeError("a schedule defines _mean_mask_prob")

  def mask_prob(self, t: jax.Array) -> jax.Array:
    """1 - alpha(t), float32."""
    plain = self._mask_prob(t)
    return plain + self.eps * (1 - plain)  # 1 at t = 1, without rounding

  def _time(self, mask_prob):
    raise TypeError("a schedule defines _time")

  def time(self, mask_prob: jax.Array) -> jax.Array:
    """t at which tokens are masked with a probability; 0 below eps."""
    return self._time(jnp.clip((mask_prob - self.eps) / (1 - self.eps), 0.0, 1.0))

  def alpha(self, t: jax.Array) -> jax.Array:
    """Probability that a token is clean at time t."""
    return 1 - self.mask_prob(t)

  def dalpha(self, t: jax.Array) -> jax.Array:
    """d alpha / d t."""
    return -(1 - self.eps) * self._dmask_prob(t)

  def weight(self, t: jax.Array) -> jax.Array:
    """ELBO weight of a masked token, -alpha'(t) / (1 - alpha(t))."""
    # With eps = 0 a steep power underflows near 0, where nothing is masked.
    return -self.dalpha(t) / jnp.maximum(self.mask_prob(t), TINY)

  def step_weight(self, step: jax.Array, num_steps: int) -> jax.Array:
    """Weight of a masked token in the bound of `num_steps` steps, float32.

    T (alpha(s) - alpha(t)) / (1 - alpha(t)) at t = step / T and s = (step - 1) / T: T times
    the probability that a token masked at t is clean at s.

    Args:
      step: float32, integers in 1 .. `num_steps`.
      num_steps: T.
    """
    late, early = (self.mask_prob(x / num_steps) for x in (step, step - 1))
    return num_steps * (late - early) / late

  @property
  def mean_mask_prob(self) -> float:
    """Mean of 1 - alpha(t) over t ~ U(0, 1), to size buffers."""
    return (1 - self.eps) * self._mean_mask_prob() + self.eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(_Schedule):
  """alpha(t) = 1 - t; the ELBO weight is 1 / t (MDLM, LLaDA)."""

  def _mask_prob(self, t):
    return t

  def _time(self, mask_prob):
    return mask_prob

  def _dmask_prob(self, t):
    return t * 0 + 1

  def _mean_mask_prob(self):
    return 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(_Schedule):
  """alpha(t) = 1 - cos(pi/2 (1 - t)); weight pi/2 tan(pi/2 (1 - t)) (MD4)."""

  def _mask_prob(self, t):
    return jnp.sin(0.5 * math.pi * t)  # = cos(pi/2 (1 - t)), accurate near 0

  def _time(self, mask_prob):
    return jnp.arcsin(mask_prob) / (0.5 * math.pi)

  def _dmask_prob(self, t):
    return 0.5 * math.pi * jnp.sin(0.5 * math.pi * (1 - t))

  def _mean_mask_prob(self):
    return 2 / math.pi


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polynomial(_Schedule):
  """alpha(t) = 1 - t^power; the ELBO weight is power / t (MD4)."""
  power: float = 2.0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "schedule", between=dict(power="(0, inf)"))

  def _mask_prob(self, t):
    return t ** self.power

  def _time(self, mask_prob):
    return mask_prob ** (1 / self.power)

  def _dmask_prob(self, t):
    return self.power * t ** (self.power - 1)

  def _mean_mask_prob(self):
    return 1 / (1 + self.power)


SCHEDULES = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial}
