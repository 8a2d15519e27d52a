"""Absorbing-state (masked) diffusion.

Contents: MaskedDiffusion, weight_of.

References: Sahoo et al. 2024, arXiv:2406.07524 (MDLM); Shi et al. 2024,
arXiv:2406.04329 (MD4); Nie et al. 2025, arXiv:2502.09992 (LLaDA); Ou et al.
2024, arXiv:2406.03736 (exact mask counts); Ye et al. 2025, arXiv:2508.15487 (Dream).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy import stats

from mdx import config as config_lib
from mdx import types
from mdx.corruption import context as context_lib
from mdx.corruption import length as length_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.corruption import schedule as schedule_lib
from mdx.corruption import time as time_lib
from mdx.corruption import unit as unit_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.utils import rng

NORMALIZERS = ("elbo", "per_supervised_token", "per_masked_token", "per_row")
WEIGHTINGS = ("elbo", "uniform", "cart")
_LINEAR = {"name": "linear", "eps": 1e-4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDiffusion(types.Maskable):
  """Negative evidence lower bound of masked diffusion, in nats.

  E_t[ -alpha'(t) / (1 - alpha(t)) * sum over masked i of -log p(x_i | x_t) ]

  With the linear schedule the weight is 1 / t, the loss of MDLM and LLaDA. The
  mask id gets probability 0. The tokens that the squashed schedule masks at
  t = 0 are charged a uniform guess (MD4), a constant of about eps * log V per
  token, in the reported bound; it has no gradient.

  With `num_steps` = T the weight is that of the bound of T steps from t to s = t - 1 / T,
  T (alpha(s) - alpha(t)) / (1 - alpha(t)); in the mean over texts it lies above the other, by
  O(1 / T).

  With `mask_draw="exact_count"` (linear schedule) a row masks exactly
  k = floor(L (1 - t)) + 1 tokens and is weighted L / k: the same expectation,
  no clipping at t = 0, and a smaller variance.

  Attributes:
    network: the model.
    mask_id: id of the mask token.
    attention: dict(name="full"), or "block_causal" with a `block_length`: one noisy
      stream whose blocks see the blocks before them, which allows an exact cache.
    mask_column: whether the mask id keeps its column in the softmax, as in LLaDA; by
      default it gets probability 0 (MDLM).
    carry_over: whether a clean position keeps its token whatever the network says of it, as in
      MDLM. If not, the text is read off the network's prediction for a text without masks,
      which costs -log p(x_i | x) at every position, and a second pass (D3PM's last term).
      Samplers always carry over.
    shift: whether a position is predicted from the hidden state of the position before it, as
      in models that began as autoregressive ones (Dream).
    schedule: dict(name="linear" | "cosine" | "polynomial", eps=..., power=...).
    time: draw of t: "independent", "stratified" or "lattice" (global batch).
    time_density: dict(name="uniform"), or "bell" with `center`, `spread`, `uniform` and `weighted`:
      how often a time is drawn in training; see `mdx.corruption.time`.
    num_steps: T of a process in discrete time; 0 = continuous time.
    mask_draw: "bernoulli" or "exact_count".
    random_length_rate: share of the rows that are cut to a uniform length in training (0.01
      in LLaDA); rows whose `time` is given, for likelihoods, are never cut.
    weighting: "elbo", "uniform" (weight 1, no bound) or "cart": a token's weight is how
      much clean context it has (Dream, no bound).
    cart_rate: of the geometric distribution of the distances of "cart".
    normalizer: divisor of the loss: "elbo" (rows: nats per sequence),
      "per_supervised_token" (MDLM, LLaDA pre-training), "per_masked_token" (Dream;
      reweights the bound) or "per_row" (LLaDA SFT: nats per supervised token of each row,
      averaged over the rows).

  Raises:
    ValueError: unknown choice, or exact counts with another schedule or in discrete time.
  """
  network: types.Network
  mask_id: int
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  mask_column: bool = False
  carry_over: bool = True
  shift: bool = False
  schedule: Any = dataclasses.field(default_factory=lambda: dict(_LINEAR))
  time: str = "lattice"
  time_density: Any = dataclasses.field(default_factory=lambda: {"name": "uniform"})
  num_steps: int = 0
  mask_draw: str = "bernoulli"
  random_length_rate: float = 0.0
  weighting: str = "elbo"
  cart_rate: float = 0.1
  normalizer: str = "per_supervised_token"

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(
        time=time_lib.TIMES, mask_draw=("bernoulli", "exact_count"), weighting=WEIGHTINGS,
        normalizer=NORMALIZERS), between=dict(random_length_rate="[0, 1]", cart_rate="(0, 1)"))
    self.alpha, self.visibility, self.density  # pylint: disable=pointless-statement  (checks)
    if self.num_steps < 0:
      raise ValueError(f"objective.num_steps must be positive, or 0 for continuous time, got "
                       f"{self.num_steps}.")
    if self.mask_draw == "exact_count" and self.schedule["name"] != "linear":
      raise ValueError("objective.mask_draw exact_count draws the count uniformly, which is the "
                       f"linear schedule; got {self.schedule['name']!r}. Use bernoulli.")
    if self.mask_draw == "exact_count" and self.num_steps:
      raise ValueError("objective.mask_draw exact_count is exact in continuous time; with "
                       f"num_steps {self.num_steps} use bernoulli.")

  @property
  def alpha(self):
    """The schedule object."""
    return config_lib.build(schedule_lib.SCHEDULES, self.schedule, what="schedule")

  @property
  def density(self):
    """The density of the times."""
    return config_lib.build(time_lib.DENSITIES, self.time_density, what="objective.time_density")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"elbo": 1.0}

  def check_length(self, length: int) -> None:
    """Raises ValueError if blocks of the attention do not divide rows of `length` tokens."""
    period = self.visibility.period
    if period and length % period:
      raise ValueError(f"objective.attention.block_length {period} does not divide data.length "
                       f"{length}; use a divisor.")

  def check_fields(self, fields):
    """Tokens that share a draw have no exact count, and no time of their own in blocks."""
    if not self._masks_together:
      super().check_fields(fields)

  @property
  def _masks_together(self) -> bool:
    return self.mask_draw == "bernoulli"

  def prepare(self, params, batch, key, context):
    """Draws times (unless `batch["time"]` gives them) and masks (unless `batch` has them)."""
    del params, context
    if "is_masked" in batch:
      return self._noised(batch, *(batch[k] for k in ("is_masked", "token_weight", "noise_level")))
    index = batch["example_index"]
    is_drawn = "time" not in batch
    if is_drawn and self.random_length_rate:
      keys = rng.per_example(rng.stream(key, "length"), index)
      batch = length_lib.cut_rows(keys, batch, self.random_length_rate)
    if not is_drawn:
      return self._noised(batch, *self._corrupt(key, batch, batch["time"], is_drawn))
    density = self.density
    time = density.place(time_lib.TIMES[self.time](rng.stream(key, "time"), index))
    is_plain = isinstance(density, time_lib.Uniform)
    # The time of an exact count runs from all masked to clean, that of a density as the rate does.
    turned = self.mask_draw == "exact_count" and not is_plain
    is_masked, weight, level = self._corrupt(key, batch, 1 - time if turned else time, is_drawn)
    if not is_plain:
      of_time = density.density(time)
      weight = weight / of_time
      if not density.weighted:
        batch = batch | {"time_density": of_time}
    return self._noised(batch, is_masked, weight, level)

  def _noised(self, batch, is_masked, weight, level):
    """The rows with masks, and the weight of the loss."""
    allowed = mask_lib.allowed_positions(batch)
    batch = batch | {
        "noisy_tokens": replace_lib.mask_all(batch["tokens"], is_masked, self.mask_id),
        "is_masked": is_masked, "token_weight": weight.astype(jnp.float32),
        "noise_level": level.astype(jnp.float32)}
    return batch, {"elbo": weight_of(self.normalizer, allowed, is_masked)}

  def _corrupt(self, key, batch, time, is_drawn):
    """Masks [B, L] of rows at times [B]; weights and noise levels, [B] or [B, L]."""
    del is_drawn
    allowed = mask_lib.allowed_positions(batch)
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    if self.mask_draw == "exact_count":
      length = allowed.sum(axis=1)
      count = jnp.minimum(jnp.floor(length * (1 - time)).astype(jnp.int32) + 1, length)
      is_masked = mask_lib.exact_count(keys, count, allowed)
      return is_masked, length / jnp.maximum(count, 1), count / jnp.maximum(length, 1)
    time, weight = self._weight(time)
    units = unit_lib.joined(batch["is_shared"]) if "is_shared" in batch else None
    is_masked = mask_lib.bernoulli(keys, self.alpha.mask_prob(time)[:, None], allowed, units)
    return is_masked, weight, time

  def _weight(self, time):
    """Times on the grid of the process, and the weights of tokens masked then."""
    if not self.num_steps:
      return time, self.alpha.weight(time)
    step = jnp.clip(jnp.ceil(time * self.num_steps), 1, self.num_steps)
    return step / self.num_steps, self.alpha.step_weight(step, self.num_steps)

  def __call__(self, params, batch, context):
    """Weighted sum of -log p(x_i | x_t) over the masked tokens."""
    return self._totals(params, batch, context, self._nats(params, batch, context.noise))

  def _totals(self, params, batch, context, nats):
    """Loss and figures of rows whose masked positions cost `nats` [B, L] over their weight."""
    allowed, is_masked = mask_lib.allowed_positions(batch), batch["is_masked"]
    weight = batch["token_weight"]
    bound = (nats * (weight[:, None] if weight.ndim == 1 else weight)).sum(axis=1)
    plain = nats.sum(axis=1)
    num_tokens = allowed.sum(axis=1).astype(jnp.float32)
    if self.weighting == "cart":
      loss = (nats * context_lib.context_weights(~is_masked, batch.get("segment_ids"),
                                                 self.cart_rate)).sum(axis=1)
    else:
      loss = bound if self.weighting == "elbo" else plain
      if "time_density" in batch and self.weighting == "elbo":
        loss = loss * batch["time_density"]
    if not self.carry_over:
      copied = self._copied_nats(params, batch, context.noise).sum(axis=1)
      loss, bound = loss + copied, bound + copied
    if self.normalizer == "per_row":
      loss = loss / jnp.maximum(num_tokens, 1)
    rows = bound + num_tokens * self._clipped_nats
    metrics = {"nats_per_token": (rows.sum(), num_tokens.sum()),
               "masked_nats": (plain.sum(), is_masked.sum(dtype=jnp.float32))}
    return {"elbo": loss.sum()}, types.Aux(metrics, {"nll": rows, "count": num_tokens}, {})

  def _hidden(self, params, batch, noise=None):
    """Hidden states that the positions are predicted from, [B, L, D]."""
    hidden = reading.encode(self.network, params["model"], batch, attention=self.visibility,
                            tokens=batch["noisy_tokens"], time=batch["noise_level"], noise=noise)
    return reading.previous_hidden(hidden, batch.get("segment_ids")) if self.shift else hidden

  def _nats(self, params, batch, noise):
    """-log p(x_i | x_t) at the masked positions, 0 elsewhere: float32 [B, L]."""
    return self._scores(params, batch, noise)

  def _copied_nats(self, params, batch, noise):
    """-log p(x_i | x) of all positions, at t = 0: float32 [B, L]."""
    clean = batch | {"noisy_tokens": batch["tokens"],
                     "noise_level": jnp.zeros_like(batch["noise_level"])}
    hidden = self._hidden(params, clean, reading.noise_for(noise, "copied"))
    return targets_lib.target_losses(
        self.network, params["model"], hidden, batch["tokens"],
        mask_lib.allowed_positions(batch), blocked=self._blocked)

  def _scores(self, params, batch, noise, **score):
    """`targets.target_losses` of the masked positions."""
    return self._scores_of(params, batch, self._hidden(params, batch, noise), **score)

  def _scores_of(self, params, batch, hidden, **score):
    """`targets.target_losses` of the masked positions, of hidden states [B, L, D]."""
    return targets_lib.target_losses(
        self.network, params["model"], hidden, batch["tokens"], batch["is_masked"],
        rate=self._rate, spread=self._rate_spread, is_binomial=self.mask_draw == "bernoulli",
        blocked=self._blocked, **score)

  def bound(self, estimator):
    """This objective, with the draw of masks that an estimator needs."""
    if estimator == "exact":
      return None
    if estimator == "quadrature":
      if self.num_steps:
        raise ValueError("eval.estimator quadrature integrates over the time, which has "
                         f"{self.num_steps} steps here; use stratified.")
      # An exact count is a step function of the time, which no quadrature integrates.
      return dataclasses.replace(self, mask_draw="bernoulli")
    if estimator == "lattice_k" and self.mask_draw != "exact_count":
      if self.num_steps or (self.schedule["name"] != "linear" and self.network.reads_time):
        raise ValueError("eval.estimator lattice_k draws exact counts of masks, which need "
                         "continuous time, and the linear schedule where the network is told the "
                         "time; use stratified.")
      # Without the time the bound in continuous time is the same for every schedule.
      return dataclasses.replace(self, mask_draw="exact_count", schedule=_LINEAR)
    if estimator == "subsets" and not self.num_steps:  # whole, without the clipping at t = 0
      return dataclasses.replace(self, schedule={**self.schedule, "eps": 0.0})
    return self

  @property
  def reads_time(self):
    """Returns whether the network is told the time, and the time is not the share of masks."""
    return self.network.reads_time and self.mask_draw == "bernoulli"

  def blocks_of(self, positions):
    """All positions are one block."""
    return np.zeros(len(positions), np.int32)

  def given_count(self, count, total, quantile):
    """Counts in continuous time weigh the same; the mask probability has a beta distribution."""
    if self.mask_draw == "exact_count":
      return np.ones(len(count)), count / total
    if not self.num_steps:
      mask_prob = special.betaincinv(count, total - count + 1, quantile)
      return np.ones(len(count)), np.asarray(self.alpha.time(mask_prob), np.float64)
    step = np.arange(1, self.num_steps + 1)
    late, early = (np.asarray(self.alpha.mask_prob(x / self.num_steps), np.float64)
                   for x in (step, step - 1))
    mass = (count[:, None] * (late - early) / late
            * stats.binom.pmf(count[:, None], total, late)).cumsum(axis=1)
    chosen = (mass < quantile[:, None] * mass[:, -1:]).sum(axis=1)
    return mass[:, -1], step[chosen] / self.num_steps

  def reader(self):
    """Reader for any rule; the ancestral one follows the process that the loss bounds."""
    return types.Reader(self.answer, self.visibility, self.schedule, "ancestral",
                        is_shifted=self.shift)

  def answer(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=request.noise_level,
                             blocked=self._never, shift=self.shift)

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)

  @property
  def _blocked(self) -> int | None:
    return None if self.mask_column else self.mask_id

  @property
  def _never(self) -> int | None:
    """An id that samplers must not see."""
    return self._blocked

  @property
  def _rate(self) -> float:
    """Expected share of the tokens that are masked."""
    rate = self.density.mean(self.alpha.mask_prob)
    rate = self.alpha.mean_mask_prob if rate is None else rate
    return rate + (0.5 / self.num_steps if self.num_steps else 0)

  @property
  def _clipped_nats(self) -> float:
    """Cost of the tokens masked at t = 0: a uniform guess over the real ids."""
    eps = 0.0 if self.mask_draw == "exact_count" else self.alpha.eps
    return eps * math.log(self.network.vocab_size - 1)

  def _rate_spread(self, num_rows: int, num_shards: int) -> float:
    """Distance by which the mean mask rate of a shard's rows may exceed its expectation."""
    if self.time == "independent":
      return 3 * math.sqrt(1 / 12 / num_rows)  # a bell's variance is smaller
    # A whole lattice is off by at most half its spacing, a run of its rows by more.
    return (0.5 if num_shards == 1 else 1.5) * self.density.variation / num_rows


def weight_of(normalizer: str, allowed: jax.Array, is_masked: jax.Array) -> jax.Array:
  """Divisor of the loss, float32 []: rows or tokens of a batch."""
  counted = {"elbo": jnp.any(allowed, axis=1), "per_row": jnp.any(allowed, axis=1),
             "per_supervised_token": allowed, "per_masked_token": is_masked}[normalizer]
  return counted.sum(dtype=jnp.float32)
