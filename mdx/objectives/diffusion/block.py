"""Block diffusion: autoregressive over blocks, masked diffusion within them.

Contents: BlockDiffusion.

References: Arriola et al. 2025, arXiv:2503.09573 (BD3-LM); Bie et al. 2025, arXiv:2512.15745
(LLaDA2.0: complementary masks, block sizes in phases, confidence); the LLaDA2.1 report (edits).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import block as block_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.corruption import time as time_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import visibility as visibility_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDiffusion(diffusion.MaskedDiffusion):
  """Sum over blocks of the bound of masked diffusion given the clean blocks before, in nats.

  Training reads rows twice as long, the noisy text and behind it the clean one: a noisy block
  sees itself and the clean blocks before it, so one pass scores all blocks. Every block has a
  time of its own, and begins anew with every document. Sampling reads one stream, block-causal,
  and may cache what is finished, exactly.

  With blocks of one token, and exact counts, this is an autoregressive model.

  Attributes:
    attention: dict(name="block_causal", block_length=...): what sampling reads with.
    clip: least and greatest time drawn in training (with the linear schedule, mask rate).
      Blocks that are nearly clean or nearly all masked say little and vary much. The loss is
      then no bound; likelihoods take all times whatever is drawn here. Exact counts have these
      rates in the mean: a count between two integers is rounded at random, to at least one.
    clean_stream: "block", the clean text is read block-causally, as sampling caches it; or "token",
      causally, as in models that also write from left to right.
    ar_weight: weight of the autoregressive loss of the clean text, -log p(x_i | x_<i) read from
      the clean position before; 0 = none. Needs clean_stream "token". The first token of a document
      is not charged.
    complementary: a text is read twice, the second time with the masks of the first removed and all
      others set, so that every token is predicted exactly once. With exact counts of n tokens, k of
      them masked, the weights are n / 2k and n / 2(n - k), and 1 at k = n: the same bound.
    block_phases: pairs (first step, block length) of training, in one compiled program; the last
      length is that of `attention`. () = that length throughout.
    confidence_weight: weight of the mean over the masked tokens of the entropy at those whose most
      likely token is the right one (LLaDA2.0's confidence-aware loss); 0 = none.
    edit_rate: share of the tokens shown in the noisy text that are replaced by uniform ones
      (LLaDA2.1). The loss of the masked tokens then is no bound; likelihoods replace nothing.
    edit_weight: weight of the mean of -log p(x_i) over all tokens shown, replaced or not, which
      teaches `sampler.name=token_editing` what to keep and what to correct.

  Raises:
    ValueError: another attention, bounds that are none, phases that do not fit, complementary masks
      of Bernoulli draws, or as `MaskedDiffusion`.
  """
  attention: Any = dataclasses.field(
      default_factory=lambda: {"name": "block_causal", "block_length": 16})
  clip: tuple[float, float] = (0.0, 1.0)
  clean_stream: str = "block"
  ar_weight: float = 0.0
  complementary: bool = False
  block_phases: tuple[tuple[int, int], ...] = ()
  confidence_weight: float = 0.0
  edit_rate: float = 0.0
  edit_weight: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.visibility, attention_lib.BlockCausal):
      raise ValueError("objective block_diffusion needs attention block_causal with a "
                       f"block_length, got {dict(self.attention)}.")
    object.__setattr__(self, "clip", tuple(self.clip))
    if len(self.clip) != 2 or not 0 <= self.clip[0] < self.clip[1] <= 1:
      raise ValueError("objective.clip needs 0 <= low < high <= 1, got "
                       f"{', '.join(map(str, self.clip))}.")
    if self.time_density["name"] != "uniform":
      raise ValueError("objective.time_density is of the one time of a row, and blocks have times "
                       "of their own; use uniform, and objective.clip for the rates between.")
    if self.weighting == "cart":
      raise ValueError("objective.weighting cart weighs context on both sides, which blocks do not "
                       "have; use elbo or uniform.")
    config_lib.check(self, "objective", choices=dict(clean_stream=("block", "token")),
                     at_least=dict(ar_weight=0, confidence_weight=0, edit_weight=0),
                     between=dict(edit_rate="[0, 1)"))
    if self.ar_weight and self.clean_stream != "token":
      raise ValueError("objective.ar_weight predicts the next token of the clean text, which a "
                       "block-causal reading already shows; set objective.clean_stream=token.")
    if self.complementary and self.mask_draw != "exact_count":
      raise ValueError("objective.complementary weighs both halves of an exact count of masks, got "
                       f"mask_draw {self.mask_draw}; use exact_count.")
    object.__setattr__(self, "block_phases", self._checked_phases())

  _masks_together = False

  def _checked_phases(self):
    try:
      phases = tuple((int(step), int(length)) for step, length in self.block_phases)
    except (TypeError, ValueError):
      phases = ((-1, 0),)
    steps, length = [step for step, _ in phases], self.visibility.block_length
    is_ascending = all(step < other for step, other in zip(steps, steps[1:]))
    if phases and not (steps[0] == 0 and is_ascending and phases[-1][1] == length
                       and all(length >= 1 for _, length in phases)):
      raise ValueError("objective.block_phases needs pairs (first step, block length), from step 0 "
                       f"on, ascending, the last length that of the attention, {length}; got "
                       f"{self.block_phases!r:.80}.")
    return phases

  def check_length(self, length):
    """Raises ValueError if the blocks of a phase do not divide rows of `length` tokens."""
    super().check_length(length)
    for _, size in self.block_phases:
      if length % size:
        raise ValueError(f"objective.block_phases has blocks of {size} tokens, which do not divide "
                         f"data.length {length}; use a divisor.")

  @property
  def scales(self):
    """The bound, and the terms that are set."""
    own = {"ar": self.ar_weight, "confidence": self.confidence_weight,
           "edit": self.edit_weight if self.edit_rate else 0.0}
    return super().scales | {name: weight for name, weight in own.items() if weight}

  @property
  def _is_plain(self):
    """Whether training draws and scores no more than the bound."""
    return not (self.complementary or self.block_phases or self.edit_rate or len(self.scales) > 1)

  def _length_of(self, batch):
    """The block length of a batch, int or int32 []."""
    lengths = batch.get("block_length")
    return self.visibility.block_length if lengths is None else lengths[0]

  def _streams_of(self, batch):
    """The attention value of a batch."""
    streams = attention_lib.TwoStream(self.visibility.block_length, self.clean_stream)
    lengths = batch.get("block_length")
    return streams if lengths is None else visibility_lib.Phased(streams, lengths[0])

  def prepare(self, params, batch, key, context):
    """Draws as `MaskedDiffusion` does; in training also what the further terms need."""
    if self._is_plain or "time" in batch or "is_masked" in batch:
      return super().prepare(params, batch, key, context)
    if self.block_phases:
      steps, lengths = (jnp.array(x, jnp.int32) for x in zip(*self.block_phases))
      length = lengths[jnp.searchsorted(steps, context.step, side="right") - 1]
      batch = batch | {"block_length": jnp.full(batch["tokens"].shape[:1], length)}
    batch, weights = super().prepare(params, batch, key, context)
    allowed, is_masked = mask_lib.allowed_positions(batch), batch["is_masked"]
    weights |= {"ar": (allowed & ~_starts(batch)).sum(dtype=jnp.float32),
                "confidence": is_masked.sum(dtype=jnp.float32),
                "edit": (allowed & ~is_masked).sum(dtype=jnp.float32)}
    if self.complementary:
      level, weight = batch["noise_level"], batch["token_weight"]
      is_whole, is_other = level >= 1, allowed & ~is_masked
      batch |= {"token_weight": jnp.where(is_whole, weight, weight / 2), "is_other": is_other,
                "other_tokens": replace_lib.mask_all(batch["tokens"], is_other, self.mask_id),
                "other_weight": 0.5 / jnp.where(is_whole, 1.0, 1 - level)}
      weights = {"ar": weights["ar"], "edit": allowed.sum(dtype=jnp.float32),
                 "confidence": allowed.sum(dtype=jnp.float32),
                 "elbo": diffusion.weight_of(self.normalizer, allowed, allowed)}
    if self.edit_rate:
      batch |= {name: self._edited(rng.stream(key, name), batch, name, shown) for name, shown in (
          ("noisy_tokens", allowed & ~is_masked), ("other_tokens", is_masked)) if name in batch}
    return batch, {name: weights[name] for name in self.scales}

  def _edited(self, key, batch, name, shown):
    """Tokens of a noisy text with some of those shown replaced by uniform ones, [B, L]."""
    index = batch["example_index"]
    chosen = mask_lib.bernoulli(rng.per_example(rng.stream(key, "edit"), index), self.edit_rate,
                                shown)
    other = replace_lib.random_tokens(
        rng.per_example(rng.stream(key, "token"), index), shown.shape[1],
        vocab_size=self.network.vocab_size, mask_id=self.mask_id)
    return jnp.where(chosen, other, batch[name])

  def __call__(self, params, batch, context):
    """Sum of the bound over the rows, and of the terms that are set."""
    totals, aux = self._scored(params, batch, context)
    if "is_other" not in batch:
      return totals, aux
    other = batch | {"noisy_tokens": batch["other_tokens"], "is_masked": batch["is_other"],
                     "token_weight": batch["other_weight"]}
    more, also = self._scored(
        params, other, context._replace(noise=reading.noise_for(context.noise, "other")))
    # The clean text is the same, and its tokens are counted once.
    totals |= {name: totals[name] + more[name] for name in totals if name != "ar"}
    metrics = {name: tuple(map(jnp.add, aux.metrics[name], also.metrics[name]))
               for name in aux.metrics if name != "ar_nats_per_token"}
    metrics["nats_per_token"] = metrics["nats_per_token"][0], aux.metrics["nats_per_token"][1]
    return totals, types.Aux(aux.metrics | metrics,
                             aux.rows | {"nll": aux.rows["nll"] + also.rows["nll"]}, {})

  def _scored(self, params, batch, context):
    """Totals and figures of one noisy text of each row."""
    noisy, clean = self._both(params, batch, context.noise)
    hidden = self._predicting(batch, noisy, clean)
    if not self.confidence_weight:
      nats, entropy = self._scores_of(params, batch, hidden), None
    else:
      nats, entropy = self._scores_of(params, batch, hidden, score=_nats_and_sure_entropy)
    totals, aux = self._totals(params, batch, context, nats)
    scales, metrics, allowed = self.scales, {}, mask_lib.allowed_positions(batch)
    score = lambda hidden, where: targets_lib.target_losses(
        self.network, params["model"], hidden, batch["tokens"], where, blocked=self._blocked).sum()
    if "confidence" in scales:
      totals["confidence"] = entropy.sum()
      metrics["sure_entropy"] = totals["confidence"], aux.metrics["masked_nats"][1]
    if "ar" in scales:
      following = allowed & ~_starts(batch)
      totals["ar"] = score(reading.previous_hidden(clean, batch.get("segment_ids")), following)
      metrics["ar_nats_per_token"] = totals["ar"], following.sum(dtype=jnp.float32)
    if "edit" in scales:
      shown = allowed & ~batch["is_masked"]
      totals["edit"] = score(hidden, shown)
      metrics["shown_nats"] = totals["edit"], shown.sum(dtype=jnp.float32)
    return totals, aux._replace(metrics=aux.metrics | metrics)

  def bound(self, estimator):
    """The bound of masked diffusion in blocks, without the terms that only training has."""
    found = super().bound(estimator)
    if found is None or found._is_plain:
      return found
    return dataclasses.replace(found, ar_weight=0.0, complementary=False, block_phases=(),
                               confidence_weight=0.0, edit_rate=0.0)

  def _corrupt(self, key, batch, time, is_drawn):
    """Masks, weights and noise levels of the positions, [B, L]; a time for every block."""
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    shape = allowed.shape
    blocks = block_lib.block_index(_positions(batch), batch.get("segment_ids"),
                                   self._length_of(batch))
    lengths = [length for _, length in self.block_phases] if "block_length" in batch else []
    num_blocks = -(-shape[1] // min(lengths, default=self.visibility.block_length))
    times = time_lib.of_blocks(rng.per_example(rng.stream(key, "blocks"), index), time, num_blocks)
    is_exact = self.mask_draw == "exact_count"
    if is_drawn:
      # A time of exact counts runs from all masked to clean.
      low = 1 - self.clip[1] if is_exact else self.clip[0]
      times = low + (self.clip[1] - self.clip[0]) * times
    # Rows of many short documents have more blocks: these take the times of the first again.
    time = jnp.take_along_axis(times, blocks % num_blocks, axis=1)
    keys = rng.per_example(rng.stream(key, "mask"), index)
    if is_exact:
      length = block_lib.count_in_block(blocks, allowed)
      above = 1.0  # every count alike: floor + 1
      if is_drawn and self.clip != (0.0, 1.0):
        draws = jax.vmap(lambda key: jax.random.uniform(key, (num_blocks,)))(
            rng.per_example(rng.stream(key, "rounding"), index))
        above = jnp.take_along_axis(draws, blocks % num_blocks, axis=1)
      count = jnp.floor(length * (1 - time) + above).astype(jnp.int32)
      count = jnp.clip(count, jnp.minimum(1, length), length)
      is_masked = block_lib.exact_count(keys, count, blocks, allowed)
      return is_masked, length / jnp.maximum(count, 1), count / jnp.maximum(length, 1)
    time, weight = self._weight(time)
    return mask_lib.bernoulli(keys, self.alpha.mask_prob(time), allowed), weight, time

  def _hidden(self, params, batch, noise=None):
    """Hidden states that the noisy positions are predicted from, [B, L, D]."""
    return self._predicting(batch, *self._both(params, batch, noise))

  def _both(self, params, batch, noise=None):
    """Hidden states of the noisy and of the clean text, [B, L, D] each."""
    length = batch["tokens"].shape[1]
    twice = lambda x: jnp.concatenate([x, x], axis=1)
    tokens = jnp.concatenate([batch["noisy_tokens"], batch["tokens"]], axis=1)
    names = ("segment_ids", "token_types", "example_index")
    rows = {k: batch[k] for k in names if k in batch} | {"positions": _positions(batch)}
    rows = {k: twice(x) if x.ndim == 2 else x for k, x in rows.items()}
    both = reading.encode(self.network, params["model"], rows, tokens=tokens,
                          attention=self._streams_of(batch), noise=noise)
    return both[:, :length], both[:, length:]

  def _predicting(self, batch, noisy, clean):
    """States of both texts that the noisy positions are predicted from, [B, L, D]."""
    if not self.shift:
      return noisy
    # The position before a block is clean by the time the block is decoded.
    segments, begins = batch.get("segment_ids"), _positions(batch) % self._length_of(batch) == 0
    before = [reading.previous_hidden(text, segments) for text in (clean, noisy)]
    return jnp.where((begins & ~_starts(batch))[..., None], *before)

  def reader(self):
    """Reader that also answers all blocks of a text at once, and reads from left to right."""
    causal = dataclasses.replace(self, attention={"name": "block_causal", "block_length": 1},
                                 block_phases=())
    reader = super().reader()._replace(by_blocks=self.answer_by_blocks,
                                       by_tokens=causal.answer_by_blocks)
    if self.clean_stream == "block":
      return reader
    return reader._replace(attention=self._streams_of({}), caches=())

  def answer_by_blocks(self, params, request, clean):
    """Logits of the tokens of every block, behind the clean blocks before it.

    Args:
      params: of the model.
      request: its `tokens` are the noisy ones; it has no cache.
      clean: int32 [B, S], the text that is read before each block.
    """
    rows = {"tokens": clean, "noisy_tokens": request.tokens, "positions": request.positions,
            "segment_ids": request.segment_ids}
    hidden = self._hidden(params, {k: v for k, v in rows.items() if v is not None})
    if request.targets is not None:
      hidden = jnp.take_along_axis(hidden, request.targets[..., None], axis=1)
    logits = self.network.head(params["model"], hidden, "lm")
    return types.Answer(heads.block_columns(logits, self._never), hidden)

  def embedder(self):
    """Embedder that reads a text as the clean one is read in training."""
    return types.Embedder(attention_lib.Causal() if self.clean_stream == "token"
                          else self.visibility)

  @property
  def reads_time(self):
    """A model of blocks is not told the time."""
    return False

  def blocks_of(self, positions):
    """Numbers the blocks of a document that begins at 0."""
    return positions // self.visibility.block_length

  def answer(self, params, request):
    """Logits of the clean tokens; a model of blocks is not told the time.

    A causal clean text is read beside the canvas, of which each block sees the blocks before.
    """
    if self.clean_stream == "token":
      return self.answer_by_blocks(params, request, request.tokens)
    return super().answer(params, request._replace(noise_level=None))

  @property
  def _rate(self):
    return super()._rate if self.clip == (0.0, 1.0) else 1.0


def _starts(batch):
  """Whether a position is the first of its document, bool [B, L]."""
  return reading.segment_starts(batch.get("segment_ids"), batch["tokens"].shape)


def _nats_and_sure_entropy(logits, targets):
  """-log p(target), and the entropy where the target is the most likely token, else 0."""
  is_right = logits.argmax(axis=-1) == targets
  return heads.cross_entropy(logits, targets), jnp.where(is_right, heads.entropy(logits), 0.0)


def _positions(batch):
  """int32 [B, L]."""
  tokens = batch["tokens"]
  default = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  return batch.get("positions", default)
