"""Learned unmasking: a policy network says which positions a step commits.

Contents: Unmasking.

The model is the environment of the policy. Its state are the confidences, the masks, the steps
taken and alpha, the weight of speed; an action is a set of positions, of which those of one set are
written together. Of a Bernoulli action that is empty the position of the greatest score is written,
so that every step writes a token (the published rollouts may waste a step).

An answer that is right with the verifier's reward r, of L positions in S steps, is worth
r ((L - S + 1) / L)^alpha. The policy is told alpha, so one policy gives the whole front of
accuracy and number of function evaluations; published ones are trained for one alpha each.

Expert steering: a share of the rollouts follows confidence thresholding in blocks instead. The
behaviour is a mixture, and so the action of an expert has probability (1 - e) pi + e, both when it
is drawn and in the ratio.

Reference: arXiv:2512.09106.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads
from mdx.networks import scorer as scorer_lib
from mdx.samplers import actions as actions_lib
from mdx.samplers import confidence as confidence_lib
from mdx.samplers import decoder
from mdx.utils import rng

PART = "unmasking"  # of the parameters
_MOST_ALPHA = 100.0
_NEW = {"actions": "bernoulli", "policy_width": 128, "policy_heads": 2}  # form of a new policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unmasking(decoder.Decoder):
  """Commits the positions that a policy draws.

  Attributes:
    policy: run that trained the policy; "" = the model's own.
    actions: "bernoulli" or "plackett_luce" (the first position, then further ones until a stop);
      "" = as the policy was trained, "bernoulli" of a new one.
    policy_width: width of its network; 0 = as it was trained, 128 of a new one.
    policy_heads: heads of its network; 0 = as it was trained, 2 of a new one.
    action_temperature: that scores are divided by.
    speed_alpha: weight of speed, at least 0: the greater, the fewer steps.
    speed_range: least and greatest weight of rollouts, drawn evenly in log(1 + alpha), one for all
      rollouts of a prompt; () = `speed_alpha`.
    expert_rate: share of the rollouts that follow the threshold rule instead.
    expert_threshold: confidence from which that rule commits.
    expert_block_length: tokens of its blocks; 0 = those of the policy.
  """
  policy: str = ""
  actions: str = ""
  policy_width: int = 0
  policy_heads: int = 0
  action_temperature: float = 1.0
  speed_alpha: float = 1.0
  speed_range: tuple[float, ...] = ()
  expert_rate: float = 0.0
  expert_threshold: float = 0.9
  expert_block_length: int = 0

  counts_steps = False
  mixes = False
  acts = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(
        self, "sampler", choices={"actions": ("", *actions_lib.ACTIONS),
                                  "eos": ("allow", "forbid")},
        at_least={"policy_width": 0, "policy_heads": 0, "expert_block_length": 0},
        between={"action_temperature": "(0, inf)", "expert_rate": "[0, 1)",
                 "expert_threshold": "[0, 1]", "speed_alpha": f"[0, {_MOST_ALPHA:g}]"})
    object.__setattr__(self, "speed_range", tuple(self.speed_range))
    ends = self.speed_range or (self.speed_alpha,) * 2
    if len(ends) != 2 or not all(isinstance(x, (int, float)) for x in ends) or (
        not 0 <= ends[0] <= ends[1] <= _MOST_ALPHA):
      raise ValueError(f"sampler.speed_range must be (low, high), 0 <= low <= high <= "
                       f"{_MOST_ALPHA:g}, or () for speed_alpha alone; got {self.speed_range}.")
    if self.form["policy_width"] % (2 * self.form["policy_heads"]):
      raise ValueError(f"sampler.policy_width {self.form['policy_width']} must be a multiple of "
                       f"twice the {self.form['policy_heads']} heads; change one of them.")

  @property
  def form(self) -> dict[str, Any]:
    """The fields that say of which shape and meaning the parameters are."""
    return {name: getattr(self, name) or new for name, new in _NEW.items()}

  @property
  def distribution(self) -> actions_lib.Distribution:
    """The family of the actions."""
    return actions_lib.ACTIONS[self.form["actions"]]

  @property
  def scorer(self) -> scorer_lib.Scorer:
    """The network."""
    return scorer_lib.Scorer(width=self.form["policy_width"], num_heads=self.form["policy_heads"])

  @property
  def deployed(self) -> Unmasking:
    """The rule as it decodes after training: one weight of speed, and no expert."""
    return dataclasses.replace(self, speed_range=(), expert_rate=0.0)

  def parts(self) -> Mapping[str, types.Part]:
    """The policy network."""
    return {PART: self.scorer.part()}

  def under(self, trained: decoder.Decoder, source: str) -> Unmasking:
    """This rule with the form of the one that a policy was trained with, deployed."""
    if not isinstance(trained, Unmasking):
      raise ValueError(f"{source} trained no policy of sampler unmasking; give the run of one as "
                       "sampler.policy.")
    for name, value in trained.form.items():
      if getattr(self, name) not in ("", 0, value):
        raise ValueError(f"sampler.{name} is {getattr(self, name)!r}, and the policy of {source} "
                         f"was trained with {value!r}; leave it out.")
    if self.confidence != trained.confidence:
      raise ValueError(f"sampler.confidence is {self.confidence}, and the policy of {source} was "
                       f"trained on {trained.confidence}; use that.")
    blocks, own = (x.block_length if x.block < x.gen_length else 0 for x in (trained, self))
    if blocks != own:
      raise ValueError(f"sampler.block_length is {self.block_length}, and the policy of {source} "
                       f"was trained with {f'blocks of {blocks} tokens' if blocks else 'one block'}"
                       f"; use {blocks}.")
    low, high = trained.speed_range or (trained.speed_alpha,) * 2
    if not low <= self.speed_alpha <= high:
      raise ValueError(f"sampler.speed_alpha is {self.speed_alpha:g}, and the policy of {source} "
                       f"was trained on [{low:g}, {high:g}]; use a value in it.")
    return dataclasses.replace(self.deployed, **trained.form)

  def init(self, canvas, positions, keys, component_keys=None, component=None):
    """State of a batch, with the weight of speed and the expert of each row."""
    state = super().init(canvas, positions, keys, component_keys, component)
    shared = keys if component_keys is None else component_keys
    alpha = jnp.full(len(canvas), self.speed_alpha, jnp.float32)
    if self.speed_range:
      low, high = map(math.log1p, self.speed_range)
      alpha = jnp.expm1(jax.vmap(lambda key: jax.random.uniform(
          rng.stream(key, "speed"), minval=low, maxval=high))(shared))
    draw = jax.vmap(lambda key: jax.random.uniform(rng.stream(key, "expert")))(keys)
    return state | {"speed_alpha": alpha, "is_expert": draw < self.expert_rate}

  def row_draws(self, state):
    """The weight of speed, float32 [B], and whether an expert decodes, bool [B]."""
    return {name: state[name] for name in ("speed_alpha", "is_expert")}

  def propose(self, params, state, index, answer, keys):
    """Tokens; of confidences that are probabilities, those of the likeliest token."""
    found = super().propose(params, state, index, answer, keys)
    if self.confidence != "probability" or self.confidence_filtered:
      return found
    likeliest = heads.block_columns(found.logits, self.mask_id).max(axis=-1)
    return found._replace(
        certainty=jnp.exp(likeliest - jax.nn.logsumexp(found.logits, axis=-1)))

  def commit(self, params, state, proposal, keys):
    """The positions that the policy draws, or the expert chooses."""
    is_open, index = proposal.is_open, proposal.index
    shape = state["canvas"].shape
    spread = lambda values: decoder.put(jnp.zeros(shape, values.dtype), index, is_open, values)
    scores = decoder.at(self._scores(
        params, state["canvas"] == self.mask_id, spread(is_open), spread(proposal.certainty),
        state["free"], state["nfe"], state["speed_alpha"]), index)
    action = self.distribution.draw(keys, proposal.positions, scores, is_open)
    is_expert = state["is_expert"]
    if self.expert_rate:
      action = jnp.where(is_expert[:, None], self._expert_action(state, proposal), action)
    log_prob = self.distribution.log_prob(scores, action, is_open)
    mixed = self._mixed(log_prob.sum(axis=1), is_expert)
    begins = jnp.arange(action.shape[1])[None] == 0  # keeps the one term of an expert's action
    log_prob = jnp.where(is_expert[:, None], jnp.where(begins, mixed[:, None], 0.0), log_prob)
    none = ~jnp.any(action > 0, axis=1, keepdims=True)
    best = decoder.best_of(scores, is_open, jnp.ones(len(index), jnp.int32))
    return decoder.Commit(is_open & ((action > 0) | (none & best)), action=action,
                          action_log_prob=log_prob)

  def action_log_prob(self, params: types.Params, record: Mapping[str, Any]) -> jax.Array:
    """Log-probability of the recorded action of every step, float32 [N, T]; runs no model.

    Args:
      params: with the part of the policy.
      record: fields of a record of level "canvas": `canvas`, `step_confidence` and `action`
        [N, T, G], `is_free` and `block` [N, G], `nfe` [N], and `row_draws`.
    """
    free, draws = record["is_free"], record["row_draws"]

    def of_step(number, canvas, confidence, action):
      is_masked = (canvas == self.mask_id) & free
      block = jnp.where(is_masked, record["block"], decoder.END)
      is_open = is_masked & (block == block.min(axis=1, keepdims=True))
      taken = jnp.full(len(canvas), number)
      scores = self._scores(params, is_masked, is_open, confidence, free, taken,
                            draws["speed_alpha"])
      return self._mixed(self.distribution.log_prob(scores, action, is_open).sum(axis=1),
                         draws["is_expert"])

    def step(last, one):  # of which there may be many more than any row has taken
      return last, jax.lax.cond(one[0] < last, of_step,
                                lambda *one: jnp.zeros(len(one[1]), jnp.float32), *one)

    by_step = lambda name: jnp.swapaxes(record[name], 0, 1)
    steps = jnp.arange(record["canvas"].shape[1])
    _, found = jax.lax.scan(step, record["nfe"].max(), (
        steps, by_step("canvas"), by_step("step_confidence"), by_step("action")))
    return jnp.where(steps[None] < record["nfe"][:, None], found.T, 0.0)

  def reward(self, record: Mapping[str, Any], reward: jax.Array) -> jax.Array:
    """Rewards float32 [N] times the speed of the rollouts."""
    length = jnp.maximum(record["is_free"].sum(axis=1), 1)
    speed = (length - jnp.minimum(record["nfe"], length) + 1) / length
    return reward * speed ** record["row_draws"]["speed_alpha"]

  def _scores(self, params, is_masked, is_open, confidence, is_seen, taken, alpha):
    """Scores of positions, [B, S] as the arguments; `taken` int32 [B] are the steps before."""
    kind = jnp.where(is_open, scorer_lib.OPEN, jnp.where(
        is_masked, scorer_lib.WAITING, scorer_lib.COMMITTED))
    time = taken / jnp.maximum(is_seen.sum(axis=1), 1)
    return self.scorer.scores(params[PART], kind=kind, confidence=confidence, is_seen=is_seen,
                              time=time, alpha=alpha) / self.action_temperature

  def _mixed(self, log_prob, is_expert):
    """Log-probability of an expert's action under policy and expert together."""
    if not self.expert_rate:
      return log_prob
    mixed = jnp.logaddexp(math.log1p(-self.expert_rate) + log_prob, math.log(self.expert_rate))
    return jnp.where(is_expert, mixed, log_prob)

  def _expert_action(self, state, proposal):
    """Every confident position of the expert's block, and the most confident one."""
    size = self.expert_block_length or self.gen_length
    block = decoder.at((jnp.cumsum(state["free"], axis=1) - 1) // size, proposal.index)
    block = jnp.where(proposal.is_open, block, decoder.END)
    is_open = proposal.is_open & (block == block.min(axis=1, keepdims=True))
    own = proposal._replace(is_open=is_open, confidence=proposal.certainty)
    is_chosen = is_open & (proposal.certainty >= self.expert_threshold)
    is_chosen |= confidence_lib.most_confident(own)
    return self.distribution.from_order(is_chosen, decoder.ranks(proposal.certainty, is_chosen))
