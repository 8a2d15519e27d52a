"""Policies that replay the trajectory of a rollout: its canvases, step by step.

Contents: Replay, step_numbers, step_returns, TraceRL, D2, AGRPO, CJGRPO, JustGRPO.

Convention: a record of level "commits" says after which step each token has stood, so the canvas
before a step shows the tokens of earlier steps and masks the others. Steps may be merged; a merged
step is scored at the canvas before the first of its steps. A row of an update is one merged step
of one rollout, and its targets are the tokens that were drawn in it. Where the rollouts' blocks are
those of a model of blocks, one row is the same merged step of every block, each behind the clean
blocks before it.

Where the rollouts of a prompt are a tree (`shared_steps` int32 [N], the steps that they took
together), the canvas at which they branch is their baseline: targets are the tokens after it, each
weighted by the inverse of the probability that a tree branches before its step, so that the mean
over trees is the gradient of whole trajectories.

The choice of positions is left out: the product of the tokens' probabilities is the probability of
the trajectory where positions are chosen without the model (at random, from left to right), and a
surrogate where they are chosen by its confidence.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy
from mdx.utils import rng

STEP_DRAWS = ("uniform", "entropy")


def step_numbers(batch: types.Batch, is_drawn: jax.Array, decoding: policy.Decoding, *,
                 shrink: int = 1, in_blocks: bool = False) -> jax.Array:
  """Numbers the merged step of every token, int32 [N, G], -1 where given.

  Args:
    batch: of rollouts.
    is_drawn: bool [N, G], tokens that were drawn.
    decoding: bounds of the rollouts' decoding.
    shrink: consecutive steps of a block that are merged.
    in_blocks: numbers begin anew in every block.
  """
  step = batch["step"]
  rows = jnp.arange(len(step))[:, None]
  block = jnp.where(is_drawn, batch["block"], -1)
  column = jnp.where(step >= 0, step, decoding.max_steps)
  blocks = jnp.full((len(step), decoding.max_steps), -1).at[rows, column].max(block, mode="drop")
  is_step = blocks >= 0
  order = jnp.cumsum(is_step, axis=1) - 1
  before = jnp.pad(jax.lax.cummax(blocks, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  within = order - jax.lax.cummax(jnp.where(is_step & (blocks > before), order, 0), axis=1)
  number = within // shrink if in_blocks else (
      jnp.cumsum(is_step & (within % shrink == 0), axis=1) - 1)
  return jnp.where(step >= 0, jnp.take_along_axis(number, jnp.maximum(step, 0), axis=1), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(policy.Policy):
  """Base of the policies that replay trajectories.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
    until_eos: whether tokens after the first end of text are left out.
  """
  advantage: str = "z_score"
  until_eos: bool = True

  replays: ClassVar[bool] = True
  packs: ClassVar[bool] = False  # a step of every block into one row, where the model allows it

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES})

  @property
  def is_packed(self) -> bool:
    """Whether a row replays a step of every block."""
    return self.packs and self.decoding.has_model_blocks

  def prepare(self, params, batch, key, context):
    """Chooses merged steps, one row each."""
    del params, context
    is_drawn = batch["is_free"] & ((batch["log_prob"] != 0) | (batch["confidence"] != 0))
    is_target = is_drawn & self._counts(batch)
    number, num_steps = self._numbers(batch, is_drawn)
    chosen, weight, total = self._choose(batch, number, is_target, num_steps, key)
    times = chosen.shape[1]
    flat = lambda x: x.reshape((-1,) + x.shape[2:])
    repeat = lambda x: jnp.repeat(x, times, axis=0)
    final = batch["tokens"][:, -number.shape[1]:]
    is_hidden = batch["is_free"][:, None] & (number[:, None] >= chosen[..., None])
    canvas = flat(jnp.where(is_hidden, self.mask_id, final[:, None]))
    is_target = flat(is_target[:, None] & (number[:, None] == chosen[..., None]))
    weight = flat(weight)[:, None]
    if "shared_steps" in batch:
      # Tokens before the branching have the same advantage in expectation, 0; the later a step,
      # the more of the trees branch before it.
      is_target &= repeat(batch["step"] >= batch["shared_steps"][:, None])
      weight = weight * repeat(self.decoding.max_steps / (batch["step"] + 1))
    reward = policy.by_group(batch["reward"], self.group_size)
    advantage = advantage_lib.group_advantage(reward, self.advantage).reshape(-1)
    prepared = policy.optional_fields(batch, times) | {
        "noisy_tokens": policy.joined(batch, canvas)[:, None], "targets": repeat(final),
        "mix": is_target[:, None].astype(jnp.float32),
        "token_weight": jnp.where(is_target, weight, 0.0),
        "advantage": repeat(advantage), "policy_scale": jnp.ones(len(canvas))}
    if self.is_packed:
      prepared["clean_tokens"] = repeat(batch["tokens"])
    if "old_log_prob" in batch:
      prepared["old_log_prob"] = batch["old_log_prob"]
    elif not self.needs_scores:
      prepared["old_log_prob"] = repeat(batch["log_prob"])
    return prepared, dict.fromkeys(self.scales, total)

  def _counts(self, batch):
    """Tokens that may be targets, bool [N, G]: of kept groups, up to an end of text."""
    counts = jnp.broadcast_to(policy.kept(batch)[:, None], batch["is_free"].shape)
    if not self.until_eos:
      return counts
    is_end = self._ends(batch)
    return counts & (jnp.cumsum(is_end, axis=1) - is_end == 0)

  def _ends(self, batch):
    final = batch["tokens"][:, -batch["is_free"].shape[1]:]
    return batch["is_free"] & heads.is_one_of(final, (self.eos_id, *self.other_eos_ids))

  def _numbers(self, batch, is_drawn):
    """Number of the merged step of every token, int32 [N, G], and how many there are at most."""
    return (step_numbers(batch, is_drawn, self.decoding, in_blocks=self.is_packed),
            self.decoding.block_steps if self.is_packed else self.decoding.max_steps)

  def _choose(self, batch, number, is_target, num_steps, key):
    """Merged steps to train, here all, each token as much as its rollout has targets.

    Args:
      batch: of rollouts.
      number: int32 [N, G], of the merged step of each token.
      is_target: bool [N, G].
      num_steps: bound of the merged steps of a rollout.
      key: typed key [].

    Returns:
      int32 [N, K] chosen steps; float32 [N, K], weight of each of their targets; float32 [], the
      divisor of the loss.
    """
    del batch, key
    length = is_target.sum(axis=1, keepdims=True)
    shape = (len(number), num_steps)
    return (jnp.broadcast_to(jnp.arange(num_steps)[None], shape),
            jnp.broadcast_to(1 / jnp.maximum(length, 1), shape), _live(is_target))


def _live(is_target):
  """Number of the rollouts that have a target, float32 []."""
  return is_target.any(axis=1).sum(dtype=jnp.float32)


def _targets_of_steps(number, is_target, num_steps, values=None):
  """Sum of `values` (1 each) over the targets of every merged step, float32 [N, num_steps]."""
  values = jnp.ones(number.shape) if values is None else values
  rows = jnp.arange(len(number))[:, None]
  column = jnp.where(is_target, number, num_steps)
  return jnp.zeros((len(number), num_steps)).at[rows, column].add(values, mode="drop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CJGRPO(Replay):
  """GRPO along the trajectory that was sampled, every step at its canvas.

  The loss is the mean over the tokens of a rollout, averaged over rollouts. With the sampler's
  schedule "doubling" a trajectory of L tokens has log2 L steps.

  Reference: Yang et al. 2025, arXiv:2509.23924.
  """
  packs = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class D2(Replay):
  """d2's StepMerge: the trajectory cut into segments, each scored at the canvas it begins with.

  The loss is the mean over the tokens of a rollout, averaged over rollouts.

  Attributes:
    num_segments: segments of a rollout, of equal numbers of steps up to one; one segment is the
      score of diffu_grpo without its masks of the prompt, and as many as steps that of cj_grpo.

  Reference: Wang et al. 2025, arXiv:2509.21474.
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
  count = _targets_of_steps(number, is_target, num_steps)
  mean = _targets_of_steps(number, is_target, num_steps, value) / jnp.maximum(count, 1)
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
class TraceRL(Replay):
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

  Reference: Wang et al. 2025, arXiv:2509.06949.
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
    found = step_numbers(batch, is_drawn, shape, shrink=self.shrink, in_blocks=self.is_packed)
    if self.is_packed:
      return found, -(-shape.block_steps // self.shrink)
    return found, (shape.max_steps + shape.num_blocks * (self.shrink - 1)) // self.shrink

  def _choose(self, batch, number, is_target, num_steps, key):
    steps, weight, _ = super()._choose(batch, number, is_target, num_steps, key)
    count = _targets_of_steps(number, is_target, num_steps)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class AGRPO(Replay):
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

  Reference: Zhan 2025, arXiv:2510.04019.
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
      return steps, is_active / mean, _live(is_target)
    share = is_active.astype(jnp.float32)
    if self.step_draw == "entropy":
      share *= _targets_of_steps(number, is_target, num_steps, batch["entropy"]) + 1e-8
    share /= share.sum(axis=1, keepdims=True)
    keys = rng.per_example(rng.stream(key, "steps"), batch["example_index"])
    draw = jax.vmap(lambda key: jax.random.uniform(key, (self.num_steps,)))(keys)
    strata = (jnp.arange(self.num_steps)[None] + draw) / self.num_steps
    chosen = (jnp.cumsum(share, axis=1)[:, None] <= strata[..., None]).sum(axis=-1)
    chosen = jnp.minimum(chosen, last)
    weight = 1 / (jnp.take_along_axis(share, chosen, axis=1) * self.num_steps * mean)
    return chosen, weight, _live(is_target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JustGRPO(Replay):
  """JustGRPO: the model as an autoregressive one, a token at a time from left to right.

  Log-probabilities are exact: that of a token has the tokens before it shown and all later ones
  masked. The loss is the mean over the tokens of a rollout, averaged over rollouts. Rollouts are
  decoded from left to right; free positions are taken in order where a text is filled in.

  Attributes:
    num_positions: positions of a rollout that are scored, drawn at random without replacement,
      which changes the mean of the gradient by nothing; 0 = all.

  Reference: Ni et al. 2026, arXiv:2601.15165.
  """
  num_positions: int = 0

  left_to_right: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_positions": 0})

  def _choose(self, batch, number, is_target, num_steps, key):
    if not self.num_positions or self.num_positions >= num_steps:
      return super()._choose(batch, number, is_target, num_steps, key)
    keys = rng.per_example(rng.stream(key, "positions"), batch["example_index"])
    score = jax.vmap(lambda key: jax.random.uniform(key, (num_steps,)))(keys)
    count = _targets_of_steps(number, is_target, num_steps)
    _, chosen = jax.lax.top_k(jnp.where(count > 0, score, -1.0), self.num_positions)
    taken = jnp.clip(is_target.sum(axis=1, keepdims=True), 1, self.num_positions)
    return chosen, jnp.broadcast_to(1 / taken, chosen.shape), _live(is_target)
