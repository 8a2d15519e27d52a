"""Times: each example's t is uniform, a batch covers (0, 1], t is never 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mdx.corruption import time as time_lib
from mdx.utils import rng

_EVEN = ("stratified", "lattice")


def _times(name, key, index):
  return time_lib.TIMES[name](key, jnp.asarray(index, jnp.int32))


def _over_steps(name, index, num_steps):
  """t of a batch at many steps, [num_steps, B]."""
  step_key = lambda step: rng.stream(rng.stream(rng.root(3), "train", step), "time")
  return np.asarray(jax.jit(jax.vmap(lambda s: _times(name, step_key(s), index)))(
      jnp.arange(num_steps)))


@pytest.mark.parametrize("name", time_lib.TIMES)
def test_every_examples_time_is_uniform_over_steps(name):
  times = _over_steps(name, np.arange(24, 36), 4000)
  for row in range(times.shape[1]):
    assert stats.kstest(times[:, row], "uniform").pvalue > 1e-4, row


@pytest.mark.parametrize("name", _EVEN)
@pytest.mark.parametrize("first", [
    0, 8 * 77, 2 ** 31 - 24, 13, 126322560])  # the last times the stride of 24 rows is 2^31
@pytest.mark.parametrize("batch_size", [1, 8, 24])
def test_a_batch_has_one_time_in_each_stratum(name, first, batch_size):
  times = np.sort(_times(name, rng.root(1), first + np.arange(batch_size, dtype=np.int64)))
  assert np.all(times > 0) and np.all(times <= 1)
  if name == "stratified":
    np.testing.assert_array_equal(np.ceil(times * batch_size - 1e-5).astype(int),
                                  1 + np.arange(batch_size))
  else:
    np.testing.assert_allclose(np.diff(times), 1 / batch_size, atol=1e-6)


@pytest.mark.parametrize("name", _EVEN)
def test_consecutive_rows_cover_the_interval_almost_evenly(name):
  # A shard of 16 of 128 rows: no gap between neighbouring times above 2.7 of its own spacing.
  times = _over_steps(name, np.arange(128), 50).reshape(50, 8, 16)
  gaps = np.diff(np.sort(times, axis=-1), axis=-1)
  assert gaps.max() < 2.7 / 16


@pytest.mark.parametrize("name", time_lib.TIMES)
@pytest.mark.parametrize("batch_size", [1, 7, 512, 4096])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0 ** -23])
def test_time_is_positive_at_any_rounding(monkeypatch, name, batch_size, uniform):
  monkeypatch.setattr(jax.random, "uniform",
                      lambda key, shape=(), dtype=jnp.float32: jnp.full(shape, uniform, dtype))
  times = np.asarray(_times(name, rng.root(0), np.arange(batch_size)))
  assert times.min() > 0 and times.max() <= 1
  if name == "independent":
    assert (times == 1 - np.float32(uniform)).all()  # no other uniform was drawn


@pytest.mark.parametrize("center, spread, uniform", [(0.5, 0.15, 0.1), (1.0, 0.05, 0.3),
                                                     (0.1, 3.0, 0.01)])
def test_times_of_even_uniforms_have_the_density_of_the_bell(center, spread, uniform):
  bell = time_lib.Bell(center=center, spread=spread, uniform=uniform)
  draws = (np.arange(200_000) + 0.5) / 200_000
  times = np.asarray(jax.jit(bell.place)(jnp.asarray(draws, jnp.float32)), np.float64)
  low, high = (0 - center) / spread, (1 - center) / spread
  normal = stats.truncnorm(low, high, center, spread)
  law = lambda t: uniform * t + (1 - uniform) * normal.cdf(t)
  assert stats.kstest(times, law).statistic < 2e-5  # one uniform in each of 200,000 strata
  assert times.min() > 0 and times.max() <= 1
  grid = np.linspace(0.01, 1, 50)
  np.testing.assert_allclose(bell.density(jnp.asarray(grid, jnp.float32)),
                             uniform + (1 - uniform) * normal.pdf(grid), rtol=1e-4)
  np.testing.assert_allclose(bell.mean(lambda t: t), np.mean(times), atol=1e-4)


@pytest.mark.parametrize("uniform", [2.0 ** -24, 0.1, np.nextafter(np.float32(0.1), 1), 1.0])
def test_a_time_of_the_bell_is_positive_at_any_rounding(uniform):
  for center in (0.0, 0.5, 1.0):
    time = float(time_lib.Bell(center=center).place(jnp.float32(uniform)))
    assert 0 < time <= 1


def test_stratified_time_keeps_its_digits_near_zero():
  # Where the weight is 1 / t, t must not be a multiple of 2^-24.
  times = _over_steps("stratified", np.arange(512), 200)
  small = times[times < 1 / 512] * 2 ** 24
  assert len(small) == 200 and np.mean(small != np.round(small)) > 0.4


@pytest.mark.parametrize("name", time_lib.TIMES)
def test_a_row_keeps_its_time_where_the_batch_is_reordered(name):
  index = np.arange(32, 48)
  order = np.random.default_rng(0).permutation(16)
  np.testing.assert_array_equal(np.asarray(_times(name, rng.root(5), index))[order],
                                _times(name, rng.root(5), index[order]))


def test_independent_times_do_not_depend_on_the_rest_of_the_batch():
  times = np.asarray(_times("independent", rng.root(5), np.arange(16)))
  np.testing.assert_array_equal(times[3:7], _times("independent", rng.root(5), np.arange(3, 7)))
  assert len(np.unique(times)) == 16
