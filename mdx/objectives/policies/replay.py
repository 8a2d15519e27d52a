"""Policies that replay the trajectory of a rollout: its canvases, step by step.

Contents: Replay, step_numbers, live, targets_of_steps.

Convention: a record of level "commits" says after which step each token has stood, so the canvas
before a step shows the tokens of earlier steps and masks the others. Steps may be merged; a merged
step is scored at the canvas before the first of its steps. A row of an update is one merged step
of one rollout, and its targets are the tokens that were drawn in it. Where the rollouts' blocks are
those of a model of blocks, one row is the same merged step of every block, each behind the clean
blocks before it.

Where the rollouts of a prompt are a tree (`shared_steps` int32 [N], the steps that they took
together), the canvas at which they branch is their baseline: targets are the tokens after it, each
weighted by the inverse of the probability that a tree branches before its step, so that the mean
over trees is the gradient of whole trajectories.

The choice of positions is left out: the product of the tokens' probabilities is the probability of
the trajectory where positions are chosen without the model (at random, from left to right), and a
surrogate where they are chosen by its confidence.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy



def step_numbers(batch: types.Batch, is_drawn: jax.Array, decoding: policy.Decoding, *,
                 shrink: int = 1, in_blocks: bool = False) -> jax.Array:
  """Numbers the merged step of every token, int32 [N, G], -1 where given.

  Args:
    batch: of rollouts.
    is_drawn: bool [N, G], tokens that were drawn.
    decoding: bounds of the rollouts' decoding.
    shrink: consecutive steps of a block that are merged.
    in_blocks: numbers begin anew in every block.
  """
  step = batch["step"]
  rows = jnp.arange(len(step))[:, None]
  block = jnp.where(is_drawn, batch["block"], -1)
  column = jnp.where(step >= 0, step, decoding.max_steps)
  blocks = jnp.full((len(step), decoding.max_steps), -1).at[rows, column].max(block, mode="drop")
  is_step = blocks >= 0
  order = jnp.cumsum(is_step, axis=1) - 1
  before = jnp.pad(jax.lax.cummax(blocks, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  within = order - jax.lax.cummax(jnp.where(is_step & (blocks > before), order, 0), axis=1)
  number = within // shrink if in_blocks else (
      jnp.cumsum(is_step & (within % shrink == 0), axis=1) - 1)
  return jnp.where(step >= 0, jnp.take_along_axis(number, jnp.maximum(step, 0), axis=1), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(policy.Policy):
  """Base of the policies that replay trajectories.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
    until_eos: whether tokens after the first end of text are left out.
  """
  advantage: str = "z_score"
  until_eos: bool = True

  replays: ClassVar[bool] = True
  packs: ClassVar[bool] = False  # a step of every block into one row, where the model allows it

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES})

  @property
  def is_packed(self) -> bool:
    """Whether a row replays a step of every block."""
    return self.packs and self.decoding.has_model_blocks

  def prepare(self, params, batch, key, context):
    """Chooses merged steps, one row each."""
    del params, context
    is_drawn = batch["is_free"] & ((batch["log_prob"] != 0) | (batch["confidence"] != 0))
    is_target = is_drawn & self._counts(batch)
    number, num_steps = self._numbers(batch, is_drawn)
    chosen, weight, total = self._choose(batch, number, is_target, num_steps, key)
    times = chosen.shape[1]
    flat = lambda x: x.reshape((-1,) + x.shape[2:])
    repeat = lambda x: jnp.repeat(x, times, axis=0)
    final = batch["tokens"][:, -number.shape[1]:]
    is_hidden = batch["is_free"][:, None] & (number[:, None] >= chosen[..., None])
    canvas = flat(jnp.where(is_hidden, self.mask_id, final[:, None]))
    is_target = flat(is_target[:, None] & (number[:, None] == chosen[..., None]))
    weight = flat(weight)[:, None]
    if "shared_steps" in batch:
      # Tokens before the branching have the same advantage in expectation, 0; the later a step,
      # the more of the trees branch before it.
      is_target &= repeat(batch["step"] >= batch["shared_steps"][:, None])
      weight = weight * repeat(self.decoding.max_steps / (batch["step"] + 1))
    advantage = policy.group_advantages(batch, self.group_size, self.advantage)
    prepared = policy.optional_fields(batch, times) | {
        "noisy_tokens": policy.joined(batch, canvas)[:, None], "targets": repeat(final),
        "mix": is_target[:, None].astype(jnp.float32),
        "token_weight": jnp.where(is_target, weight, 0.0),
        "advantage": repeat(advantage), "policy_scale": jnp.ones(len(canvas))}
    if self.is_packed:
      prepared["clean_tokens"] = repeat(batch["tokens"])
    if "old_log_prob" in batch:
      prepared["old_log_prob"] = batch["old_log_prob"]
    elif not self.needs_scores:
      prepared["old_log_prob"] = repeat(batch["log_prob"])
    return prepared, dict.fromkeys(self.scales, total)

  def _counts(self, batch):
    """Tokens that may be targets, bool [N, G]: of kept groups, up to an end of text."""
    counts = jnp.broadcast_to(policy.kept(batch)[:, None], batch["is_free"].shape)
    return counts & policy.until_end(self._ends(batch)) if self.until_eos else counts

  def _ends(self, batch):
    return batch["is_free"] & self.ends(batch["tokens"][:, -batch["is_free"].shape[1]:])

  def _numbers(self, batch, is_drawn):
    """Number of the merged step of every token, int32 [N, G], and how many there are at most."""
    return (step_numbers(batch, is_drawn, self.decoding, in_blocks=self.is_packed),
            self.decoding.block_steps if self.is_packed else self.decoding.max_steps)

  def _choose(self, batch, number, is_target, num_steps, key):
    """Merged steps to train, here all, each token as much as its rollout has targets.

    Args:
      batch: of rollouts.
      number: int32 [N, G], of the merged step of each token.
      is_target: bool [N, G].
      num_steps: bound of the merged steps of a rollout.
      key: typed key [].

    Returns:
      int32 [N, K] chosen steps; float32 [N, K], weight of each of their targets; float32 [], the
      divisor of the loss.
    """
    del batch, key
    length = is_target.sum(axis=1, keepdims=True)
    shape = (len(number), num_steps)
    return (jnp.broadcast_to(jnp.arange(num_steps)[None], shape),
            jnp.broadcast_to(1 / jnp.maximum(length, 1), shape), live(is_target))


def live(is_target):
  """Number of the rollouts that have a target, float32 []."""
  return is_target.any(axis=1).sum(dtype=jnp.float32)


def targets_of_steps(number, is_target, num_steps, values=None):
  """Sum of `values` (1 each) over the targets of every merged step, float32 [N, num_steps]."""
  values = jnp.ones(number.shape) if values is None else values
  rows = jnp.arange(len(number))[:, None]
  column = jnp.where(is_target, number, num_steps)
  return jnp.zeros((len(number), num_steps)).at[rows, column].add(values, mode="drop")
