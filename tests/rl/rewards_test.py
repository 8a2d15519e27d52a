"""Transforms of rewards against closed forms."""

import numpy as np

from mdx.rl import rewards

REWARD = np.array([[0.0, 1.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]], np.float32)
FACTS = rewards.Facts(np.array([[100, 80, 90, 5], [0, 81, 95, 100]]), 100)


def test_identity_changes_nothing():
  np.testing.assert_array_equal(rewards.transform(("identity",), REWARD, FACTS), REWARD)


def test_calibrated_rewards_are_ranks_among_the_group_or_a_baseline():
  found = rewards.transform(("calibrated",), REWARD, FACTS)
  np.testing.assert_allclose(found, [[1 / 8, 4 / 8, 4 / 8, 7 / 8], [0.5] * 4])
  baseline = np.array([[0.5, 2.0], [2.0, 3.0]], np.float32)
  found = rewards.transform(("calibrated",), REWARD, FACTS._replace(baseline=baseline))
  np.testing.assert_allclose(found, [[0, 0.5, 0.5, 1], [0.25] * 4])


def test_the_length_penalty_grows_over_the_last_fifth():
  found = rewards.transform(("length_penalty",), np.zeros((2, 4), np.float32), FACTS)
  np.testing.assert_allclose(found, [[-1, 0, -0.5, 0], [0, -0.05, -0.75, -1]], atol=1e-6)


def test_transforms_are_applied_in_their_order():
  found = rewards.transform(("calibrated", "length_penalty"), REWARD, FACTS)
  np.testing.assert_allclose(found[0], [1 / 8 - 1, 0.5, 0, 7 / 8], atol=1e-6)
