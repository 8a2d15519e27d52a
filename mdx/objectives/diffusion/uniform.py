"""Uniform-state diffusion: noise is other tokens, and every position may be wrong.

Contents: UniformDiffusion.

References: Austin et al. 2021, arXiv:2107.03006 (the process); Sahoo et al. 2025, arXiv:2506.10892
(Duo); Schiff et al. 2024, arXiv:2412.10193 (UDLM: the bound in continuous time).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.corruption import schedule as schedule_lib
from mdx.corruption import time as time_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng

_SMALL = 0.02  # below it, series are more exact in float32
_LEAST_ALPHA = 1e-6  # the bound's integrand vanishes with alpha


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformDiffusion(types.Objective):
  """Negative evidence lower bound of uniform-state diffusion, in nats.

  A token is kept with probability alpha(t), else it is one of the K tokens (all ids but the mask),
  uniformly. With q(v) = alpha 1[v = x_i] + (1 - alpha) / K, and q' the same with the network's
  distribution p for the clean token, a position whose noisy token is z costs

    E_t[ -alpha'(t) / (alpha(t) K q(z)) (KL(q || q') + r - 1 - log r) ],  r = q(z) / q'(z),

  at every position, noisy or not. The p that minimises it is the distribution of a token given the
  other noisy ones, without z as evidence, which the sampler adds.
  The tokens that the squashed schedule replaces at t = 0 are decoded by the channel itself, a
  constant of about eps log(K / eps) nats per token in the reported bound, without gradient.

  Attributes:
    network: the model; it is told the time if it has `time_conditioning`.
    mask_id: id that no token is replaced by, and that gets probability 0.
    attention: dict(name="full").
    schedule: dict(name="linear" | "cosine" | "polynomial", eps=..., power=...).
    time: draw of t: "independent", "stratified" or "lattice" (global batch).
    normalizer: divisor of the loss: "elbo" (rows), "per_supervised_token", or "per_row".

  Raises:
    ValueError: unknown choice.
  """
  network: types.Network
  mask_id: int
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  schedule: Any = dataclasses.field(default_factory=lambda: {"name": "linear", "eps": 1e-4})
  time: str = "lattice"
  normalizer: str = "per_supervised_token"

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(
        time=time_lib.TIMES, normalizer=("elbo", "per_supervised_token", "per_row")))
    self.alpha, self.visibility  # pylint: disable=pointless-statement  (checks them)

  @property
  def alpha(self):
    """The schedule object."""
    return config_lib.build(schedule_lib.SCHEDULES, self.schedule, what="schedule")

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"elbo": 1.0}

  def prepare(self, params, batch, key, context):
    """Draws times (unless `batch["time"]` gives them) and noise (unless `batch` has it)."""
    del params, context
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    time = batch["time"] if "time" in batch else (
        time_lib.TIMES[self.time](rng.stream(key, "time"), index))
    keys = lambda name: rng.per_example(rng.stream(key, name), index)
    is_noise = mask_lib.bernoulli(keys("mask"), self.alpha.mask_prob(time)[:, None], allowed)
    noise = replace_lib.random_tokens(keys("noise"), allowed.shape[1],
                                      vocab_size=self.network.vocab_size, mask_id=self.mask_id)
    noisy = jnp.where(is_noise, noise, batch["tokens"])
    return (batch | {"noisy_tokens": batch.get("noisy_tokens", noisy), "noise_level": time},
            {"elbo": diffusion.weight_of(self.normalizer, allowed, is_noise)})

  def __call__(self, params, batch, context):
    """Sum of the bound over the rows."""
    allowed, tokens = mask_lib.allowed_positions(batch), batch["tokens"]
    time, noisy = batch["noise_level"], batch["noisy_tokens"]
    hidden = reading.encode(self.network, params["model"], batch, attention=self.visibility,
                            tokens=noisy, time=time, noise=context.noise)
    spread = lambda x: jnp.broadcast_to(x[:, None], tokens.shape)
    noise_prob = jnp.maximum(self.alpha.mask_prob(time), schedule_lib.TINY)
    alpha = jnp.maximum(self.alpha.alpha(time), _LEAST_ALPHA)
    costs, is_right = targets_lib.target_losses(
        self.network, params["model"], hidden,
        (tokens, noisy, spread(self._odds(alpha, noise_prob)), spread(noise_prob)), allowed,
        blocked=self.mask_id, score=self._cost)
    rows = (costs * (-self.alpha.dalpha(time) / alpha)[:, None]).sum(axis=1)
    count = allowed.sum(axis=1, dtype=jnp.float32)
    loss = rows / jnp.maximum(count, 1) if self.normalizer == "per_row" else rows
    rows = rows + count * self._first_nats
    metrics = {"nats_per_token": (rows.sum(), count.sum()),
               "accuracy": (is_right.sum(), count.sum())}
    return {"elbo": loss.sum()}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  @property
  def num_tokens(self) -> int:
    """K."""
    return self.network.vocab_size - 1

  def _odds(self, alpha, noise_prob):
    """Mass of a kept token over that of one token of the noise, alpha K / (1 - alpha)."""
    return alpha * self.num_tokens / noise_prob

  def _cost(self, logits, given):
    """The bound's integrand over -alpha' / alpha, and whether the mode is the clean token."""
    clean, noisy, odds, noise_prob = given
    probs = jax.nn.softmax(logits, axis=-1)
    is_clean = jax.nn.one_hot(clean, logits.shape[-1])
    # Ratios of the true to the model's marginal, 1 + u: over tokens, and at the noisy one.
    own, mass = odds[..., None] * is_clean, 1 + odds[..., None] * probs
    u, log_ratio = (own - odds[..., None] * probs) / mass, jnp.log1p(own) - jnp.log(mass)
    at = lambda x: jnp.take_along_axis(x, noisy[..., None], axis=-1)[..., 0]
    near = jnp.where(jnp.abs(u) < _SMALL, u, 0.0)
    divergence = jnp.where(jnp.abs(u) < _SMALL, near**2 / 2 - near**3 / 6 + near**4 / 12,
                           (1 + u) * log_ratio - u)
    near = at(near)
    jump = jnp.where(jnp.abs(at(u)) < _SMALL, near**2 / 2 - near**3 / 3 + near**4 / 4,
                     at(u) - at(log_ratio))
    each = noise_prob / self.num_tokens
    total = each * (mass * divergence).sum(axis=-1) + jump
    cost = total / (noise_prob * (1 + odds * (noisy == clean)))
    return cost, (logits.argmax(axis=-1) == clean).astype(jnp.float32)

  @property
  def _first_nats(self) -> float:
    """Cost of reading a token off its noisy one at t = 0: entropy of the channel there."""
    each = self.alpha.eps / self.num_tokens
    stays = 1 - self.alpha.eps + each
    return -stays * math.log(stays) - ((self.num_tokens - 1) * each * math.log(each) if each else 0)

  def bound(self, estimator):
    """This objective; no count of masks is to be drawn, and no likelihood is exact."""
    if estimator == "lattice_k":
      raise ValueError("eval.estimator lattice_k draws exact counts of masks, and objective "
                       "uniform_diffusion has none; use stratified.")
    return None if estimator == "exact" else self

  def reader(self):
    """Reader for the rule of this process alone: the model knows no masks."""
    return types.Reader(self.answer, self.visibility, self.schedule, "uniform", caches=(),
                        given={"num_ids": self.network.vocab_size})

  def answer(self, params, request):
    """Logits of each token given the others; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=request.noise_level,
                             blocked=self.mask_id)
