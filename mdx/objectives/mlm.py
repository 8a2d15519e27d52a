"""Masked language modelling.

Contents: MaskedLM, UNITS, RATE_SCHEDULES.

Convention: what is corrupted is selected first (`mdx.corruption.mask`), then replaced
(`mdx.corruption.replace`). Rates are shares of a row's units: tokens or whole words.

References: Devlin et al. 2019, arXiv:1810.04805 (and its whole-word masking); Liu et al. 2019,
arXiv:1907.11692 (dynamic masking); Joshi et al. 2020, arXiv:1907.10529 (SpanBERT); Wettig et al.
2023, arXiv:2202.08005 (rates of corruption and of prediction); Ankner et al. 2024,
arXiv:2305.15096 (rates that change over a run).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.corruption import unit as unit_lib
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.utils import rng

UNITS = ("token", "whole_word")
# Share of the way from the first to the last rate, at a share of the steps.
RATE_SCHEDULES = {"linear": lambda share: share,
                  "cosine": lambda share: 0.5 - 0.5 * jnp.cos(jnp.pi * share)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(types.Objective):
  """-sum over predicted i of log p(x_i | corrupted x), in nats.

  The weight is the number of predicted tokens. Not a likelihood.

  Attributes:
    network: the model, read with full attention.
    mask_id: id of [MASK].
    word_edges: `Tokenizer.word_edges`, for whole words.
    unit: what is selected as one: "token" or "whole_word".
    mask_rate: share of a row's units that is corrupted, in (0, 1]; of words too it is the
      expected share of tokens, for every word is equally likely.
    mask_draw: "bernoulli" (each unit by itself) or "exact_count" of units, at least one.
    span_max: longest span, in units; 1 selects no spans. Spans need "exact_count": lengths are
      drawn until they sum to the count, the last one is cut, and every arrangement without
      overlap is equally likely. (SpanBERT redraws spans that overlap, and counts tokens.)
    span_rate: p of the geometric law of the lengths up to `span_max`.
    replace_mask_rate: share of the selected that becomes [MASK].
    replace_random_rate: share that becomes a random token; the rest is kept.
    replace_together: whether all of a span or unit meets the same of these fates.
    predict_rate: 0: all that is corrupted is predicted, and nothing else. Below `mask_rate`: so
      large a share of the units, a part of the corrupted ones. A multiple of `mask_rate`: the row
      is read as often, with disjoint selections, each predicted: more is predicted, no more is
      corrupted, at that multiple of the cost.
    final_mask_rate: to which the rate of corruption goes over `anneal_steps`; 0: it is constant.
    rate_schedule: how it goes there: "linear" or "cosine".
    anneal_steps: steps after which the rate is the final one, with which models are scored.
    num_masks: 0: masks are dynamic, drawn anew at every step. n: they are static; a row has n fixed
      ones, a function of its tokens alone, and each visit takes one of them at random. Rows come
      again if the packing makes the same ones every epoch ("pad", "crop").

  Raises:
    ValueError: a rate out of its range, an unknown choice, or choices that exclude each other.
  """
  network: types.Network
  mask_id: int
  word_edges: Any = dataclasses.field(default=None, repr=False, compare=False)
  unit: str = "token"
  mask_rate: float = 0.15
  mask_draw: str = "bernoulli"
  span_max: int = 1
  span_rate: float = 0.2
  replace_mask_rate: float = 0.8
  replace_random_rate: float = 0.1
  replace_together: bool = False
  predict_rate: float = 0.0
  final_mask_rate: float = 0.0
  rate_schedule: str = "linear"
  anneal_steps: int = 0
  num_masks: int = 0

  def __post_init__(self):
    for name, choices in (("mask_draw", ("bernoulli", "exact_count")), ("unit", UNITS),
                          ("rate_schedule", RATE_SCHEDULES)):
      if getattr(self, name) not in choices:
        raise ValueError(f"objective.{name} is {getattr(self, name)!r}; choose from "
                         f"{', '.join(choices)}.")
    if not 0 < self.mask_rate <= 1:
      raise ValueError(f"objective.mask_rate must lie in (0, 1], got {self.mask_rate}.")
    for name in ("predict_rate", "final_mask_rate"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"objective.{name} must lie in (0, 1], or be 0 for that of mask_rate, got "
                         f"{getattr(self, name)}.")
    rates = (self.replace_mask_rate, self.replace_random_rate)
    if min(rates) < 0 or sum(rates) > 1 + 1e-6:
      raise ValueError(f"objective.replace_mask_rate and replace_random_rate must be >= 0 and sum "
                       f"to at most 1, got {rates}.")
    if self.span_max < 1 or not 0 < self.span_rate < 1:
      raise ValueError("objective.span_max must be positive and span_rate lie in (0, 1), got "
                       f"{self.span_max} and {self.span_rate}.")
    if self.num_masks < 0:
      raise ValueError("objective.num_masks must be positive, or 0 for dynamic masks, got "
                       f"{self.num_masks}.")
    if (self.anneal_steps > 0) != (self.final_mask_rate > 0) or self.anneal_steps < 0:
      raise ValueError("objective.anneal_steps and final_mask_rate go together, both positive or "
                       f"both 0; got {self.anneal_steps} and {self.final_mask_rate}.")
    if self.unit == "whole_word" and self.word_edges is None:
      raise ValueError("objective.unit whole_word needs word_edges, those of the tokenizer.")
    if self.span_max > 1 and self.mask_draw != "exact_count":
      raise ValueError(f"objective.span_max {self.span_max} draws spans of an exact number of "
                       f"units; set mask_draw to exact_count, not {self.mask_draw}.")
    self._check_copies()

  def _check_copies(self):
    if self.predict_rate <= self.mask_rate:
      return
    if not math.isclose(self.num_copies * self.mask_rate, self.predict_rate, rel_tol=1e-6):
      raise ValueError(f"objective.predict_rate {self.predict_rate} must be below mask_rate "
                       f"{self.mask_rate} or a multiple of it; use "
                       f"{self.num_copies * self.mask_rate:.6g}.")
    if self.span_max > 1 or self.final_mask_rate:
      raise ValueError("objective.predict_rate above mask_rate makes disjoint selections of one "
                       "size, without spans (span_max=1) or a final_mask_rate.")

  def check_length(self, length: int) -> None:
    """Raises ValueError if no row of `length` tokens can have the longest span."""
    rate = min(self.mask_rate, self.final_mask_rate or 1.0)
    count = round(rate * length)
    if 1 < self.span_max and self.span_max > count:
      raise ValueError(f"objective.span_max {self.span_max} exceeds the {count} units that a rate "
                       f"of {rate} selects of a row of {length} tokens; lower it, or raise "
                       "mask_rate or data.length.")

  @property
  def num_copies(self) -> int:
    """How often a row is read, with disjoint selections."""
    return max(round(self.predict_rate / self.mask_rate), 1)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"mlm": 1.0}

  def rate(self, step: jax.Array) -> jax.Array | float:
    """Share of the units that is corrupted at a step."""
    if not self.anneal_steps:
      return self.mask_rate
    share = jnp.minimum(step / self.anneal_steps, 1.0)
    way = RATE_SCHEDULES[self.rate_schedule](share)
    return self.mask_rate + (self.final_mask_rate - self.mask_rate) * way

  def prepare(self, params, batch, key, context):
    """Selects and replaces tokens; the weight is the number of predicted ones.

    Returns:
      The batch with `noisy_tokens` and `is_target` [B, L], or [B, copies, L].
    """
    del params
    rate, draws = self.rate(context.step), self._draws(batch, key)
    words = unit_lib.words(batch, self.word_edges) if self.unit == "whole_word" else None
    noisy, targets = [], []
    for nth in range(self.num_copies):
      selected, units = self._select(draws("mask"), rate, batch, words, nth)
      noisy.append(replace_lib.mask_random_keep(
          draws(f"replace {nth}" if nth else "replace"), batch["tokens"], selected,
          mask_id=self.mask_id, vocab_size=self.network.vocab_size,
          mask_rate=self.replace_mask_rate, random_rate=self.replace_random_rate,
          units=units if self.replace_together else None))
      if 0 < self.predict_rate < self.mask_rate:
        share = jnp.minimum(self.predict_rate / rate, 1.0)
        selected = self._draw(draws("predict"), share, selected, units, 0)
      targets.append(selected)
    if self.num_copies == 1:
      fields = {"noisy_tokens": noisy[0], "is_target": targets[0]}
    else:
      fields = {"noisy_tokens": jnp.stack(noisy, 1), "is_target": jnp.stack(targets, 1)}
    return batch | fields, {"mlm": fields["is_target"].sum(dtype=jnp.float32)}

  def _draws(self, batch, key):
    """Name of a use -> keys [B] of (step, example); of (tokens, one of n masks) if static."""
    index = batch["example_index"]
    if not self.num_masks:
      return lambda name: rng.per_example(rng.stream(key, name), index)
    visit = rng.per_example(rng.stream(key, "visit"), index)
    which = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.num_masks))(visit)
    fixed, identity = rng.stream(rng.root(0), "static masks"), rng.content_index(batch["tokens"])
    return lambda name: jax.vmap(jax.random.fold_in)(
        rng.per_example(rng.stream(fixed, name), identity), which)

  def _select(self, keys, rate, batch, words, nth):
    """What is corrupted, bool [B, L], and the units that were selected as one, or None."""
    allowed = mask_lib.allowed_positions(batch)
    if self.span_max == 1:
      return self._draw(keys, rate, allowed, words, nth), words
    selected, begins = mask_lib.spans(keys, _count(rate, allowed, words), allowed, words,
                                      mask_lib.geometric(self.span_rate, self.span_max))
    return selected, unit_lib.from_begins(begins | unit_lib.text_begins(batch))

  def _draw(self, keys, rate, allowed, units, nth):
    if self.mask_draw == "bernoulli":
      return mask_lib.bernoulli(keys, rate, allowed, units, nth)
    return mask_lib.exact_count(keys, _count(rate, allowed, units), allowed, units, nth)

  def __call__(self, params, batch, context):
    """Sum of -log p(x_i | noisy) over the predicted tokens."""
    del context
    tokens, length = batch["tokens"], batch["tokens"].shape[1]
    copies = lambda x: None if x is None else jnp.repeat(x, self.num_copies, axis=0)
    noisy, is_target = (batch[k].reshape(-1, length) for k in ("noisy_tokens", "is_target"))
    hidden = self.network.encode(params["model"], noisy, attention=self.visibility,
                                 positions=copies(batch.get("positions")),
                                 segment_ids=copies(batch.get("segment_ids")))
    is_binomial = self.mask_draw == "bernoulli"
    # The number of tokens of so many words varies more than that of so many tokens.
    spread = lambda rows, shards: 2 / math.sqrt(rows * length) * (self.unit != "token")
    losses = targets_lib.target_losses(
        self.network, params["model"], hidden, copies(tokens), is_target,
        rate=self._target_rate, spread=spread, is_binomial=is_binomial)
    rows = losses.reshape(tokens.shape[0], -1).sum(axis=1)
    count = is_target.reshape(tokens.shape[0], -1).sum(axis=1, dtype=jnp.float32)
    total = rows.sum()
    metrics = {"masked_nats": (total, count.sum())}
    return {"mlm": total}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  @property
  def _target_rate(self) -> float:
    """Share of the places of a reading that are predicted, at most."""
    highest = max(self.mask_rate, self.final_mask_rate)
    return min(self.predict_rate, highest) if 0 < self.predict_rate < self.mask_rate else highest

  def denoise(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=None, blocked=self.mask_id)

  @property
  def visibility(self):
    """The attention value."""
    return attention_lib.Full()


def _count(rate, allowed, units):
  """The rounded share of each row's units, at least one: int32 [B]."""
  count = jnp.round(rate * mask_lib.heads(allowed, units).sum(axis=1)).astype(jnp.int32)
  return jnp.maximum(count, 1)
