"""Distributions over sets of positions against enumeration, and their draws against them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.samplers import actions

import driving

SCORES = np.array([0.7, -1.2, 0.3, 5.0, -0.4], np.float32)
IS_OPEN = np.array([True, True, False, False, True])  # the largest score is not one to choose
OPEN = np.flatnonzero(IS_OPEN)


def _all_actions(name):
  """Every action on the open positions, with its probability by the definition."""
  found, z = {}, SCORES.astype(float)
  if name == "bernoulli":
    for bits in itertools.product((0, 1), repeat=len(OPEN)):
      action = np.zeros(5, int)
      action[OPEN] = bits
      found[tuple(action)] = math.prod(
          1 / (1 + math.exp(-z[i] if b else z[i])) for i, b in zip(OPEN, bits))
    return found
  for size in range(1, len(OPEN) + 1):
    for order in itertools.permutations(OPEN, size):
      action, left, probability = np.zeros(5, int), set(OPEN), 1.0
      for rank, i in enumerate(order):
        action[i] = rank + 1
        total = sum(math.exp(z[j]) for j in left) + (rank > 0)  # the stop has the score 0
        probability *= math.exp(z[i]) / total
        left -= {i}
      found[tuple(action)] = probability / (sum(math.exp(z[j]) for j in left) + 1)
  return found


@pytest.mark.parametrize("name", actions.ACTIONS)
def test_the_probabilities_are_those_of_the_definition_and_add_up_to_one(name):
  expected = _all_actions(name)
  assert sum(expected.values()) == pytest.approx(1) and len(expected) == {
      "bernoulli": 8, "plackett_luce": 3 + 6 + 6}[name]
  found = actions.ACTIONS[name].log_prob(
      jnp.broadcast_to(SCORES, (len(expected), 5)), jnp.array(list(expected)),
      jnp.broadcast_to(IS_OPEN, (len(expected), 5)))
  assert not np.asarray(found)[:, ~IS_OPEN].any()
  np.testing.assert_allclose(np.exp(found.sum(axis=-1)), list(expected.values()), rtol=2e-5)


@pytest.mark.parametrize("name", actions.ACTIONS)
def test_draws_have_these_probabilities_and_do_not_depend_on_the_other_rows(name):
  number, expected = 20000, _all_actions(name)
  draw = jax.jit(actions.ACTIONS[name].draw)
  rows = lambda x: jnp.broadcast_to(x, (number, 5))
  keys, positions = driving.keys(number), rows(np.arange(5))
  drawn = np.asarray(draw(keys, positions, rows(SCORES), rows(IS_OPEN)))
  counts = {key: int((drawn == key).all(axis=1).sum()) for key in expected}
  assert sum(counts.values()) == number
  for key, probability in expected.items():
    error = math.sqrt(number * probability * (1 - probability))
    assert abs(counts[key] - number * probability) < 4.5 * error + 1, key
  some = np.asarray(draw(keys[7:9], positions[7:9], rows(SCORES)[7:9], rows(IS_OPEN)[7:9]))
  np.testing.assert_array_equal(some, drawn[7:9])


@pytest.mark.parametrize("name", actions.ACTIONS)
@pytest.mark.slow
def test_rows_without_open_positions_have_no_action_and_a_finite_gradient(name):
  family, none = actions.ACTIONS[name], jnp.zeros((2, 5), bool)
  scores = jnp.broadcast_to(SCORES, (2, 5))
  assert not family.draw(driving.keys(2), jnp.zeros((2, 5), jnp.int32), scores, none).any()
  value, gradient = jax.value_and_grad(
      lambda z: family.log_prob(z, jnp.zeros((2, 5), jnp.int32), none).sum())(scores)
  assert value == 0 and not np.asarray(gradient).any()


def test_an_order_is_kept_by_plackett_luce_alone():
  is_chosen, rank = np.array([[True, False, True]]), np.array([[1, 2, 0]])
  order = {k: v.from_order(is_chosen, rank).tolist() for k, v in actions.ACTIONS.items()}
  assert order == {"bernoulli": [[1, 0, 1]], "plackett_luce": [[2, 0, 1]]}
