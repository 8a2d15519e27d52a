"""JustGRPO: a diffusion model trained from left to right.

Contents: JustGRPO.

Reference: Ni et al. 2026, arXiv:2601.15165.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import replay
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class JustGRPO(replay.Replay):
  """JustGRPO: the model as an autoregressive one, a token at a time from left to right.

  Log-probabilities are exact: that of a token has the tokens before it shown and all later ones
  masked. The loss is the mean over the tokens of a rollout, averaged over rollouts. Rollouts are
  decoded from left to right; free positions are taken in order where a text is filled in.

  Attributes:
    num_positions: positions of a rollout that are scored, drawn at random without replacement,
      which changes the mean of the gradient by nothing; 0 = all.
  """
  num_positions: int = 0

  left_to_right: ClassVar[bool] = True
  of_models: ClassVar[tuple[str, ...]] = ("diffusion", "causal")

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_positions": 0})

  def _choose(self, batch, number, is_target, num_steps, key):
    if not self.num_positions or self.num_positions >= num_steps:
      return super()._choose(batch, number, is_target, num_steps, key)
    keys = rng.per_example(rng.stream(key, "positions"), batch["example_index"])
    score = jax.vmap(lambda key: jax.random.uniform(key, (num_steps,)))(keys)
    count = replay.targets_of_steps(number, is_target, num_steps)
    _, chosen = jax.lax.top_k(jnp.where(count > 0, score, -1.0), self.num_positions)
    taken = jnp.clip(is_target.sum(axis=1, keepdims=True), 1, self.num_positions)
    return chosen, jnp.broadcast_to(1 / taken, chosen.shape), replay.live(is_target)
