"""Advantages equal hand-computed vectors."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives.policies import advantage

# Four rollouts of six steps; computed apart from this code, in numpy.
REWARDS = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]],
                   np.float32)
CREDITS = [[.8, 1, 2, 1, 1, 1], [.4, 1.25, 0, -1, 0, 0], [0] * 6, [.4, .5, .6667, 1, 2, 1]]
ADVANTAGES = [[1.2244, .5636, 1.4141, .7833, .2611, .8659],
              [0, 1.0145, -.7070, -1.3054, -.7833, -.8659],
              [-1.2244, -1.2400, -.7070, -.2611, -.7833, -.8659],
              [0, -.3382, 0, .7833, 1.3054, .8659]]
LARGEST = [{2, 0, 5}, {3, 1, 5}, {1, 0, 5}, {4, 5, 3}]


def _advantage(reward, nfe=None, kind="improvement_and_tail"):
  reward = jnp.asarray(reward)[None]
  nfe = np.full(reward.shape[1], reward.shape[2]) if nfe is None else np.asarray(nfe)
  valid = jnp.asarray(np.arange(reward.shape[2]) < nfe[:, None])[None]
  return np.asarray(advantage.step_advantage(reward, valid, kind))[0]


def test_step_advantages_equal_the_vectors():
  found = _advantage(REWARDS)
  np.testing.assert_allclose(found, ADVANTAGES, atol=2e-4)
  for row, largest in zip(found, LARGEST):
    assert set(np.argsort(-np.abs(row), kind="stable")[:3]) == largest


@pytest.mark.parametrize("kind", advantage.STEP_ADVANTAGES)
def test_every_kind_is_the_z_score_of_its_credit(kind):
  reward, steps = REWARDS.astype(np.float64), REWARDS.shape[1]
  credit = np.zeros_like(reward)
  for k, row in enumerate(reward):
    for s in range(steps):
      gain = row[s] - (row[s - 1] if s else 0)
      later = row[s + 1:].mean() if s < steps - 1 else row[s]
      credit[k, s] = {"improvement_and_tail": gain + later, "tail": row[s:].mean(),
                      "improvement": gain, "reward": row[s], "final": row[-1]}[kind]
  if kind == "improvement_and_tail":
    np.testing.assert_allclose(credit, CREDITS, atol=1e-4)
  expected = (credit - credit.mean(axis=0)) / (credit.std(axis=0, ddof=1) + 1e-4)
  np.testing.assert_allclose(_advantage(REWARDS, kind=kind), expected, atol=1e-5)


@pytest.mark.slow
def test_steps_that_were_not_taken_count_for_nothing():
  short = REWARDS.copy()
  short[:, 4:] = 7.0  # whatever stands there
  np.testing.assert_allclose(_advantage(short, nfe=[4] * 4)[:, :4], _advantage(REWARDS[:, :4]),
                             atol=1e-6)
  assert np.all(_advantage(short, nfe=[4] * 4)[:, 4:] == 0)
  ragged = _advantage(REWARDS, nfe=[6, 4, 6, 4])
  assert np.all(ragged[[1, 3], 4:] == 0) and np.all(ragged[[0, 2], 4:] != 0)
  assert abs(ragged[:, 4:].sum()) < 1e-5


@pytest.mark.slow
def test_groups_without_variance_have_no_advantage():
  assert np.all(_advantage(np.ones((4, 3), np.float32)) == 0)


def test_group_advantages_and_contrast_weights_equal_the_vectors():
  reward = jnp.asarray([[1.0, 0.0, 0.0, 0.1]])
  centred = np.asarray(reward) - np.asarray(reward).mean()
  np.testing.assert_allclose(advantage.group_advantage(reward), centred, atol=1e-6)
  np.testing.assert_allclose(advantage.group_advantage(reward, "leave_one_out")[0, 0],
                             1 - 0.1 / 3, atol=1e-6)
  np.testing.assert_allclose(advantage.group_advantage(reward, "z_score"),
                             centred / (centred.std(ddof=1) + 1e-4), atol=1e-5)
  # w- - w+ is the coefficient of the log-likelihood in the loss of wd1.
  np.testing.assert_allclose(-advantage.contrast_weights(reward), [[-.3544, .1338, .1338, .0867]],
                             atol=1e-4)
  assert np.all(np.asarray(advantage.contrast_weights(jnp.ones((2, 3)))) == 0)
