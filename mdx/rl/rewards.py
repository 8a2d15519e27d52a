"""Transforms of rewards, between the verifier and the advantages.

Contents: REWARDS, Facts, transform.

Convention: a reward is [P, G]: P prompts, G rollouts of each, of the final answers. Transforms run
on the host, one after another, and are functions of the reward and of `Facts` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mdx.rl import inference as inference_lib


class Facts(NamedTuple):
  """Facts of the rollouts that a transform may read.

  Attributes:
    length: int32 [P, G], tokens that the model wrote, up to its ends of text.
    max_length: most tokens that a rollout can have.
    baseline: float32 [P, K], rewards of answers of a reference policy to each prompt, or None.
    phi: transform of calibrated rewards for a procedure at inference, or None.
  """
  length: np.ndarray
  max_length: int
  baseline: np.ndarray | None = None
  phi: inference_lib.Inference | None = None


def _identity(reward: np.ndarray, facts: Facts) -> np.ndarray:
  """The verifier's reward."""
  del facts
  return reward


def _calibrated(reward: np.ndarray, facts: Facts) -> np.ndarray:
  """Share of the reference's rewards below this one, ties half; without them, of the group's.

  Reference: Balashankar et al. 2024, arXiv:2412.19792 (InfAlign).
  """
  others = reward if facts.baseline is None else facts.baseline
  below = reward[:, :, None] > others[:, None, :]
  equal = reward[:, :, None] == others[:, None, :]
  return (below + 0.5 * equal).mean(axis=2).astype(np.float32)


def _inference(reward: np.ndarray, facts: Facts) -> np.ndarray:
  """Phi of a calibrated reward.

  Reference: Balashankar et al. 2024, arXiv:2412.19792 (InfAlign).
  """
  assert facts.phi is not None  # a config has one
  return facts.phi(reward)


def _length_penalty(reward: np.ndarray, facts: Facts) -> np.ndarray:
  """Reward minus DAPO's soft overlong punishment: 0 to 1 over the last fifth of the length.

  Reference: Yu et al. 2025, arXiv:2503.14476, eq. 13.
  """
  cache = facts.max_length / 5
  over = (facts.length - (facts.max_length - cache)) / cache
  return (reward - np.clip(over, 0, 1)).astype(np.float32)


REWARDS: Mapping[str, Callable[[np.ndarray, Facts], np.ndarray]] = {
    "identity": _identity, "calibrated": _calibrated, "inference": _inference,
    "length_penalty": _length_penalty}


def transform(names: Sequence[str], reward: np.ndarray, facts: Facts) -> np.ndarray:
  """Passes rewards float32 [P, G] through the transforms of these names, in their order."""
  for name in names:
    reward = REWARDS[name](reward, facts)
  return reward
