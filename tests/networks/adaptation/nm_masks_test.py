"""Learned N:M masks: their patterns, prior, schedules, reward and hardened kernels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import transformer
from mdx.networks.adaptation import nm_masks
from mdx.networks.adaptation import pruning

KERNEL = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
LOGITS = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)


def _own(progress, logits=LOGITS):
  return dict(mask_logits=jnp.asarray(logits), mask_progress=jnp.float32(progress))


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (2, 3)])
def test_a_group_keeps_n_of_m_consecutive_inputs(n, m):
  patterns = nm_masks.candidates(n, m)
  assert patterns.shape == (math.comb(m, n), m) and len({tuple(row) for row in patterns}) == len(
      patterns)
  np.testing.assert_array_equal(patterns.sum(axis=1), n)
  np.testing.assert_allclose(patterns.mean(axis=0), n / m)
  kernel = np.random.default_rng(0).normal(size=(2 * m, 5))
  kept = np.asarray(pruning.magnitude(kernel, n, m))
  for group in range(2):
    for column in range(5):
      part = slice(group * m, group * m + m)
      size = np.abs(kernel[part, column])
      np.testing.assert_array_equal(kept[part, column], size >= np.sort(size)[-n])


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4)])
def test_a_strong_prior_is_the_mask_of_the_largest_weights(n, m):
  one = nm_masks.NMMask(n=n, m=m, strength=100.0)
  shape = one.leaves(KERNEL.shape, (None, None))["mask_logits"].shape
  logits = 0.01 * np.random.default_rng(2).normal(size=shape).astype(np.float32)
  own, same = one.started(_own(0, logits), KERNEL)
  np.testing.assert_array_equal(same, KERNEL)
  kept = np.asarray(pruning.magnitude(KERNEL, n, m))
  np.testing.assert_array_equal(one.merged(own, KERNEL), KERNEL * kept)
  # Overlap with the prior, centred, times the strength and the spread of the scores.
  raised = (np.asarray(own["mask_logits"]) - logits) / (100 * logits.std())
  assert raised.max() == pytest.approx(n - n * n / m, rel=1e-3)
  np.testing.assert_allclose(raised.mean(axis=1), 0, atol=1e-3)


@pytest.mark.parametrize("progress, hard", [(0.0, False), (0.5, False), (0.5, True)])
def test_a_drawn_mask_is_the_softmax_of_scores_and_noise_under_the_schedules(progress, hard):
  one = nm_masks.NMMask(hard=hard, temperature=(4.0, 2.0), kappa=(1.0, 3.0))
  key = jax.random.key(3)
  noise = np.asarray(jax.random.gumbel(jax.random.key(3), LOGITS.shape), np.float64)
  drawn = (1 + 2 * progress) * LOGITS + noise
  weight = np.exp(drawn / (4 - 2 * progress))
  weight /= weight.sum(axis=1, keepdims=True)
  if hard:
    weight = (drawn == drawn.max(axis=1, keepdims=True)).astype(float)
  mask = np.einsum("gco,ci->gio", weight, nm_masks.candidates(2, 4)).reshape(8, 3)
  np.testing.assert_allclose(one.kernel(_own(progress), KERNEL, key), KERNEL * mask, rtol=1e-4,
                             atol=1e-6)
  slope = jax.grad(lambda logits: one.kernel(_own(progress, logits), KERNEL,
                                             jax.random.key(3)).sum())(LOGITS)
  assert np.abs(slope).max(axis=1).min() > 1e-4  # of every group, also where it is hard


@pytest.mark.slow
def test_the_reward_is_the_expected_square_of_what_is_kept_and_fades():
  one = nm_masks.NMMask(reward=0.1, kappa=(2.0, 2.0))
  chance = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum(axis=1, keepdims=True)
  kept = np.einsum("gco,ci->gio", chance, nm_masks.candidates(2, 4)).reshape(8, 3)
  for progress in (0.0, 0.75):
    own = jax.tree.map(lambda x: x[None], _own(progress))
    want = -0.1 * (1 - progress) * (KERNEL ** 2 * kept).sum()
    np.testing.assert_allclose(one.penalty(own, KERNEL[None]), [want], rtol=1e-5)
  # Its gradient raises patterns with larger weights.
  slope = jax.grad(lambda logits: one.penalty(
      jax.tree.map(lambda x: x[None], _own(0.0, logits)), KERNEL[None])[0])(np.zeros_like(LOGITS))
  sizes = np.einsum("gio,ci->gco", (KERNEL ** 2).reshape(2, 4, 3), nm_masks.candidates(2, 4))
  np.testing.assert_array_equal(slope.argmin(axis=1), sizes.argmax(axis=1))


def test_an_update_says_what_share_of_the_run_is_done():
  one = nm_masks.NMMask(steps=8)
  owned = {"a": dict(mask_logits=jnp.zeros((2, 1, 6, 1)), mask_progress=jnp.zeros(2))}
  found = one.stepped(owned, {}, jnp.int32(3))
  np.testing.assert_allclose(found["a"]["mask_progress"], [0.5, 0.5])
  assert found["a"].keys() == {"mask_progress"}


@pytest.mark.parametrize("make, message", [
    (lambda: nm_masks.NMMask(n=4, m=4), "keeps 4 of 4 weights; n is below m"),
    (lambda: nm_masks.NMMask(kappa=(1.0,)), "nm_mask.kappa is .*; expected two positive numbers"),
    (lambda: nm_masks.NMMask(prior="wanda", updates_weights=True), "updates_weights is of prior"),
    (lambda: nm_masks.NMMask(prior="random"), "nm_mask.prior is 'random'; choose from"),
    (lambda: transformer.Transformer(num_layers=1, width=6, num_heads=1, vocab_size=5, adaptations=(
        nm_masks.NMMask(),)), "nm_mask.m 4 does not divide the 6 inputs of q")])
def test_a_mask_that_cannot_be_is_one_line(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)
