"""Masked language modelling.

Contents: MaskedLM.

Reference: Devlin et al. 2019, arXiv:1810.04805; Liu et al. 2019,
arXiv:1907.11692 (dynamic masking: a new draw every step).
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp

from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(types.Objective):
  """-sum over selected i of log p(x_i | corrupted x), in nats.

  The weight is the number of selected tokens. Not a likelihood.

  Attributes:
    network: the model, read with full attention.
    mask_id: id of [MASK].
    mask_rate: share of a row's tokens that is selected, in (0, 1].
    mask_draw: "bernoulli" (each token by itself) or "exact_count".
    replace_mask_rate: share of the selected that becomes [MASK].
    replace_random_rate: share that becomes a random token; the rest is kept.
  """
  network: types.Network
  mask_id: int
  mask_rate: float = 0.15
  mask_draw: str = "bernoulli"
  replace_mask_rate: float = 0.8
  replace_random_rate: float = 0.1

  def __post_init__(self):
    if not 0 < self.mask_rate <= 1:
      raise ValueError(f"objective.mask_rate must lie in (0, 1], got {self.mask_rate}.")
    if self.mask_draw not in ("bernoulli", "exact_count"):
      raise ValueError(f"objective.mask_draw is {self.mask_draw!r}; choose from bernoulli, "
                       "exact_count.")
    rates = (self.replace_mask_rate, self.replace_random_rate)
    if min(rates) < 0 or sum(rates) > 1 + 1e-6:
      raise ValueError(f"objective.replace_mask_rate and replace_random_rate must be >= 0 and sum "
                       f"to at most 1, got {rates}.")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"mlm": 1.0}

  def prepare(self, params, batch, key, context):
    """Selects and replaces tokens; the weight is the number of selected ones."""
    del params, context
    allowed = mask_lib.allowed_positions(batch)
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    if self.mask_draw == "bernoulli":
      is_target = mask_lib.bernoulli(keys, self.mask_rate, allowed)
    else:
      count = jnp.round(self.mask_rate * allowed.sum(axis=1)).astype(jnp.int32)
      is_target = mask_lib.exact_count(keys, jnp.maximum(count, 1), allowed)
    noisy = replace_lib.mask_random_keep(
        rng.per_example(rng.stream(key, "replace"), batch["example_index"]), batch["tokens"],
        is_target, mask_id=self.mask_id, vocab_size=self.network.vocab_size,
        mask_rate=self.replace_mask_rate, random_rate=self.replace_random_rate)
    batch = batch | {"noisy_tokens": noisy, "is_target": is_target}
    return batch, {"mlm": is_target.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of -log p(x_i | noisy) over the selected tokens."""
    del context
    is_target = batch["is_target"]
    hidden = self.network.encode(params["model"], batch["noisy_tokens"],
                                 attention=self.visibility,
                                 positions=batch.get("positions"),
                                 segment_ids=batch.get("segment_ids"))
    losses = targets_lib.target_losses(self.network, params["model"], hidden, batch["tokens"],
                                       is_target, rate=self.mask_rate,
                                       is_binomial=self.mask_draw == "bernoulli")
    rows = losses.sum(axis=1)
    total, count = rows.sum(), is_target.sum(axis=1, dtype=jnp.float32)
    metrics = {"masked_nats": (total, count.sum())}
    return {"mlm": total}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  def denoise(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=None, blocked=self.mask_id)

  @property
  def visibility(self):
    """The attention value."""
    return attention_lib.Full()
