"""TraceRL: merged steps of trajectories, and a value head.

Contents: TraceRL, step_returns.

Reference: Wang et al. 2025, arXiv:2509.06949.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives.policies import replay


def step_returns(number: jax.Array, is_target: jax.Array, reward: jax.Array, value: jax.Array,
                 num_steps: int, gamma: float, lam: float) -> tuple[jax.Array, jax.Array]:
  """Returns and advantages of tokens, by recursions over merged steps.

  With r*_t and V*_t the means over the targets of step t, and the reward at those of the last:
  R*_t = r*_t + gamma R*_{t+1},  A*_t = r*_t - V*_t + gamma (V*_{t+1} + lam A*_{t+1}), and of a
  token at step t  R = r + gamma R*_{t+1},  A = r - V + gamma (V*_{t+1} + lam A*_{t+1}).

  Args:
    number: int32 [N, G], merged step of each token.
    is_target: bool [N, G].
    reward: float32 [N].
    value: float32 [N, G].
    num_steps: bound of the merged steps.
    gamma: discount of a step.
    lam: of generalised advantage estimation.
  """
  count = replay.targets_of_steps(number, is_target, num_steps)
  mean = replay.targets_of_steps(number, is_target, num_steps, value) / jnp.maximum(count, 1)
  steps = jnp.arange(num_steps)[None]
  last = jnp.max(jnp.where(count > 0, steps, -1), axis=1, keepdims=True)
  rewards = jnp.where(steps == last, reward[:, None], 0.0)

  def back(after, now):
    (gain, ahead), (is_step, r, v) = after, now  # R*_{t+1}, and V*_{t+1} + lam A*_{t+1}
    new = r + gamma * gain, v + lam * (r - v + gamma * ahead)
    return jax.tree.map(lambda old, new: jnp.where(is_step, new, old), after, new), after

  zeros = jnp.zeros(len(number))
  _, (gain, ahead) = jax.lax.scan(back, (zeros, zeros), ((count > 0).T, rewards.T, mean.T),
                                  reverse=True)
  at = lambda x: jnp.take_along_axis(x, jnp.maximum(number, 0), axis=1)
  own, gain, ahead = at(rewards), gamma * at(gain.T), gamma * at(ahead.T)
  return own + gain, own - value + ahead


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceRL(replay.Replay):
  """TraceRL: consecutive steps of a block are merged, and a merged step is a row.

  A row is the mean over its targets of the clipped surrogate, and rows are averaged; of a model of
  blocks it is the sum over the targets of all blocks, divided by the length of the answer. The
  divergence is from the *old* policy, that the rollouts were drawn with, and is published as a sum
  over the targets of a row (divided likewise for a model of blocks): it has a term and a weight of
  its own, `old_kl`, and is 0 with gradient 0 in the first update on a rollout. `kl` is that of
  other methods, from the base model.

  With `value` advantages are those of tokens, from a value head in place of the comparison within a
  group: a linear map of the hidden state at each target, zero at first. Its loss is
  max((V - R)^2, (V_old + clip(V - V_old) - R)^2) / 2, averaged as the surrogate is. Hidden states
  are read without gradient, so that it does not move the model; as published the value model is a
  copy of the model with parameters and a rate of its own.

  Attributes:
    shrink: s, consecutive steps of a block that are merged.
    old_kl: weight of the k3 divergence from the old policy.
    value: whether there is a value head.
    value_clip: bound of the change of a value in an update.
    gamma: discount of a step.
    lam: of generalised advantage estimation.
  """
  advantage: str = "population_z_score"
  kl_form: str = "k3"
  shrink: int = 1
  old_kl: float = 0.01
  value: bool = False
  value_clip: float = 0.2
  gamma: float = 1.0
  lam: float = 1.0

  needs_scores = True
  packs = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"shrink": 1, "old_kl": 0},
                     between={"value_clip": "(0, inf)", "gamma": "[0, 1]", "lam": "[0, 1]"})
    if self.value and self.is_packed:
      raise ValueError("objective.value follows the steps of an answer one after another, and "
                       "rollout.sampler.cache block replays all blocks at once; use cache none.")

  @property
  def scales(self):
    """Further the divergence from the old policy, and the loss of the values."""
    return dict(super().scales) | ({"old_kl": self.old_kl} if self.old_kl else {}) | (
        {"value": 1.0} if self.value else {})

  def parts(self):
    """Parts of the model, and the value head."""
    if not self.value:
      return super().parts()
    init = lambda key: {"kernel": jnp.zeros((self.network.width, 1)), "bias": jnp.zeros((1,))}
    return {**super().parts(), "value": types.Part(init)}

  def is_scored(self, epochs):
    """Returns whether there are values, or several updates on a rollout."""
    return self.value or super().is_scored(epochs)

  def scores(self, params, batch):
    """Further the values of targets, float32 [R, G]."""
    found = super().scores(params, batch)
    return found | ({"old_value": self._values(params, batch)} if self.value else {})

  def _values(self, params, batch):
    hidden = self.answer(params, batch, batch["targets"].shape[1]).hidden
    hidden = jax.lax.stop_gradient(hidden).astype(jnp.float32)
    return (hidden @ params["value"]["kernel"])[..., 0] + params["value"]["bias"][None]

  def _numbers(self, batch, is_drawn):
    """Merged steps, which end with their block."""
    shape = self.decoding
    found = replay.step_numbers(batch, is_drawn, shape, shrink=self.shrink,
                                in_blocks=self.is_packed)
    if self.is_packed:
      return found, -(-shape.block_steps // self.shrink)
    return found, (shape.max_steps + shape.num_blocks * (self.shrink - 1)) // self.shrink

  def _choose(self, batch, number, is_target, num_steps, key):
    steps, weight, _ = super()._choose(batch, number, is_target, num_steps, key)
    count = replay.targets_of_steps(number, is_target, num_steps)
    weight = weight if self.is_packed else 1 / jnp.maximum(count, 1)
    return steps, weight, (count > 0).sum(dtype=jnp.float32)

  def prepare(self, params, batch, key, context):
    """As of other replays, and the weights of the divergence from the old policy."""
    prepared, weights = super().prepare(params, batch, key, context)
    weight = prepared["token_weight"]
    prepared["old_kl_weight"] = weight if self.is_packed else (weight != 0).astype(jnp.float32)
    if "old_value" in batch:
      prepared |= self._with_values(batch, weight != 0)
    return prepared, weights

  def _with_values(self, batch, is_target):
    """Advantages and returns of the targets [R, G], from the values before the update."""
    rows, length = batch["is_free"].shape
    by_step = lambda x: x.reshape(rows, -1, length)
    is_target, old = by_step(is_target), batch["old_value"]
    num_steps = is_target.shape[1]
    number = jnp.where(is_target.any(axis=1), jnp.argmax(is_target, axis=1), -1)
    value = jnp.where(is_target, by_step(old), 0.0).sum(axis=1)
    returns, advantage = step_returns(number, number >= 0, batch["reward"], value, num_steps,
                                      self.gamma, self.lam)
    repeat = lambda x: jnp.repeat(x, num_steps, axis=0)
    return {"advantage": repeat(advantage), "returns": repeat(returns), "old_value": old}

  def more_terms(self, params, batch, change):
    """k3 of the change of the log-probability, and the loss of the values."""
    found = {}
    if self.old_kl:
      found["old_kl"] = (batch["old_kl_weight"] * (jnp.expm1(-change) + change)).sum()
    if self.value:
      value, old = self._values(params, batch), batch["old_value"]
      near = old + jnp.clip(value - old, -self.value_clip, self.value_clip)
      error = jnp.maximum((value - batch["returns"]) ** 2, (near - batch["returns"]) ** 2) / 2
      found["value"] = (batch["token_weight"] * error).sum()
    return found
