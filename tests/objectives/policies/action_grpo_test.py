"""GRPO on actions: the policy gradient is that of the expected reward, by enumeration."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.objectives.policies import action_grpo
from mdx.objectives.policies import policy as policy_lib
from mdx.samplers import actions
from mdx.samplers import unmasking
from mdx.utils import rng

import tiny

MASK, LENGTH = 0, 2
# Confidences of an environment that depend on the masks, and what is right depends on the path.
CONFIDENCE = np.random.default_rng(0).uniform(0.2, 0.95, (2, 2, LENGTH)).astype(np.float32)
RIGHT = {(0,): 1.0, (1,): 0.0, (0, 1): 0.4}  # reward by the positions of the first step


def _choices(name, open_positions):
  """All actions on the open positions, int [LENGTH] each."""
  found = []
  for code in range(3 ** LENGTH):
    action = np.array([code // 3 ** i % 3 for i in range(LENGTH)])
    ranks = sorted(action[action > 0])
    fits = set(np.flatnonzero(action)) <= set(open_positions) and (
        max(ranks, default=0) <= 1 if name == "bernoulli" else
        ranks == list(range(1, len(ranks) + 1)) and len(ranks) > 0)
    if fits:
      found.append(action)
  return found


def _trajectories(name, greatest):
  """Every trajectory: (canvases, confidences, actions, nfe, reward), padded to LENGTH steps.

  `greatest` says the position that is written where an action is empty, of the masks.
  """
  done = []

  def walk(masks, steps, first):
    if not masks.any():
      pad = LENGTH - len(steps)
      blank = [(np.full(LENGTH, 3), np.zeros(LENGTH, np.float32), np.zeros(LENGTH, int))] * pad
      done.append((*map(np.stack, zip(*(steps + blank))), len(steps), RIGHT[first]))
      return
    confidence = np.where(masks, CONFIDENCE[tuple(masks.astype(int))], 0)
    for action in _choices(name, np.flatnonzero(masks)):
      written = action > 0
      if not written.any():
        written = np.arange(LENGTH) == greatest(masks)
      walk(masks & ~written, [*steps, (np.where(masks, MASK, 3), confidence, action)],
           first or tuple(np.flatnonzero(written)))

  walk(np.ones(LENGTH, bool), [], ())
  return [np.stack(x) for x in zip(*done)]


def _batch(found, alpha=1.0):
  canvas, confidence, action, nfe, reward = found
  rows = len(canvas)
  return {"canvas": jnp.asarray(canvas), "step_confidence": jnp.asarray(confidence),
          "action": jnp.asarray(action), "nfe": jnp.asarray(nfe),
          "is_free": jnp.ones((rows, LENGTH), bool), "block": jnp.zeros((rows, LENGTH), jnp.int32),
          "row_draws": {"speed_alpha": jnp.full(rows, alpha), "is_expert": jnp.zeros(rows, bool)},
          "reward": jnp.asarray(reward, jnp.float32), "tokens": jnp.zeros((rows, LENGTH))}


_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(unmasking.Unmasking):
  """The rule with scores that are linear in confidence, steps taken and position."""

  def _scores(self, params, is_masked, is_open, confidence, is_seen, taken, alpha):
    bias, slope, time, place = params["unmasking"]
    index = jnp.arange(confidence.shape[1], dtype=jnp.float32)[None]
    return bias + slope * confidence + time * taken[:, None] + place * index


@functools.cache
def _case(name):
  rule = Linear(mask_id=MASK, gen_length=LENGTH, temperature=0.0, actions=name)
  params = {"unmasking": jnp.array([-0.7, 2.0, 0.9, -0.4])}
  whole = jnp.ones((1, LENGTH), bool)  # where there is a choice, all is masked
  first = int(_jit(rule._scores)(params, whole, whole, jnp.asarray(CONFIDENCE[1, 1])[None], whole,
                                 jnp.zeros(1), jnp.ones(1)).argmax())
  greatest = lambda masks: first if masks.all() else int(np.flatnonzero(masks)[0])
  return rule, params, _batch(_trajectories(name, greatest))


@pytest.mark.parametrize("name", tiny.first(actions.ACTIONS, 1))
def test_the_policy_gradient_is_that_of_the_expected_reward_by_enumeration(name):
  rule, params, batch = _case(name)
  rows = len(batch["canvas"])
  value = rule.reward(batch, batch["reward"])
  speed = (LENGTH - np.asarray(batch["nfe"]) + 1) / LENGTH
  np.testing.assert_allclose(value, np.asarray(batch["reward"]) * speed)

  def expected_reward(params):
    log_prob = rule.action_log_prob(params, batch)
    return (jnp.exp(log_prob.sum(axis=1)) * value).sum(), log_prob

  expected, log_prob = _jit(jax.grad(expected_reward, has_aux=True))(params)
  probability = np.exp(np.asarray(log_prob).sum(axis=1))
  assert probability.sum() == pytest.approx(1, abs=1e-5) and rows == {"bernoulli": 7, "plackett_luce": 4}[name]

  # The mean of the loss over all pairs of trajectories, each with its probability.
  one, two = np.repeat(np.arange(rows), rows), np.tile(np.arange(rows), rows)
  both = np.stack([one, two], axis=1).reshape(-1)
  pairs = jax.tree.map(lambda x: x[both], batch)
  pairs["action_log_prob"] = jnp.zeros(pairs["action"].shape).at[:, :, 0].set(log_prob[both])
  chance = np.repeat(probability[one] * probability[two], 2)
  policy = _policy(rule, group_size=2, advantage="leave_one_out", step_average=False)
  prepared, weights = policy.prepare(params, pairs, rng.root(0), types.context(0))
  assert weights == {"policy": 2 * rows ** 2}
  prepared["token_weight"] = prepared["token_weight"] * chance[:, None]

  def loss(params):  # half of it: a pair has two rollouts, and the loss is their mean
    totals, aux = policy(params, prepared, types.context(0))
    return totals["policy"] / 2, aux

  found, aux = _jit(jax.grad(loss, has_aux=True))(params)
  assert aux.metrics["ratio"][0] == pytest.approx(float(aux.metrics["ratio"][1]), rel=1e-5)
  biggest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  assert biggest > 1e-3
  jax.tree.map(lambda x, y: np.testing.assert_allclose(-x, y, atol=2e-5 * max(biggest, 1)), found,
               expected)


def _policy(rule, **fields):
  return action_grpo.ActionGRPO(model=None, mask_id=MASK, temperature=0.0,
                                decoding=policy_lib.Decoding(rule=rule), **fields)


@pytest.mark.slow
def test_a_rollout_counts_as_the_mean_over_its_steps_as_published():
  rule, params, batch = _case("bernoulli")
  batch = jax.tree.map(lambda x: x[:4], batch)
  batch["action_log_prob"] = jnp.zeros(batch["action"].shape)
  batch["is_kept"] = jnp.array([True, True, False, False])
  prepared, weights = _policy(rule, group_size=2).prepare(params, batch, rng.root(0),
                                                         types.context(0))
  np.testing.assert_allclose(prepared["token_weight"].sum(axis=1), [1, 1, 0, 0])
  assert weights == {"policy": 2}
  assert not prepared["token_weight"][np.arange(LENGTH)[None] >= batch["nfe"][:, None]].any()


def test_groups_of_one_and_unknown_advantages_are_refused():
  with pytest.raises(ValueError, match="rollout.group_size must be at least 2"):
    _policy(None, group_size=1)
  with pytest.raises(ValueError, match="objective.advantage is 'best'; choose from mean"):
    _policy(None, advantage="best")
  names = {f.name for f in dataclasses.fields(action_grpo.ActionGRPO) if f.init}
  assert "kl" not in names and "step_average" in names
