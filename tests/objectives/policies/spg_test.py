"""Sandwiched policy gradient: bounds, signs of advantages, canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives.policies import spg
from mdx.utils import rng

import oracle
import rollouts
from enumerated_answers import MASKS
from rollouts import ANSWER, EOS_ID, GROUP, MASK_ID, PARAMS, PROMPT


def test_bounds_equal_the_vector():
  log_prob = jnp.log(jnp.asarray([[[0.9, 0.2], [0.5, 0.6]]]))
  is_target, rate = jnp.ones((1, 2, 2), bool), jnp.asarray([[0.5, 0.75]])
  lower, upper = spg.elbo(log_prob, is_target), spg.eubo(log_prob, is_target, rate, 1.5)
  # Of a plain computation in float64 with powers of probabilities.
  np.testing.assert_allclose(lower, -0.7297, atol=5e-5)
  np.testing.assert_allclose(upper, -0.2775, atol=5e-5)
  np.testing.assert_allclose((lower + upper) / 2, -0.5036, atol=5e-5)


def _all_canvases(log_probs):
  """Every mask, repeated so that all counts 1 .. 4 weigh the same: (log_prob, is_target, rate)."""
  times = np.array([{0: 0, 1: 3, 2: 2, 3: 3, 4: 12}[m.sum()] for m in MASKS])
  masks = np.repeat(MASKS, times, axis=0)
  return (jnp.asarray(np.repeat(log_probs, times, axis=0))[None], jnp.asarray(masks)[None],
          jnp.asarray(masks.mean(axis=1))[None])


def test_over_all_canvases_of_a_joint_the_bounds_hold_its_likelihood_between_them():
  joint = oracle.random_joint()
  texts = joint.sequences[::7]
  for text in texts:
    law = joint.conditionals(np.where(MASKS, joint.mask_id, text))
    log_prob = np.log(np.take_along_axis(
        law, np.broadcast_to(text, MASKS.shape)[..., None], axis=2)[..., 0])
    log_prob, is_target, rate = _all_canvases(np.where(MASKS, log_prob, 0.0))
    exact = -joint.nll[joint.index(text[None])[0]] / ANSWER
    lower = spg.elbo(log_prob, is_target)[0]
    upper = [spg.eubo(log_prob, is_target, rate, b)[0] for b in (1.0, 1.5, 3.0)]
    np.testing.assert_allclose(lower, exact, rtol=1e-5)
    assert exact + 1e-3 < upper[0] < upper[1] < upper[2]
  # Where a token's probability is the same in every canvas, all are equal.
  same = np.where(MASKS, np.log([0.1, 0.2, 0.3, 0.4]), 0.0)
  log_prob, is_target, rate = _all_canvases(same)
  np.testing.assert_allclose(spg.eubo(log_prob, is_target, rate, 2.0), spg.elbo(
      log_prob, is_target), rtol=1e-5)


@pytest.mark.slow
def test_tokens_that_no_canvas_masks_are_left_out_and_small_probabilities_keep_their_gradient():
  log_prob = jnp.asarray([[[-200.0, 0.0, -1.0], [0.0, 0.0, -2.0]], [[0.0] * 3] * 2])
  is_target = jnp.asarray([[[True, False, True], [False, False, True]], [[False] * 3] * 2])
  rate = is_target.mean(axis=2)
  f = lambda x: spg.eubo(x, is_target, rate, 2.0)
  grad = jax.grad(lambda x: f(x).sum())(log_prob)
  third = 0.5 * np.log((np.exp(-2.0) / (2 / 3) + np.exp(-4.0) / (1 / 3)) / 2)
  first = 0.5 * (-400 - np.log(2 / 3) - np.log(2))  # e^-400 is 0 in float32
  np.testing.assert_allclose(f(log_prob), [(first + third) / 2, 0.0], rtol=1e-5)
  np.testing.assert_allclose(grad[0, :, 0], [0.5, 0.0])
  assert np.all(np.isfinite(grad)) and np.all(grad[1] == 0) and np.all(grad[0, :, 1] == 0)


def test_good_answers_take_the_lower_bound_and_bad_ones_the_mixture():
  batch = rollouts.rollout(num_prompts=3)
  batch["reward"] = jnp.asarray([1.0, 0.0, 0.0, 0.0] * 3)
  policy = rollouts.policy(spg.SPG, block_length=2, eubo_share=0.3, exponent=2.0)
  prepared, weights = rollouts.prepared(policy, batch, rng.root(0))
  log_prob = jax.jit(policy.canvas_log_prob)(PARAMS, prepared)
  is_target = prepared["mix"] > 0
  lower = spg.elbo(log_prob, is_target)
  upper = spg.eubo(log_prob, is_target, prepared["rate"], 2.0)
  advantage = np.tile([0.75, -0.25, -0.25, -0.25], 3)
  score = np.where(advantage > 0, lower, 0.3 * upper + 0.7 * lower)
  ends = np.asarray(batch["tokens"])[:, PROMPT:] == EOS_ID
  length = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ANSWER)
  assert weights == {"policy": length.sum()}
  totals, _ = rollouts.scored(policy, PARAMS, prepared)
  np.testing.assert_allclose(totals["policy"], -(advantage * score * length).sum(), rtol=1e-5)
  assert not policy.reads_reference


@pytest.mark.slow
def test_canvases_mask_part_of_a_block_all_later_tokens_and_little_of_what_is_before():
  batch = rollouts.rollout(num_prompts=100)
  tokens = np.array(batch["tokens"])
  tokens[:, PROMPT:] = [1, 2, 3, EOS_ID]
  tokens[::4, PROMPT:] = [1, EOS_ID, 3, 4]
  batch["tokens"] = jnp.asarray(tokens)
  for rate in (0.0, 0.4):
    policy = rollouts.policy(spg.SPG, block_length=2, given_mask_rate=rate)
    prepared, _ = rollouts.prepared(policy, batch, rng.root(0))
    noisy = np.asarray(prepared["noisy_tokens"])
    hidden, target = noisy == MASK_ID, np.asarray(prepared["mix"]) > 0
    assert np.all(noisy[~hidden] == np.broadcast_to(tokens[:, None], noisy.shape)[~hidden])
    answer, length = hidden[..., PROMPT:], np.where(np.arange(len(tokens)) % 4, 4, 2)
    np.testing.assert_allclose(prepared["rate"], target.sum(axis=2) / length[:, None])
    assert np.all(target == answer & (np.arange(ANSWER) < length[:, None, None]))
    assert np.all(answer[::4, :, 2:])  # after the end
    long = answer[np.arange(len(tokens)) % 4 > 0]
    is_second = ~long[:, :, 2:].all(axis=2) | (rate == 0) & ~long[:, :, :2].any(axis=2)
    if rate == 0:
      assert not hidden[..., :PROMPT].any()
      # Two canvases, two blocks: each is chosen once, and a first one masks the second whole.
      assert np.all(is_second.sum(axis=1) == 1)
      assert np.all(long[:, :, 2:][~is_second]) and np.all(long.any(axis=2))
      assert abs((long[:, :, 2:].sum(axis=2)[is_second] == 1).mean() - 0.5) < 0.1
      assert abs((long[:, :, :2].sum(axis=2)[~is_second] == 1).mean() - 0.5) < 0.1
    else:
      assert abs(hidden[..., :PROMPT].mean() - rate) < 0.05


@pytest.mark.parametrize("fields, message", [
    ({"exponent": 0.5}, "exponent must be at least 1"),
    ({"eubo_share": 1.5}, r"must lie in \[0, 1\]"),
    ({"num_canvases": 0}, "num_canvases must be at least 1"),
    ({"given_mask_rate": 1.0}, r"must lie in \[0, 1\)")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    rollouts.policy(spg.SPG, **fields)


@pytest.mark.slow
def test_there_is_a_loss_where_groups_differ_and_none_elsewhere():
  batch = rollouts.rollout(num_prompts=2)
  policy = rollouts.policy(spg.SPG)
  for reward, is_silent in ((batch["reward"].at[0].set(5.0), False), (jnp.ones(2 * GROUP), True)):
    grads = jax.tree.leaves(jax.grad(
        lambda p: rollouts.loss(policy, p, batch | {"reward": reward}))(PARAMS))
    assert (max(np.abs(g).max() for g in grads) == 0) == is_silent
