"""GRPO along the trajectory that was sampled.

Contents: CJGRPO.

Reference: Yang et al. 2025, arXiv:2509.23924.
"""

from __future__ import annotations

import dataclasses

from mdx.objectives.policies import replay


@dataclasses.dataclass(frozen=True, kw_only=True)
class CJGRPO(replay.Replay):
  """GRPO along the trajectory that was sampled, every step at its canvas.

  The loss is the mean over the tokens of a rollout, averaged over rollouts. With the sampler's
  schedule "doubling" a trajectory of L tokens has log2 L steps.
  """
  packs = True
  of_models = ("diffusion", "causal")
