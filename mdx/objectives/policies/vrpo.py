"""Preference learning on rollouts: the best against the worst of a group.

Contents: VRPO.

Reference: Zhu et al. 2025, arXiv:2505.19223 (LLaDA 1.5).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.objectives import preference
from mdx.objectives.policies import policy
from mdx.objectives.policies import sequence
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class VRPO(sequence.SequencePolicy):
  """The loss of `preference.pair_losses` on pairs that the verifier makes of rollouts.

  A pair is the answer with the highest and the one with the lowest reward of a group; groups of
  equal rewards are left out. The bound of an answer is the mean over `num_draws` canvases, which
  policy and reference share; each masks k of the L tokens, k uniform on 1 .. L and spread evenly
  over the draws, and weighs L / k.

  Attributes:
    beta: of the loss.
    num_draws: canvases of an answer, at least 1.
  """
  # Of ratios, advantages and the divergence; there are none here, so no config has them.
  clip: float = dataclasses.field(init=False, repr=False, default=0.2)
  clip_high: float = dataclasses.field(init=False, repr=False, default=0.0)
  kl: float = dataclasses.field(init=False, repr=False, default=0.0)
  advantage: str = dataclasses.field(init=False, repr=False, default="mean")
  beta: float = 0.2
  num_draws: int = 8

  needs_scores: ClassVar[bool] = False
  uses_ratio: ClassVar[bool] = False
  rows_per_unit: ClassVar[int] = 2  # the best of a group, and the worst

  def __post_init__(self):
    super().__post_init__()
    preference.check(self)
    config_lib.check(self, "objective", at_least={"num_draws": 1})

  @property
  def reads_reference(self) -> bool:
    """Always."""
    return True

  def canvases(self, key, index, is_answer):
    """Exact counts on a lattice of the draws."""
    length = is_answer.sum(axis=1)
    offset = 1 - jax.vmap(jax.random.uniform)(rng.per_example(rng.stream(key, "count"), index))
    hidden = []
    for draw in range(self.num_draws):
      share = (draw + offset) / self.num_draws  # in (0, 1]
      keys = rng.per_example(rng.stream(key, "answer", draw), index)
      count = jnp.clip(jnp.ceil(share * length).astype(jnp.int32), 1, length)
      hidden.append(mask_lib.exact_count(keys, count, is_answer))
    hidden = jnp.stack(hidden, axis=1)
    count = jnp.maximum(hidden.sum(axis=2, keepdims=True), 1)
    return hidden, hidden * length[:, None, None] / count / self.num_draws

  def prepare(self, params, batch, key, context):
    """Pairs, and their canvases."""
    del params, context
    reward = policy.by_group(batch["reward"], self.group_size)
    pair = jnp.stack([reward.argmax(axis=1), reward.argmin(axis=1)], axis=1)
    rows = (pair + self.group_size * jnp.arange(len(pair))[:, None]).reshape(-1)
    fields = ("tokens", "is_free", "is_action", "positions", "segment_ids", "example_index")
    prepared, is_long = self.rows({k: batch[k][rows] for k in fields if k in batch}, key)
    is_live = (reward.max(axis=1) > reward.min(axis=1)) & (is_long.reshape(-1, 2).min(axis=1) > 0)
    is_live &= policy.by_group(policy.kept(batch), self.group_size).any(axis=1)
    prepared["is_live"] = jnp.repeat(is_live, 2)
    return prepared, {"policy": is_live.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of the loss over the pairs."""
    score = self.log_prob(params, batch) - self.reference_log_prob(params, batch, context)
    losses, metrics = preference.pair_losses(score.reshape(-1, 2), batch["is_live"][::2], self.beta)
    return {"policy": losses.sum()}, types.Aux(metrics, {}, {})
