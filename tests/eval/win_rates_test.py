"""Win rates of the best and worst of N from one pool, against all subsets."""

import itertools

import numpy as np
import pytest

from mdx.eval import win_rates
from mdx.rl import inference


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_win_rate_is_the_mean_over_all_pairs_of_subsets(size, worst):
  draw = np.random.default_rng(size)
  own, other = draw.integers(4, size=(2, 5)), draw.integers(4, size=(2, 4))  # with ties
  pick = min if worst else max
  for row, found in enumerate(win_rates.win_rate(own, other, size, worst=worst)):
    wins = [(a > b) + 0.5 * (a == b)
            for x in itertools.combinations(own[row], size) for a in [pick(x)]
            for y in itertools.combinations(other[row], size) for b in [pick(y)]]
    assert found == pytest.approx(np.mean(wins), abs=1e-12)


@pytest.mark.parametrize("procedure", inference.PROCEDURES)
def test_pools_of_a_density_have_the_win_rate_of_the_density(procedure):
  draw = np.random.default_rng(0)
  density = inference.tilted(np.exp(5 * inference.grid()), 0.5)
  own = draw.choice(inference.grid(), size=(400, 32), p=density / density.sum())
  found = win_rates.win_rate(own, draw.uniform(size=(400, 32)), 4, worst=procedure == "worst_of")
  expected = inference.win_rate(density, 4, procedure)
  assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)


def test_figures_are_means_of_every_size_and_equal_pools_draw():
  pool = np.random.default_rng(1).normal(size=(3, 6))
  found = win_rates.figures(pool, pool, (1, 2))
  assert set(found) == {"win_rate", "best_of_2", "worst_of_2"}
  np.testing.assert_allclose(list(found.values()), 0.5)
  assert win_rates.figures(pool + 9, pool, (2,))["worst_of_2"] == pytest.approx(1)


@pytest.mark.parametrize("size", [0, 9])
def test_sizes_that_a_pool_does_not_have_are_refused(size):
  with pytest.raises(ValueError, match=f"N = {size}, of pools of 8 answers; choose N from 1 to 8"):
    win_rates.check(8, (1, size), "config.eval.win_sizes")
