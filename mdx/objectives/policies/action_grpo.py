"""GRPO on the actions of a decoding rule that has parameters.

Contents: ActionGRPO.

The model is frozen and part of the environment. A rollout's record has, of every step, what the
rule was shown and what it drew, so updates run the network of the rule and never the model. The
rule says the log-probability of an action and what an answer is worth
(`samplers.unmasking.Unmasking`).

Reference: arXiv:2512.09106; Shao et al. 2024, arXiv:2402.03300 (GRPO).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionGRPO(policy.Policy):
  """Clipped policy gradient whose units are the steps: the ratio of a step is of its whole action.

  With `step_average=False`, `advantage="leave_one_out"` and one update on each rollout its mean is
  the gradient of the expected reward.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
    step_average: whether a rollout counts as the mean over its steps, as published; False: as their
      sum.
  """
  clip: float = 0.5
  # The divergence from a policy that the run began with, which is a new one; no config has it.
  kl: float = dataclasses.field(init=False, repr=False, default=0.0)
  kl_form: str = dataclasses.field(init=False, repr=False, default="k2")
  advantage: str = "mean"
  step_average: bool = True

  record = "canvas"
  draws_tokens = False
  trains_rule = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES})

  def parts(self):
    """Parts of the model and of the rule."""
    return {**super().parts(), **self.decoding.rule.parts()}

  def prepare(self, params, batch, key, context):
    """Takes the steps of the rollouts as units; draws nothing."""
    del params, key, context
    nfe, kept = batch["nfe"], policy.kept(batch)
    reward = self.decoding.rule.reward(batch, batch["reward"])
    is_taken = jnp.arange(batch["canvas"].shape[1])[None] < nfe[:, None]
    weight = is_taken / (jnp.maximum(nfe, 1)[:, None] if self.step_average else 1)
    prepared = {name: batch[name] for name in (
        "canvas", "step_confidence", "action", "nfe", "is_free", "block", "row_draws")} | {
            "noisy_tokens": batch["canvas"],
            "token_weight": weight * kept[:, None],
            "advantage": policy.group_advantages(batch | {"reward": reward}, self.group_size,
                                                 self.advantage),
            "old_log_prob": batch["action_log_prob"].sum(axis=2),
            "policy_scale": jnp.ones(len(nfe))}
    return prepared, {"policy": kept.sum(dtype=jnp.float32)}

  def log_prob(self, params, batch):
    """Log-probability of the action of each step, float32 [N, T]."""
    return self.decoding.rule.action_log_prob(params, batch)
