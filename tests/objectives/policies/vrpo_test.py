"""Preference learning on rollouts: pairs, bounds and the loss at the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives.policies import vrpo
from mdx.train import step as step_lib
from mdx.utils import rng

import enumerated_answers
from enumerated_answers import MASKS
import rollouts
from rollouts import ANSWER, GROUP, OTHER, PARAMS, PROMPT

REWARD = jnp.asarray([0.0, 1.0, 0.5, 0.0] + [1.0] * 4 + [0.3, 0.2, 0.1, 0.4])


def _prepared(policy, key=0):
  batch = rollouts.rollout(num_prompts=3) | {"reward": REWARD}
  prepared, weights = rollouts.prepared(policy, batch, rng.root(key))
  return batch, prepared, weights


def test_pairs_are_the_best_and_the_worst_of_groups_that_differ():
  batch, prepared, weights = _prepared(rollouts.policy(vrpo.VRPO))
  rows = [1, 0, 4, 4, 11, 10]  # the first of equals
  np.testing.assert_array_equal(prepared["targets"], np.asarray(batch["tokens"])[rows, PROMPT:])
  np.testing.assert_array_equal(prepared["is_live"], [True, True, False, False, True, True])
  assert weights == {"policy": 2.0}


def test_draws_have_the_bound_as_their_mean_over_all_masks():
  policy = rollouts.policy(vrpo.VRPO, num_draws=ANSWER)
  index = jnp.arange(4000)
  hidden, mix = policy.canvases(rng.root(0), index, jnp.ones((len(index), ANSWER), bool))
  hidden, mix = np.asarray(hidden), np.asarray(mix)
  # As many draws as tokens: every count comes once, so only the masks of a count are random.
  np.testing.assert_array_equal(hidden.sum(axis=2), np.tile([1, 2, 3, 4], (len(index), 1)))
  row = np.array([1, 2, 3, 4, 0, 5, 5])
  table = np.asarray(enumerated_answers.table(PARAMS, row), np.float64)
  total = 0.0
  for draw in range(ANSWER):
    law = enumerated_answers.uniform_counts(MASKS, [draw + 1])
    factor = np.unique(mix[:, draw][hidden[:, draw]])
    np.testing.assert_allclose(factor, 1 / (draw + 1), rtol=1e-6)  # L / k of L draws
    assert np.abs(hidden[:, draw].mean(axis=0) - (draw + 1) / ANSWER).max() < 0.05
    total += factor[0] * law @ table.sum(axis=1)
  np.testing.assert_allclose(total, enumerated_answers.order_bound(table), rtol=1e-5)
  # Fewer draws are spread over the counts, each row from a point of its own.
  few = rollouts.policy(vrpo.VRPO, num_draws=2)
  count = np.asarray(few.canvases(rng.root(0), index, jnp.ones((len(index), ANSWER), bool))[0]
                     ).sum(axis=2)
  assert np.all(count[:, 0] <= 2) and np.all(count[:, 1] > 2)
  assert np.abs(np.bincount(count.reshape(-1), minlength=5)[1:] / count.size - 0.25).max() < 0.02


def test_at_the_reference_the_loss_is_log_two_and_its_gradient_half_of_betas():
  policy = rollouts.policy(vrpo.VRPO, beta=0.3)
  _, prepared, weights = _prepared(policy)
  fn = jax.jit(jax.value_and_grad(
      lambda p, b, r: policy(p, b, rollouts.context(r))[0]["policy"]))
  loss, grad = fn(PARAMS, prepared, PARAMS)
  np.testing.assert_allclose(loss / weights["policy"], np.log(2), rtol=1e-6)
  sign = np.array([1, -1, 0, 0, 1, -1], np.float32)
  expected = jax.jit(jax.grad(lambda p: -0.15 * (sign * policy.log_prob(p, prepared)[:, 0]).sum()))(
      PARAMS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grad, expected)
  # Away from it, of scores by hand.
  scores = [np.asarray(rollouts.log_prob(policy, p, prepared))[:, 0] for p in (OTHER, PARAMS)]
  score = scores[0] - scores[1]
  margin = 0.3 * np.array([score[0] - score[1], score[4] - score[5]])
  np.testing.assert_allclose(fn(OTHER, prepared, PARAMS)[0], np.log1p(np.exp(-margin)).sum(),
                             rtol=1e-4)
  assert policy.reads_reference and np.abs(margin).min() > 1e-2


@pytest.mark.slow
def test_microbatches_keep_pairs_together():
  policy = rollouts.policy(vrpo.VRPO)
  _, prepared, weights = _prepared(policy)
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(
      policy, p, b, weights, rollouts.context(OTHER), n)[::2])(PARAMS, prepared) for n in (1, 3)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)


@pytest.mark.parametrize("fields, message", [
    ({"beta": 0.0}, "beta must be positive"), ({"beta": float("nan")}, "beta must be positive"),
    ({"num_draws": 0}, "num_draws must be at least 1"),
    ({"group_size": 1}, "group_size must be at least 2")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    vrpo.VRPO(model=rollouts.MODEL, mask_id=rollouts.MASK_ID, **({"group_size": GROUP} | fields))
