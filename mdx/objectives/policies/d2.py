"""d2's StepMerge: trajectories scored in segments.

Contents: D2.

Reference: Wang et al. 2025, arXiv:2509.21474.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import replay


@dataclasses.dataclass(frozen=True, kw_only=True)
class D2(replay.Replay):
  """d2's StepMerge: the trajectory cut into segments, each scored at the canvas it begins with.

  The loss is the mean over the tokens of a rollout, averaged over rollouts.

  Attributes:
    num_segments: segments of a rollout, of equal numbers of steps up to one; one segment is the
      score of diffu_grpo without its masks of the prompt, and as many as steps that of cj_grpo.
  """
  num_segments: int = 16

  needs_scores = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_segments": 1})

  def _numbers(self, batch, is_drawn):
    """Segments by the order of steps over all blocks."""
    number, num_steps = super()._numbers(batch, is_drawn)
    count = number.max(axis=1, keepdims=True) + 1
    segments = min(self.num_segments, num_steps)
    return jnp.where(number < 0, -1, number * segments // jnp.maximum(count, segments)), segments
