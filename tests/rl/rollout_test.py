"""Rollouts: which examples an iteration has, and which groups are replaced."""

import jax.numpy as jnp
import numpy as np

from mdx.rl import rollout as rollout_lib


def test_an_iteration_has_whole_groups_and_every_example_once_an_epoch():
  produce = rollout_lib.Rollouts(None, None, list(range(10)), None, mesh=None, num_prompts=4,
                                 group_size=3, batch_size=12, epochs=1, seed=0, writers=None)
  rows = [produce.examples_of(None, i) for i in range(5)]
  for row in rows:
    assert row.shape == (12,) and np.all(row.reshape(4, 3) == row.reshape(4, 3)[:, :1])
  order = np.concatenate(rows)[::3]
  assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
  assert order[:10].tolist() != order[10:].tolist()


def _rolled(reward, first):
  """A decode whose rows are numbered from `first`; a reward of 1 is a right answer."""
  rows = np.arange(first, first + len(reward))
  return rollout_lib.Rolled({"tokens": jnp.asarray(rows[:, None])}, np.asarray(reward, np.float32),
                            None, rows, rows, np.asarray(reward) == 1)


def test_groups_without_variance_are_replaced_by_whole_groups_that_vary():
  produce = rollout_lib.Rollouts(None, None, list(range(10)), None, mesh=None, num_prompts=3,
                                 group_size=2, batch_size=6, epochs=1, seed=0, writers=None)
  kept, more = _rolled([1, 1, 0, 1, 0, 0], 0), _rolled([0, 0, 1, 0, 1, 1], 10)
  varies = produce._varies(kept)  # pylint: disable=protected-access
  np.testing.assert_array_equal(varies, [False, True, False])
  found = produce._refilled(kept, more, varies)  # pylint: disable=protected-access
  wanted = [12, 13, 2, 3, 4, 5]  # one group varies, of two that are wanted
  np.testing.assert_array_equal(found.batch["tokens"][:, 0], wanted)
  np.testing.assert_array_equal(found.length, wanted)
  np.testing.assert_array_equal(found.reward, [1, 0, 0, 1, 0, 0])
  assert found.best is None


def test_groups_outside_the_pass_rate_are_left_out_and_replaced():
  make = lambda pass_rate: rollout_lib.Rollouts(
      None, None, list(range(10)), None, mesh=None, num_prompts=3, group_size=4, batch_size=12,
      epochs=1, seed=0, writers=None, pass_rate=pass_rate)
  kept = _rolled([1, 1, 1, 0, 1, 0.5, 0, 0, 0.5, 0, 0, 0], 0)  # 3, 1 and none of 4 right
  for pass_rate, passes in (((), [1, 1, 1]), ((0.2, 0.8), [1, 1, 0]), ((0.25, 0.25), [0, 1, 0]),
                            ((0.0, 0.5), [0, 1, 1])):
    produce = make(pass_rate)
    np.testing.assert_array_equal(produce._passes(kept), np.array(passes, bool))  # pylint: disable=protected-access
    np.testing.assert_array_equal(produce._teaches(kept), np.array(passes, bool))  # pylint: disable=protected-access
