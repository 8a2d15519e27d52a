"""Block diffusion: autoregressive over blocks, masked diffusion within them.

Contents: BlockDiffusion.

Reference: Arriola et al. 2025, arXiv:2503.09573 (BD3-LM).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mdx import types
from mdx.corruption import block as block_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import time as time_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives import reading
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

  Raises:
    ValueError: another attention, bounds that are none, or as `MaskedDiffusion`.
  """
  attention: Any = dataclasses.field(
      default_factory=lambda: {"name": "block_causal", "block_length": 16})
  clip: tuple[float, float] = (0.0, 1.0)

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.visibility, attention_lib.BlockCausal):
      raise ValueError("objective block_diffusion needs attention block_causal with a "
                       f"block_length, got {dict(self.attention)}.")
    object.__setattr__(self, "clip", tuple(self.clip))
    if len(self.clip) != 2 or not 0 <= self.clip[0] < self.clip[1] <= 1:
      raise ValueError("objective.clip needs 0 <= low < high <= 1, got "
                       f"{', '.join(map(str, self.clip))}.")
    if self.weighting == "cart":
      raise ValueError("objective.weighting cart weighs context on both sides, which blocks do not "
                       "have; use elbo or uniform.")

  _masks_together = False

  @property
  def _two_streams(self):
    return attention_lib.TwoStream(self.visibility.block_length)

  def _corrupt(self, key, batch, time, is_drawn):
    """Masks, weights and noise levels of the positions, [B, L]; a time for every block."""
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    shape = allowed.shape
    blocks = block_lib.block_index(_positions(batch), batch.get("segment_ids"),
                                   self.visibility.block_length)
    num_blocks = -(-shape[1] // self.visibility.block_length)
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
    segments, length = batch.get("segment_ids"), batch["tokens"].shape[1]
    twice = lambda x: jnp.concatenate([x, x], axis=1)
    tokens = jnp.concatenate([batch["noisy_tokens"], batch["tokens"]], axis=1)
    names = ("segment_ids", "token_types", "example_index")
    rows = {k: batch[k] for k in names if k in batch} | {"positions": _positions(batch)}
    rows = {k: twice(x) if x.ndim == 2 else x for k, x in rows.items()}
    both = reading.encode(self.network, params["model"], rows, tokens=tokens,
                          attention=self._two_streams, noise=noise)
    noisy, clean = both[:, :length], both[:, length:]
    if not self.shift:
      return noisy
    # The position before a block is clean by the time the block is decoded.
    begins = _positions(batch) % self.visibility.block_length == 0
    starts = reading.segment_starts(segments, begins.shape)
    return jnp.where((begins & ~starts)[..., None], reading.previous_hidden(clean, segments),
                     reading.previous_hidden(noisy, segments))

  def reader(self):
    """Reader that also answers all blocks of a text at once, and reads from left to right."""
    causal = dataclasses.replace(self, attention={"name": "block_causal", "block_length": 1})
    return super().reader()._replace(by_blocks=self.answer_by_blocks,
                                     by_tokens=causal.answer_by_blocks)

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

  @property
  def reads_time(self):
    """A model of blocks is not told the time."""
    return False

  def blocks_of(self, positions):
    """Numbers the blocks of a document that begins at 0."""
    return positions // self.visibility.block_length

  def answer(self, params, request):
    """Logits of the clean tokens; a model of blocks is not told the time."""
    return super().answer(params, request._replace(noise_level=None))

  @property
  def _rate(self):
    return super()._rate if self.clip == (0.0, 1.0) else 1.0


def _positions(batch):
  """int32 [B, L]."""
  tokens = batch["tokens"]
  default = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  return batch.get("positions", default)
