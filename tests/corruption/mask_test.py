"""Selection: rates, counts, uniformity over subsets, never outside `allowed`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import mask as mask_lib
from mdx.utils import rng

import oracle


def _keys(num_rows, seed=0):
  return rng.per_example(rng.root(seed), jnp.arange(num_rows))


def test_bernoulli_selects_at_its_rate_and_never_outside_allowed():
  allowed = jnp.arange(50)[None] < jnp.array([50, 20, 0, 37])[:, None]
  allowed = jnp.tile(allowed, (500, 1))
  selected = np.asarray(mask_lib.bernoulli(_keys(2000), 0.3, allowed))
  assert not selected[~np.asarray(allowed)].any()
  values = selected[np.asarray(allowed)]
  assert abs(oracle.z_score(values, 0.3)) < 4


def test_bernoulli_takes_a_rate_for_each_row_and_the_end_points_exactly():
  rate = jnp.array([0.0, 1.0, 0.5])[:, None]
  counts = np.asarray(mask_lib.bernoulli(_keys(3), rate, jnp.ones((3, 400), bool))).sum(axis=1)
  assert counts[0] == 0 and counts[1] == 400 and 140 < counts[2] < 260


def test_exact_count_selects_that_many_allowed_positions():
  rows = np.random.default_rng(0)
  allowed = rows.random((300, 17)) < rows.random((300, 1))
  count = rows.integers(0, 18, 300)
  selected = np.asarray(mask_lib.exact_count(_keys(300), jnp.asarray(count), jnp.asarray(allowed)))
  assert not (selected & ~allowed).any()
  np.testing.assert_array_equal(selected.sum(axis=1), np.minimum(count, allowed.sum(axis=1)))


def test_exact_count_is_uniform_over_subsets():
  allowed = jnp.tile(jnp.array([[True, True, False, True, True, True]]), (20000, 1))
  selected = np.asarray(mask_lib.exact_count(_keys(20000), jnp.full(20000, 2), allowed))
  code = selected @ (2 ** np.arange(6))
  subsets = [sum(2 ** i for i in pair) for pair in itertools.combinations((0, 1, 3, 4, 5), 2)]
  counts = np.array([(code == s).sum() for s in subsets])
  assert counts.sum() == 20000
  assert oracle.chi_square(counts, np.ones(len(subsets))) > 1e-4


def test_a_rate_of_zero_selects_nothing_even_where_the_uniform_is_zero(monkeypatch):
  monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.zeros(shape))
  assert not mask_lib.bernoulli(_keys(2), 0.0, jnp.ones((2, 5), bool)).any()


@pytest.mark.parametrize("select", ["bernoulli", "exact_count"])
def test_a_rows_mask_does_not_depend_on_the_rest_of_the_batch(select):
  allowed = jnp.ones((12, 30), bool)
  values = jnp.full((12, 1), 0.4) if select == "bernoulli" else jnp.full(12, 9)
  whole = np.asarray(getattr(mask_lib, select)(_keys(12), values, allowed))
  part = getattr(mask_lib, select)(_keys(12)[4:7], values[4:7], allowed[4:7])
  np.testing.assert_array_equal(whole[4:7], part)
  assert len(np.unique(whole, axis=0)) == 12


def test_allowed_positions_are_the_loss_mask_or_all():
  tokens = jnp.zeros((2, 3), jnp.int32)
  mask = jnp.array([[True, False, True], [False, False, False]])
  np.testing.assert_array_equal(mask_lib.allowed_positions({"tokens": tokens, "loss_mask": mask}),
                                mask)
  assert jax.device_get(mask_lib.allowed_positions({"tokens": tokens})).all()


def test_shared_positions_are_selected_together_at_the_rate_and_the_others_as_before():
  allowed, shared = jnp.ones((4000, 9), bool), jnp.broadcast_to(jnp.arange(9) >= 5, (4000, 9))
  selected = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed, shared))
  tail = selected[:, 5:]
  assert (tail.all(axis=1) == tail.any(axis=1)).all()
  assert abs(oracle.z_score(tail[:, 0], 0.3)) < 4
  alone = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed))
  np.testing.assert_array_equal(selected[:, :6], alone[:, :6])
  none = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed, jnp.zeros((4000, 9), bool)))
  np.testing.assert_array_equal(none, alone)
