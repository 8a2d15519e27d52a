"""Advantages of policy-gradient updates, from the rewards of groups of rollouts.

Contents: STEP_ADVANTAGES, step_advantage, GROUP_ADVANTAGES, group_advantage, contrast_weights.

Convention: rewards are [P, G] or [P, G, T]: P prompts, G rollouts of each, T denoising
steps; the reward of step s is what the verifier gives to the full prediction of step s.
Steps that a rollout did not take are invalid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

STEP_ADVANTAGES = ("improvement_and_tail", "tail", "improvement", "reward", "final")
GROUP_ADVANTAGES = ("mean", "z_score", "population_z_score", "leave_one_out")
_EPS = 1e-4


def _shaped(reward, valid, kind):
  """Credit of each step, before the group is compared; [P, G, T]."""
  reward = jnp.where(valid, reward, 0.0)
  steps = valid.sum(axis=-1, keepdims=True)
  number = jnp.arange(reward.shape[-1])[None, None]
  is_last = number == steps - 1
  final = jnp.sum(jnp.where(is_last, reward, 0.0), axis=-1, keepdims=True)
  improvement = reward - jnp.pad(reward[..., :-1], ((0, 0),) * (reward.ndim - 1) + ((1, 0),))
  later = jnp.flip(jnp.cumsum(jnp.flip(reward, -1), axis=-1), -1)  # with the step itself
  rest = steps - number
  tail = jnp.where(is_last, final, (later - reward) / jnp.maximum(rest - 1, 1))
  return {"improvement_and_tail": improvement + tail, "improvement": improvement,
          "tail": later / jnp.maximum(rest, 1), "reward": reward,
          "final": jnp.broadcast_to(final, reward.shape)}[kind]


def step_advantage(reward: jax.Array, valid: jax.Array,
                   kind: str = "improvement_and_tail") -> jax.Array:
  """Advantage of every denoising step, z-scored over the group at the same step.

  A = (u - mean u) / (std u + 1e-4), std unbiased, with the credit u of a step s:
  "improvement_and_tail": r_s - r_{s-1} + mean of r_j over j > s (at the last step its own
  reward instead), the one of MDPO; "tail": mean over j >= s; "improvement": r_s - r_{s-1};
  "reward": r_s; "final": the last reward.

  Args:
    reward: float32 [P, G, T].
    valid: bool [P, G, T].
    kind: one of STEP_ADVANTAGES.

  Returns:
    float32 [P, G, T], 0 where invalid.

  Reference: He et al. 2025, arXiv:2508.13148.
  """
  credit = _shaped(reward, valid, kind)
  count = valid.sum(axis=1, keepdims=True)
  mean = jnp.sum(jnp.where(valid, credit, 0.0), axis=1, keepdims=True) / jnp.maximum(count, 1)
  centred = jnp.where(valid, credit - mean, 0.0)
  std = jnp.sqrt(jnp.sum(centred ** 2, axis=1, keepdims=True) / jnp.maximum(count - 1, 1))
  return centred / (std + _EPS)


def group_advantage(reward: jax.Array, kind: str = "mean") -> jax.Array:
  """Advantage of a whole rollout over its group.

  Args:
    reward: float32 [P, G].
    kind: "mean": r - mean (d1, arXiv:2504.12216); "z_score": over the unbiased standard
      deviation + 1e-4; "population_z_score": over the biased one (TraceRL, arXiv:2509.06949);
      "leave_one_out": r - mean of the others (arXiv:2506.20639).
  """
  size = reward.shape[1]
  centred = reward - reward.mean(axis=1, keepdims=True)
  if kind == "leave_one_out":
    return centred * (size / (size - 1))
  if kind == "z_score":
    std = jnp.sqrt(jnp.sum(centred ** 2, axis=1, keepdims=True) / (size - 1))
    return centred / (std + _EPS)
  if kind == "population_z_score":
    return centred / (reward.std(axis=1, keepdims=True) + _EPS)
  return centred


def contrast_weights(reward: jax.Array, sharpness: float = 1.0) -> jax.Array:
  """w+ - w- of wd1, float32 [P, G]: softmax(psi A) - softmax(-psi A) over the group.

  Reference: Tang et al. 2025, arXiv:2507.08838.
  """
  advantage = sharpness * group_advantage(reward, "mean")
  return jax.nn.softmax(advantage, axis=1) - jax.nn.softmax(-advantage, axis=1)
