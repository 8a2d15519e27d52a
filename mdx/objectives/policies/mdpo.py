"""Masked diffusion policy optimisation.

Contents: MDPO.

Reference: He et al. 2025, arXiv:2508.13148.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy
from mdx.utils import rng

STEP_CHOICES = ("largest", "uniform", "all")
TARGETS = ("masked", "committed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDPO(policy.Policy):
  """Policy gradient on the canvases that the sampler visits.

  Of each rollout, the `num_steps` denoising steps with the largest |advantage| are trained.
  At a step whose canvas has n masks, every masked token of the prediction is a target:

    1/n * sum over masked i of w_i ( -min(ratio_i A, clip(ratio_i) A) L / n + kl k2_i ),

  with L the tokens of the answer, w_i the probability that the rollout drew the token with,
  averaged over the chosen steps.

  Attributes:
    advantage: one of advantage.STEP_ADVANTAGES.
    num_steps: steps of a rollout that are trained.
    step_choice: steps of the "largest" |A|, "uniform" at random, or "all".
    targets: the "masked" tokens of a prediction, or those "committed" by the step only.
    confidence_weight: whether w_i is that probability, whatever the sampler goes by, else 1.
    length_weight: whether there is the factor L / n.
    token_mean: whether there is the factor 1 / n.
    drop_dead: leave steps out whose group has equal credits (advantage 0), which otherwise
      still have a divergence term and count in the average.
  """
  record = "full"

  kl: float = 0.02
  advantage: str = "improvement_and_tail"
  num_steps: int = 8
  step_choice: str = "largest"
  targets: str = "masked"
  confidence_weight: bool = True
  length_weight: bool = True
  token_mean: bool = True
  drop_dead: bool = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_steps": 1}, choices={
        "advantage": advantage_lib.STEP_ADVANTAGES, "step_choice": STEP_CHOICES,
        "targets": TARGETS})

  def prepare(self, params, batch, key, context):
    """Advantages over the groups, choice of steps, one row a chosen step."""
    del params, context
    rows, max_steps, length = batch["canvas"].shape
    valid = jnp.arange(max_steps)[None] < batch["nfe"][:, None]
    advantage = advantage_lib.step_advantage(
        policy.by_group(batch["step_reward"], self.group_size),
        policy.by_group(valid, self.group_size), self.advantage).reshape(rows, max_steps)
    number = max_steps if self.step_choice == "all" else min(self.num_steps, max_steps)
    if self.step_choice == "uniform":
      keys = rng.per_example(rng.stream(key, "steps"), batch["example_index"])
      score = jax.vmap(lambda k: jax.random.uniform(k, (max_steps,)))(keys)
    else:
      score = jnp.abs(advantage)
    _, steps = jax.lax.top_k(jnp.where(valid, score, -1.0), number)
    each = lambda x: jnp.take_along_axis(x, steps.reshape(steps.shape + (1,) * (x.ndim - 2)),
                                         axis=1).reshape((rows * number,) + x.shape[2:])
    canvas, targets = each(batch["canvas"]), each(batch["prediction"])
    is_masked = canvas == self.mask_id
    if self.targets == "committed":
      following = jnp.concatenate([batch["canvas"][:, 1:], batch["canvas"][:, -1:]], axis=1)
      last = (steps == batch["nfe"][:, None] - 1).reshape(-1, 1)
      final = jnp.repeat(batch["tokens"][:, -length:], number, axis=0)
      is_masked &= jnp.where(last, final, each(following)) == targets
    count = jnp.maximum(is_masked.sum(axis=1, dtype=jnp.float32), 1)
    drawn = each(batch["step_log_prob"])
    weight = jnp.exp(drawn) if self.confidence_weight else jnp.ones_like(count)[:, None]
    weight = jnp.where(is_masked, weight, 0.0)
    if self.token_mean:
      weight = weight / count[:, None]
    chosen = each(advantage[..., None])[:, 0]
    live = each((valid & policy.kept(batch)[:, None])[..., None])[:, 0]
    if self.drop_dead:
      live &= chosen != 0
    free = jnp.repeat(batch["is_free"].sum(axis=1), number)
    scale = free / count if self.length_weight else jnp.ones_like(count)
    prepared = policy.optional_fields(batch, number) | {
        "noisy_tokens": policy.joined(batch, canvas)[:, None], "targets": targets,
        "mix": is_masked[:, None].astype(jnp.float32),
        "token_weight": weight * live[:, None], "advantage": chosen, "policy_scale": scale,
        "old_log_prob": drawn}
    if "step_time" in batch:
      prepared["noise_level"] = each(batch["step_time"][..., None])
    total = live.sum(dtype=jnp.float32)
    return prepared, dict.fromkeys(self.scales, total)
