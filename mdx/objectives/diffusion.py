"""Absorbing-state (masked) diffusion in continuous time.

Contents: MaskedDiffusion.

References: Sahoo et al. 2024, arXiv:2406.07524 (MDLM); Shi et al. 2024,
arXiv:2406.04329 (MD4); Nie et al. 2025, arXiv:2502.09992 (LLaDA); Ou et al.
2024, arXiv:2406.03736 (exact mask counts).
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
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.utils import rng

NORMALIZERS = ("elbo", "per_supervised_token", "per_masked_token")
_LINEAR = {"name": "linear", "eps": 1e-4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDiffusion(types.Objective):
  """Negative evidence lower bound of masked diffusion, in nats.

  E_t[ -alpha'(t) / (1 - alpha(t)) * sum over masked i of -log p(x_i | x_t) ]

  With the linear schedule the weight is 1 / t, the loss of MDLM and LLaDA. The
  mask id gets probability 0. The tokens that the squashed schedule masks at
  t = 0 are charged a uniform guess (MD4), a constant of about eps * log V per
  token, in the reported bound; it has no gradient.

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
    schedule: dict(name="linear" | "cosine" | "polynomial", eps=..., power=...).
    time: draw of t: "independent", "stratified" or "lattice" (global batch).
    mask_draw: "bernoulli" or "exact_count".
    weighting: "elbo", or "uniform" (weight 1, no bound).
    normalizer: what the loss is divided by: "elbo" (rows: nats per sequence),
      "per_supervised_token" (MDLM, LLaDA pre-training) or "per_masked_token"
      (Dream; reweights the bound).

  Raises:
    ValueError: unknown choice, or exact counts with another schedule.
  """
  network: types.Network
  mask_id: int
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  mask_column: bool = False
  schedule: Any = dataclasses.field(default_factory=lambda: dict(_LINEAR))
  time: str = "lattice"
  mask_draw: str = "bernoulli"
  weighting: str = "elbo"
  normalizer: str = "per_supervised_token"

  is_likelihood = True
  generates = "ancestral"

  def __post_init__(self):
    for field, choices in (("time", time_lib.TIMES), ("mask_draw", ("bernoulli", "exact_count")),
                           ("weighting", ("elbo", "uniform")), ("normalizer", NORMALIZERS)):
      if getattr(self, field) not in choices:
        raise ValueError(f"objective.{field} is {getattr(self, field)!r}; choose from "
                         f"{', '.join(choices)}.")
    self.alpha, self.visibility  # pylint: disable=pointless-statement  (checks them)
    if self.mask_draw == "exact_count" and self.schedule["name"] != "linear":
      raise ValueError("objective.mask_draw exact_count draws the count uniformly, which is the "
                       f"linear schedule; got {self.schedule['name']!r}. Use bernoulli.")

  @property
  def alpha(self):
    """The schedule object."""
    return config_lib.build(schedule_lib.SCHEDULES, self.schedule, what="schedule")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"elbo": 1.0}

  def prepare(self, params, batch, key, context):
    """Draws times (unless `batch["time"]` gives them) and masks."""
    del params, context
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    time = batch.get("time")
    if time is None:
      time = time_lib.TIMES[self.time](rng.stream(key, "time"), index)
    keys = rng.per_example(rng.stream(key, "mask"), index)
    length = allowed.sum(axis=1)
    if self.mask_draw == "exact_count":
      count = jnp.minimum(jnp.floor(length * (1 - time)).astype(jnp.int32) + 1, length)
      is_masked = mask_lib.exact_count(keys, count, allowed)
      weight, level = length / jnp.maximum(count, 1), count / jnp.maximum(length, 1)
    else:
      is_masked = mask_lib.bernoulli(keys, self.alpha.mask_prob(time)[:, None], allowed)
      weight, level = self.alpha.weight(time), time
    noisy = replace_lib.mask_all(batch["tokens"], is_masked, self.mask_id)
    batch = batch | {"noisy_tokens": noisy, "is_masked": is_masked,
                     "token_weight": weight.astype(jnp.float32),
                     "noise_level": level.astype(jnp.float32)}
    count = {"elbo": jnp.any(allowed, axis=1), "per_supervised_token": allowed,
             "per_masked_token": is_masked}[self.normalizer]
    return batch, {"elbo": count.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Weighted sum of -log p(x_i | x_t) over the masked tokens."""
    del context
    allowed, is_masked = mask_lib.allowed_positions(batch), batch["is_masked"]
    hidden = self.network.encode(params["model"], batch["noisy_tokens"],
                                 attention=self.visibility, positions=batch.get("positions"),
                                 segment_ids=batch.get("segment_ids"), time=batch["noise_level"])
    losses = targets_lib.target_losses(self.network, params["model"], hidden, batch["tokens"],
                                       is_masked, rate=self.alpha.mean_mask_prob,
                                       spread=self._rate_spread,
                                       is_binomial=self.mask_draw == "bernoulli",
                                       blocked=self._blocked)
    plain = losses.sum(axis=1)
    bound = plain * batch["token_weight"]
    total = (bound if self.weighting == "elbo" else plain).sum()
    num_tokens = allowed.sum(axis=1).astype(jnp.float32)
    rows = bound + num_tokens * self._clipped_nats
    metrics = {"nats_per_token": (rows.sum(), num_tokens.sum()),
               "masked_nats": (plain.sum(), is_masked.sum(dtype=jnp.float32))}
    return {"elbo": total}, types.Aux(metrics, {"nll": rows, "count": num_tokens}, {})

  def denoise(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=request.noise_level,
                             blocked=self._blocked)

  @property
  def visibility(self):
    """The attention value."""
    return config_lib.build(attention_lib.ATTENTIONS, self.attention, what="attention")

  @property
  def _blocked(self) -> int | None:
    return None if self.mask_column else self.mask_id

  @property
  def _clipped_nats(self) -> float:
    """Cost of the tokens masked at t = 0: a uniform guess over the real ids."""
    eps = 0.0 if self.mask_draw == "exact_count" else self.alpha.eps
    return eps * math.log(self.network.vocab_size - 1)

  def _rate_spread(self, num_rows: int, num_shards: int) -> float:
    """How far the mean mask rate of a shard's rows may exceed its expectation."""
    if self.time == "independent":
      return 3 * math.sqrt(1 / 12 / num_rows)
    # A whole lattice is off by at most half its spacing, a run of its rows by more.
    return (0.5 if num_shards == 1 else 1.5) / num_rows
