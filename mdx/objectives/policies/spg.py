"""Sandwiched policy gradient: a lower bound for good answers, an upper one for bad ones.

Contents: SPG, elbo, eubo.

Reference: Wang et al. 2025, arXiv:2510.09541.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import mask as mask_lib
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPG(policy.Policy):
  """-A S over the answers, with S a bound per token that is safe for the sign of A.

  S is `elbo` where A >= 0, and `eubo_share` of `eubo` with the rest of `elbo` where A < 0; answers
  weigh their lengths. There are no ratio, clipping or divergence.

  A canvas masks a uniform number of the tokens of one block of the answer, all tokens of the later
  blocks, everything after the first end of text, and prompt and earlier blocks at random. Blocks
  are consecutive tokens that the model wrote; the canvases of an answer take different ones while
  there are any. All masked tokens up to the end of text are scored.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
    num_canvases: of an answer, at least 1.
    block_length: tokens of a block.
    given_mask_rate: probability that a token of the prompt or of an earlier block is masked.
    exponent: b of the upper bound, at least 1.
    eubo_share: omega, share of the upper bound where A < 0.
  """
  # Of ratios and of the divergence; there are none here, so no config has them.
  clip: float = dataclasses.field(init=False, repr=False, default=0.2)
  clip_high: float = dataclasses.field(init=False, repr=False, default=0.0)
  kl: float = dataclasses.field(init=False, repr=False, default=0.0)
  kl_form: str = dataclasses.field(init=False, repr=False, default="k2")
  advantage: str = "mean"
  num_canvases: int = 2
  block_length: int = 32
  given_mask_rate: float = 0.15
  exponent: float = 1.5
  eubo_share: float = 0.5

  uses_ratio: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES},
                     at_least={"num_canvases": 1, "block_length": 1, "exponent": 1},
                     between={"given_mask_rate": "[0, 1)", "eubo_share": "[0, 1]"})

  def prepare(self, params, batch, key, context):
    """Draws the canvases."""
    del params, context
    free = batch["is_free"]
    final, counts = policy.final_answer(batch)
    if "is_action" not in batch:
      counts &= policy.until_end(self.ends(final))
    hidden, is_given = self._canvases(batch["example_index"], counts, free, key)
    noisy = policy.joined(batch, jnp.where(hidden, self.mask_id, final[:, None]))
    before = ((0, 0), (0, 0), (noisy.shape[-1] - free.shape[1], 0))
    noisy = policy.mask_given(rng.stream(key, "given"), batch, noisy,
                              jnp.pad(is_given, before, constant_values=True),
                              self.given_mask_rate, self.mask_id)
    counts &= policy.kept(batch)[:, None]
    is_target = (noisy[..., -free.shape[1]:] == self.mask_id) & counts[:, None]
    length = counts.sum(axis=1, dtype=jnp.float32)
    prepared = policy.optional_fields(batch) | self.own_text(batch) | {
        "noisy_tokens": noisy, "targets": final, "mix": is_target.astype(jnp.float32),
        "rate": is_target.sum(axis=2) / jnp.maximum(length, 1)[:, None],
        "token_weight": length[:, None],
        "advantage": policy.group_advantages(batch, self.group_size, self.advantage),
        "policy_scale": jnp.ones(len(final))}
    return prepared, dict.fromkeys(self.scales, length.sum())

  def _canvases(self, index, counts, free, key):
    """Masks, and the tokens before each block: bool [N, C, G]."""
    most = -(-counts.shape[1] // self.block_length)  # blocks
    keys = rng.per_example(rng.stream(key, "blocks"), index)
    length = counts.sum(axis=1)
    num_blocks = jnp.maximum(-(-length // self.block_length), 1)
    score = jax.vmap(lambda k: jax.random.uniform(k, (most,)))(keys)
    order = jnp.argsort(jnp.where(jnp.arange(most)[None] < num_blocks[:, None], score, 2.0), axis=1)
    block_of = jnp.maximum(jnp.cumsum(counts, axis=1) - 1, 0) // self.block_length
    hidden, earlier = [], []
    for number in range(self.num_canvases):
      block = jnp.take_along_axis(order, (number % num_blocks)[:, None], axis=1)
      inside = counts & (block_of == block)
      size = inside.sum(axis=1)
      share = jax.vmap(jax.random.uniform)(
          rng.per_example(rng.stream(key, "count", number), index))
      count = jnp.minimum(jnp.floor(share * size).astype(jnp.int32) + 1, size)
      masked = mask_lib.exact_count(
          rng.per_example(rng.stream(key, "answer", number), index), count, inside)
      hidden.append(masked | (counts & (block_of > block)) | (free & ~counts))
      earlier.append(~free | (counts & (block_of < block)))
    return jnp.stack(hidden, axis=1), jnp.stack(earlier, axis=1)

  def log_prob(self, params, batch):
    """S of every answer, nats per token, float32 [R, 1]."""
    log_prob, is_target = self.canvas_log_prob(params, batch), batch["mix"] > 0
    lower = elbo(log_prob, is_target)
    upper = eubo(log_prob, is_target, batch["rate"], self.exponent)
    mixture = self.eubo_share * upper + (1 - self.eubo_share) * lower
    return jnp.where(batch["advantage"] >= 0, lower, mixture)[:, None]


def elbo(log_prob: jax.Array, is_target: jax.Array) -> jax.Array:
  """Lower bound per token, float32 [R]: mean over canvases of the mean over their targets.

  Args:
    log_prob: float32 [R, C, G], of the tokens under each canvas.
    is_target: bool [R, C, G], masked tokens of the answer.
  """
  count = jnp.maximum(is_target.sum(axis=2), 1)
  return (jnp.where(is_target, log_prob, 0.0).sum(axis=2) / count).mean(axis=1)


def eubo(log_prob: jax.Array, is_target: jax.Array, rate: jax.Array, exponent: float) -> jax.Array:
  """Upper bound per token, float32 [R], in log space.

  1/b times the mean, over the tokens that some canvas masks, of
  log mean over canvases of [1{masked} p^b / rate].

  Over all canvases the weights 1{masked} / rate of a token have mean 1, so by Jensen's inequality
  this is at least the mean of log p under them, `elbo`, with equality where p is the same in every
  canvas; it grows with b. Where the model's conditionals are those of one joint distribution,
  `elbo` is its log-likelihood, and this bounds the log-likelihood from above. Of a few canvases
  the weights need not have mean 1, and neither inequality need hold.

  Args:
    log_prob: float32 [R, C, G].
    is_target: bool [R, C, G].
    rate: float32 [R, C], share of the answer's tokens that are targets of a canvas.
    exponent: b.
  """
  rate = jnp.maximum(rate, 1e-6)[..., None]
  scaled = jnp.where(is_target, exponent * log_prob - jnp.log(rate), -1e30)
  is_covered = jnp.any(is_target, axis=1)
  mean = jax.nn.logsumexp(scaled, axis=1) - jnp.log(is_target.shape[1])
  total = jnp.where(is_covered, mean, 0.0).sum(axis=1) / exponent
  return total / jnp.maximum(is_covered.sum(axis=1), 1)
