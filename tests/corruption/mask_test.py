"""Selection: rates, counts, uniformity over subsets, never outside `allowed`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import mask as mask_lib
from mdx.corruption import unit as unit_lib
from mdx.utils import rng

import oracle
import tiny


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
  assert mask_lib.bernoulli(_keys(2), 1e-6, jnp.ones((2, 5), bool)).all()  # the uniforms are 0


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
  selected = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed, unit_lib.joined(shared)))
  tail = selected[:, 5:]
  assert (tail.all(axis=1) == tail.any(axis=1)).all()
  assert abs(oracle.z_score(tail[:, 0], 0.3)) < 4
  alone = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed))
  np.testing.assert_array_equal(selected[:, :6], alone[:, :6])
  nothing = unit_lib.joined(jnp.zeros((4000, 9), bool))
  none = np.asarray(mask_lib.bernoulli(_keys(4000), 0.3, allowed, nothing))
  np.testing.assert_array_equal(none, alone)


# Units of 1, 3, 2, 1, 1 and 4 places; the last is not allowed.
_UNITS = np.array([0, 1, 1, 1, 4, 4, 6, 7, 8, 8, 8, 8])
_ALLOWED = np.arange(12) < 8


def _by_units(selected):
  """Checks that no unit is split; which of the five allowed units are selected, bool [B, 5]."""
  selected = np.asarray(selected)
  np.testing.assert_array_equal(selected, selected[:, _UNITS] & _ALLOWED)
  return selected[:, [0, 1, 4, 6, 7]]


def _tiled(num_rows):
  return jnp.tile(_ALLOWED, (num_rows, 1)), jnp.tile(jnp.asarray(_UNITS, jnp.int32), (num_rows, 1))


def test_an_exact_count_of_units_is_uniform_over_their_subsets_whatever_their_sizes():
  found = _by_units(mask_lib.exact_count(_keys(20000), jnp.full(20000, 2), *_tiled(20000)))
  code = found @ (2 ** np.arange(5))
  counts = [(code == 2 ** i + 2 ** j).sum() for i, j in itertools.combinations(range(5), 2)]
  assert sum(counts) == 20000
  assert oracle.chi_square(np.array(counts), np.ones(10)) > 1e-4


def test_bernoulli_selects_units_independently():
  found = _by_units(mask_lib.bernoulli(_keys(20000), 0.3, *_tiled(20000)))
  counts = np.bincount(found @ (2 ** np.arange(5)), minlength=32)
  size = np.array([bin(code).count("1") for code in range(32)])
  assert oracle.chi_square(counts, 0.3 ** size * 0.7 ** (5 - size)) > 1e-4


@pytest.mark.parametrize("select,value", [("bernoulli", 0.3), ("exact_count", jnp.full(5000, 2))])
def test_nth_selections_are_disjoint_and_alike(select, value):
  allowed, units = _tiled(5000)
  parts = [_by_units(getattr(mask_lib, select)(_keys(5000), value, allowed, units, nth))
           for nth in range(3)]
  assert (sum(part.astype(int) for part in parts) <= 1).all()
  counts = [part.sum() for part in parts]
  if select == "exact_count":  # of five units, one is left for the third selection
    assert counts == [10000, 10000, 5000]
  else:
    assert len(counts) and all(abs(count / 25000 - 0.3) < 0.012 for count in counts)
  assert len(parts) and all(oracle.chi_square(part.sum(axis=0), np.ones(5)) > 1e-4 for part in parts)


def _spans(keys, count, allowed, units, probs):
  return jax.jit(lambda *args: mask_lib.spans(*args, probs))(keys, count, allowed, units)


def _span_lengths(selected, begins):
  """Lengths of all spans of rows of places."""
  selected, begins = np.asarray(selected), np.asarray(begins)
  assert begins[~selected].all()
  end = ((0, 0), (0, 1))
  first = np.flatnonzero(np.pad(begins, end, constant_values=True))
  return np.diff(first)[np.pad(selected, end).ravel()[first[:-1]]]


def _expected_lengths(probs, count):
  """Expected number of spans of every length, when draws stop at `count` and the last is cut."""
  reached = np.zeros(count)  # probability that a span begins after so many places
  reached[0] = 1
  expected = np.zeros(len(probs) + 1)
  for begin in range(count):
    for length, prob in enumerate(probs, 1):
      expected[min(length, count - begin)] += reached[begin] * prob
      if begin + length < count:
        reached[begin + length] += reached[begin] * prob
  return expected[1:]


@pytest.mark.parametrize("longest,count", [(10, 20), (3, 5)])
def test_span_lengths_are_geometric_and_the_last_is_cut_to_the_exact_count(longest, count):
  probs, num_rows = mask_lib.geometric(0.2, longest), 3000
  allowed = jnp.ones((num_rows, 48), bool).at[:, 40:].set(False)
  selected, begins = _spans(_keys(num_rows), jnp.full(num_rows, count), allowed, None,
                                    probs)
  assert (np.asarray(selected).sum(axis=1) == count).all() and not (selected & ~allowed).any()
  found = np.bincount(_span_lengths(selected, begins), minlength=longest + 1)[1:]
  expected = _expected_lengths(probs, count)
  assert len(found) == longest and (found[expected == 0] == 0).all()
  np.testing.assert_allclose(found.sum(), num_rows * expected.sum(), rtol=0.02)
  assert oracle.chi_square(found[expected > 0], expected[expected > 0]) > 1e-4


def test_the_geometric_law_is_that_of_spanbert():
  probs = mask_lib.geometric(0.2, 10)
  np.testing.assert_allclose(probs[1:] / probs[:-1], 0.8)
  np.testing.assert_allclose(probs.sum(), 1)
  assert round(float((probs * np.arange(1, 11)).sum()), 1) == 3.8  # the paper's mean


@pytest.mark.parametrize("num_units, count, longest", tiny.first([
    (40, 20, 10), (40, 5, 3), (60, 9, 10), (32, 10, 6)], 1))
def test_every_position_is_equally_likely_in_a_span(num_units, count, longest):
  num_rows = 8000
  allowed = (jnp.arange(64) >= 1) & (jnp.arange(64) <= num_units)  # behind a special token
  selected, begins = _spans(_keys(num_rows), jnp.full(num_rows, count),
                            jnp.broadcast_to(allowed, (num_rows, 64)), None,
                            mask_lib.geometric(0.2, longest))
  rate = np.asarray(selected)[:, 1:num_units + 1].mean(axis=0)
  share = count / num_units
  error = np.sqrt(share * (1 - share) / num_rows)
  # Exactly so if the count divides the units; else the last gap is cut.
  slack = 0 if num_units % count == 0 else 0.03 * share
  assert np.abs(rate - share).max() < 4.2 * error + slack
  first, last = rate[[0, -1]] / share  # half of it, if arrangements were equally likely
  assert min(first, last) > 0.9
  # Spans begin anywhere: not on a grid.
  starts = np.asarray(selected & begins)[:, 1:num_units + 1].mean(axis=0)
  assert np.ptp(starts[longest:-longest]) < 0.25 * starts.mean()


def test_spans_and_gaps_come_in_all_orders():
  num_rows = 20000
  selected, begins = _spans(_keys(num_rows), jnp.full(num_rows, 4), jnp.ones((num_rows, 8), bool),
                            None, np.array([0.0, 1.0]))
  # Two spans of two and two gaps of two: 4 over 2 orders, also where spans touch.
  starts = np.asarray(selected & begins) @ (2 ** np.arange(8))
  found = np.unique(starts, return_counts=True)[1]
  assert len(found) == 6 and oracle.chi_square(found, np.ones(6)) > 1e-4


def test_spans_are_of_whole_units_and_rows_with_few_units_are_selected_whole():
  allowed, units = _tiled(4000)
  count = jnp.arange(4000) % 7
  selected, begins = _spans(_keys(4000), count, allowed, units,
                                    mask_lib.geometric(0.5, 3))
  np.testing.assert_array_equal(_by_units(selected).sum(axis=1), np.minimum(count, 5))
  inner = np.asarray(selected) & (_UNITS != np.arange(12))
  assert not np.asarray(begins)[inner].any()  # a span begins with a unit


def test_a_rows_spans_do_not_depend_on_the_rest_of_the_batch():
  probs, allowed = mask_lib.geometric(0.2, 5), jnp.ones((12, 30), bool)
  whole = _spans(_keys(12), jnp.full(12, 9), allowed, None, probs)
  part = _spans(_keys(12)[4:7], jnp.full(3, 9), allowed[4:7], None, probs)
  for one, other in zip(whole, part):
    np.testing.assert_array_equal(one[4:7], other)
