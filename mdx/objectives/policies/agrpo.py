"""AGRPO: the policy gradient over denoising steps, by Monte Carlo.

Contents: AGRPO, STEP_DRAWS.

Reference: Zhan 2025, arXiv:2510.04019.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import policy
from mdx.objectives.policies import replay
from mdx.utils import rng

STEP_DRAWS = ("uniform", "entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AGRPO(replay.Replay):
  """AGRPO: the policy gradient over denoising steps, estimated from some steps of each rollout.

  Of the n steps up to the last that commits more than ends of text, `num_steps` are drawn, one in
  each of as many equal strata of the cumulative probability, with replacement: step s with
  probability q_s and weight 1 / (n q_s). The loss is the sum over the tokens that the step
  committed, averaged over draws and rollouts, which estimates the mean over steps without bias.
  The gradient is exact where positions are chosen at random (`sampler.confidence=random`).

  Attributes:
    num_steps: steps drawn of each rollout; 0 = every step once, the sum that draws estimate.
    step_draw: "uniform", or by the "entropy" of the distributions that a step drew from.
    step_mean: whether the steps of a rollout are averaged, as published; else summed, which is the
      gradient of the expected reward.
  """
  record = "entropy"

  advantage: str = "mean"
  num_steps: int = 24
  step_draw: str = "entropy"
  step_mean: bool = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_steps": 0},
                     choices={"step_draw": STEP_DRAWS})

  def _counts(self, batch):
    """All tokens of the groups that are kept; `until_eos` ends the steps, not the tokens."""
    return jnp.broadcast_to(policy.kept(batch)[:, None], batch["is_free"].shape)

  def _choose(self, batch, number, is_target, num_steps, key):
    ends = self._ends(batch) if self.until_eos else jnp.zeros_like(is_target)
    last = jnp.max(jnp.where(is_target & ~ends, number, 0), axis=1, keepdims=True)
    count = last + 1
    mean = jnp.where(self.step_mean, count, 1).astype(jnp.float32)
    steps = jnp.broadcast_to(jnp.arange(num_steps)[None], (len(number), num_steps))
    is_active = steps < count
    if not self.num_steps:
      return steps, is_active / mean, replay.live(is_target)
    share = is_active.astype(jnp.float32)
    if self.step_draw == "entropy":
      share *= replay.targets_of_steps(number, is_target, num_steps, batch["entropy"]) + 1e-8
    share /= share.sum(axis=1, keepdims=True)
    keys = rng.per_example(rng.stream(key, "steps"), batch["example_index"])
    draw = jax.vmap(lambda key: jax.random.uniform(key, (self.num_steps,)))(keys)
    strata = (jnp.arange(self.num_steps)[None] + draw) / self.num_steps
    chosen = (jnp.cumsum(share, axis=1)[:, None] <= strata[..., None]).sum(axis=-1)
    chosen = jnp.minimum(chosen, last)
    weight = 1 / (jnp.take_along_axis(share, chosen, axis=1) * self.num_steps * mean)
    return chosen, weight, replay.live(is_target)
