"""Masked diffusion whose schedule is learned for every token of the vocabulary.

Contents: GenMD4.

Reference: Shi et al. 2024, arXiv:2406.04329, section 6.
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
from mdx.corruption import time as time_lib
from mdx.networks import heads
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenMD4(types.Objective):
  """Negative evidence lower bound with alpha_v(t) = 1 - t^(w_v) for the token v, in nats.

  Rare tokens may be masked earlier than frequent ones, and the model learns when. The bound is
  the integral over t in [t_1, 1] of the expectation over x_t of

    1/t * sum over masked i of w_{x_i} (-log p(x_i | x_t) - 1) + sum_v w_v p(v | x_t)

  plus the tokens masked at t_1, which are charged a guess in proportion to t_1^(w_v). The
  masks depend on w, so its gradient needs a score term: two canvases z, z' are drawn of every
  row, and (L(z) - L(z')) / 2 times the gradient of log q(z) - log q(z') is added to that of
  (L(z) + L(z')) / 2 (REINFORCE, leave one out).

  Two canvases a row cost two passes of the network. `params["schedule"]` has the w_v, as
  softplus(exponent).

  Attributes:
    network: the model; which tokens are masked depends on t, so let it be told the time.
    mask_id: id of the mask token.
    attention: as in `MaskedDiffusion`.
    shift: as in `MaskedDiffusion`.
    time: draw of t.
    first_time: t_1, in (0, 1).
    first_power: all w at the beginning.
    normalizer: "elbo" (rows) or "per_supervised_token".

  Raises:
    ValueError: unknown choice, or values out of range.
  """
  network: types.Network
  mask_id: int
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  shift: bool = False
  time: str = "lattice"
  first_time: float = 1e-3
  first_power: float = 1.0
  normalizer: str = "per_supervised_token"

  def __post_init__(self):
    config_lib.check(self, "objective", between=dict(first_time="(0, 1)"), choices=dict(
        time=time_lib.TIMES, normalizer=("elbo", "per_supervised_token")))
    self.visibility  # pylint: disable=pointless-statement  (checks it)
    if not self.first_power > 0:
      raise ValueError(f"objective.first_power must be positive, got {self.first_power}.")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"elbo": 1.0}

  def parts(self):
    """The model and an exponent per id."""
    start = math.log(math.expm1(self.first_power))
    return super().parts() | {"schedule": types.Part(
        lambda key: {"exponent": jnp.full(self.network.vocab_size, start, jnp.float32)},
        is_fresh=False)}

  def prepare(self, params, batch, key, context):
    """Draws times (unless `batch["time"]` gives them) and two canvases of every row."""
    del context
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    time = batch.get("time")
    if time is None:
      time = time_lib.TIMES[self.time](rng.stream(key, "time"), index)
    time = self.first_time + (1 - self.first_time) * time
    rate = jnp.exp(_powers(params)[batch["tokens"]] * jnp.log(time)[:, None])
    is_masked = jnp.stack([
        mask_lib.bernoulli(rng.per_example(rng.stream(key, name), index), rate, allowed)
        for name in ("mask", "other_mask")], axis=1)
    noisy = replace_lib.mask_all(batch["tokens"][:, None], is_masked, self.mask_id)
    batch = batch | {"noisy_tokens": noisy, "is_masked": is_masked, "noise_level": time}
    return batch, {"elbo": diffusion.weight_of(self.normalizer, allowed, is_masked)}

  def __call__(self, params, batch, context):
    """The bound of the rows, with a gradient that is unbiased for the schedule too."""
    allowed, is_masked = mask_lib.allowed_positions(batch), batch["is_masked"]
    cross_entropy, spread = self._scores(params, batch, context.noise)
    power, log_time = _powers(params), jnp.log(batch["noise_level"])[:, None, None]
    own = power[batch["tokens"]][:, None]
    costs = jnp.where(is_masked, own * (cross_entropy - 1) + spread, 0.0).sum(axis=2)
    costs = (1 - self.first_time) * jnp.exp(-log_time[:, 0]) * costs

    exponent = own * log_time
    is_kept = allowed[:, None] & ~is_masked
    kept = jnp.log(-jnp.expm1(jnp.where(is_kept, exponent, -1.0)))
    log_prob = jnp.where(is_masked, exponent, jnp.where(is_kept, kept, 0.0)).sum(axis=2)
    ahead = jax.lax.stop_gradient(costs[:, 0] - costs[:, 1]) / 2
    score = ahead * (log_prob[:, 0] - log_prob[:, 1])
    rows = costs.mean(axis=1) + jnp.where(allowed, self._first_cost(power, batch), 0.0).sum(axis=1)
    total = (rows + score - jax.lax.stop_gradient(score)).sum()

    count = allowed.sum(axis=1, dtype=jnp.float32)
    metrics = {"nats_per_token": (rows.sum(), count.sum()),
               "masked_nats": (cross_entropy.sum(), is_masked.sum(dtype=jnp.float32))}
    return {"elbo": total}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  def _scores(self, params, batch, noise):
    """-log p(x_i) and the sum over v of w_v p(v), at masked positions: [B, 2, L] each."""
    tokens = jnp.repeat(batch["tokens"], 2, axis=0)
    flat = lambda x: x.reshape(tokens.shape)
    power = _powers(params)
    inputs = reading.copied_inputs(batch, flat(batch["noisy_tokens"]), 2)
    hidden = self.network.encode(
        params["model"], inputs, attention=self.visibility,
        time=jnp.repeat(batch["noise_level"], 2, axis=0),
        noise=reading.noise_of(noise, batch, num_copies=2)).last
    if self.shift:
      hidden = reading.previous_hidden(hidden, inputs.segment_ids)

    def score(logits, targets):
      padded = jnp.pad(power, (0, logits.shape[-1] - power.shape[0]))
      return heads.cross_entropy(logits, targets), jax.nn.softmax(logits, axis=-1) @ padded

    scores = targets_lib.target_losses(
        self.network, params["model"], hidden, tokens, flat(batch["is_masked"]),
        rate=1 / (1 + self.first_power), spread=lambda *_: 0.1, blocked=self.mask_id, score=score)
    return [x.reshape(batch["is_masked"].shape) for x in scores]

  def _first_cost(self, power, batch):
    """Expected cost of a token that is masked at t_1, [B, L]."""
    exponent = power * math.log(self.first_time)
    is_real = jnp.arange(len(power)) != self.mask_id
    nats = jax.nn.logsumexp(exponent, where=is_real) - exponent
    return (jnp.exp(exponent) * nats)[batch["tokens"]]

  def bound(self, estimator):
    """This objective, whose masks are Bernoulli; not exact."""
    if estimator == "lattice_k":
      raise ValueError("eval.estimator lattice_k draws exact counts of masks, which GenMD4 does "
                       "not; use stratified.")
    return None if estimator == "exact" else self

  def reader(self):
    """Reader for any rule but the ancestral one: the order of tokens depends on the tokens."""
    return types.Reader(self.answer, self.visibility, is_shifted=self.shift)

  def answer(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=request.noise_level,
                             blocked=self.mask_id, shift=self.shift)

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)


def _powers(params):
  """w of every id, float32 [V]."""
  return jax.nn.softplus(params["schedule"]["exponent"])
