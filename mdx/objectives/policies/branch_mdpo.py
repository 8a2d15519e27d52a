"""Branch credit: MDPO with several predictions of every visited canvas.

Contents: BranchMDPO.

An extension of MDPO (He et al. 2025, arXiv:2508.13148), not the method as published: the canvases
are those that the sampler visits, and the credit is another.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives.policies import policy
from mdx.utils import tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchMDPO(policy.Policy):
  """Policy gradient of the one-step reward of visited canvases, each its own baseline.

  For a canvas x whose masked positions i have distributions p_i, y^1 .. y^m are predictions drawn
  from them in the rollout, the sampler's own among them, and r_j is the verdict on x completed by
  y^j:

    L(x) = -1/(m-1) sum_j (r_j - mean r) sum over masked i of log p_i(y^j_i | x)
           + kl sum over masked i of KL(p_i || ref_i).

  The gradient of the first sum is that of -E r(y), without bias. Of each rollout the `num_steps`
  canvases with the largest variance of r_j (mean r (1 - mean r) of verdicts 0 and 1) are trained:
  the first sum is averaged over those whose verdicts differ, the exact divergence over all of them.
  There are no group, ratio, clipping or confidence weight, so a rollout serves one update.

  Attributes:
    kl: weight of the divergence.
    num_predictions: m, of each canvas, at least 2; each gets a verdict.
    num_steps: canvases of a rollout that are trained, at least 1.
  """
  record = "full"
  uses_ratio = False
  compares = False
  reuses = False

  # Of ratios and estimates of the divergence; there are none here, so no config has them.
  clip: float = dataclasses.field(init=False, repr=False, default=0.2)
  clip_high: float = dataclasses.field(init=False, repr=False, default=0.0)
  kl_form: str = dataclasses.field(init=False, repr=False, default="k2")
  kl: float = 0.2
  num_predictions: int = 16
  num_steps: int = 4

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_predictions": 2, "num_steps": 1})

  @property
  def predictions_per_step(self) -> int:
    """Number of predictions of every canvas, m."""
    return self.num_predictions

  def prepare(self, params, batch, key, context):
    """Credits of the predictions, choice of canvases, one row a chosen canvas."""
    del params, key, context
    rows, max_steps, _ = batch["canvas"].shape
    reward = jnp.concatenate([batch["step_reward"][..., None], batch["branch_reward"]], axis=-1)
    answer = jnp.concatenate([batch["prediction"][:, :, None], batch["branches"]], axis=2)
    is_visited = jnp.arange(max_steps)[None] < batch["nfe"][:, None]
    is_visited &= jnp.any(batch["canvas"] == self.mask_id, axis=-1)
    number = min(self.num_steps, max_steps)
    _, steps = jax.lax.top_k(jnp.where(is_visited, reward.var(axis=-1), -1.0), number)
    each = lambda x: jnp.take_along_axis(
        x, steps.reshape(steps.shape + (1,) * (x.ndim - 2)), axis=1).reshape(
            (rows * number,) + x.shape[2:])
    canvas, reward, is_chosen = each(batch["canvas"]), each(reward), each(is_visited)
    is_live = is_chosen & (reward.max(axis=-1) > reward.min(axis=-1))
    credit = (reward - reward.mean(axis=-1, keepdims=True)) / (self.num_predictions - 1)
    prepared = policy.optional_fields(batch, number) | {
        "noisy_tokens": policy.joined(batch, canvas)[:, None], "targets": each(answer),
        "credit": jnp.where(is_live[:, None], credit, 0.0),
        "is_target": (canvas == self.mask_id) & is_chosen[:, None]}
    if "step_time" in batch:
      prepared["noise_level"] = each(batch["step_time"][..., None])
    weights = {"policy": is_live, "kl": is_chosen}
    return prepared, {k: weights[k].sum(dtype=jnp.float32) for k in self.scales}

  def __call__(self, params, batch, context):
    """Sums over canvases of the credited log-probabilities and of the exact divergence."""
    is_target, credit = batch["is_target"], batch["credit"]
    length = is_target.shape[1]
    log_probs = jax.nn.log_softmax(self.logits(params, batch, length), axis=-1)
    picked = jnp.take_along_axis(log_probs, batch["targets"].swapaxes(1, 2), axis=-1)  # [R, G, m]
    log_prob = jnp.where(is_target[..., None], picked, 0.0)
    totals = {"policy": -(credit[:, None] * log_prob).sum()}
    number = is_target.any(axis=1).sum(dtype=jnp.float32)
    is_live = jnp.any(credit != 0, axis=1)
    metrics = {"live_canvases": (is_live.sum(dtype=jnp.float32), number),
               "log_prob": (log_prob.mean(axis=2).sum(), is_target.sum(dtype=jnp.float32))}
    if self.kl:
      reference = tree.overlay(context.frozen["reference"], params)
      reference = jax.nn.log_softmax(self.logits(reference, batch, length), axis=-1)
      more = log_probs - jax.lax.stop_gradient(reference)
      divergence = jnp.where(is_target, (jnp.exp(log_probs) * more).sum(axis=-1), 0.0)
      totals["kl"] = divergence.sum()
      metrics["kl"] = (divergence.sum(), number)
    return totals, types.Aux(metrics, {}, {})
