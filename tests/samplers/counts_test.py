"""Tokens committed by each step.

The vectors were computed in numpy from the formulas of Nie et al. 2025 (arXiv:2502.09992)
and Chang et al. 2022 (arXiv:2202.04200).
"""

import math

import numpy as np
import pytest

from mdx.samplers import counts

VECTORS = {
    "linear": [4] * 8, "cosine": [1, 2, 3, 4, 5, 5, 6, 6], "pow2": [1, 1, 3, 3, 5, 5, 7, 7],
    "pow0.5": [12, 4, 4, 3, 3, 2, 2, 2], "log": [13, 7, 3, 3, 2, 2, 1, 1],
    "exp": [2, 1, 1, 2, 3, 5, 7, 11]}


@pytest.mark.parametrize("schedule", VECTORS)
def test_32_tokens_in_8_steps(schedule):
  np.testing.assert_array_equal(counts.count_table(schedule, 32, 8)[32], VECTORS[schedule])


def test_the_even_split_gives_what_is_left_to_the_first_steps_and_linear_does_not():
  np.testing.assert_array_equal(counts.count_table("even", 10, 4)[10], [3, 3, 2, 2])
  np.testing.assert_array_equal(counts.count_table("linear", 10, 4)[10], [3, 2, 3, 2])


@pytest.mark.parametrize("steps", [1, 3, 8, 40])
@pytest.mark.parametrize("schedule", counts.SCHEDULES)
def test_rows_sum_to_the_number_of_tokens_and_their_zeros_are_at_the_end(schedule, steps):
  table = counts.count_table(schedule, 33, steps)
  assert table.shape == (34, steps) and table.min() == 0
  np.testing.assert_array_equal(table.sum(axis=1), np.arange(34))
  assert np.all((table[:, 1:] == 0) | (table[:, :-1] > 0))


def test_doubling_needs_the_logarithm_of_the_tokens_and_the_last_step_takes_the_rest():
  np.testing.assert_array_equal(counts.count_table("doubling", 16, 8)[16], [1, 2, 4, 8, 1, 0, 0, 0])
  np.testing.assert_array_equal(counts.count_table("doubling", 15, 4)[15], [1, 2, 4, 8])
  np.testing.assert_array_equal(counts.count_table("doubling", 32, 3)[32], [1, 2, 29])


def test_a_step_that_would_commit_nothing_is_skipped():
  left = [math.floor(512 * max(math.cos(math.pi / 2 * (s + 1) / 128), 1e-6)) for s in range(128)]
  committed = -np.diff([512] + left)
  assert (committed == 0).sum() == 6
  row = counts.count_table("cosine", 512, 128)[512]
  np.testing.assert_array_equal(row[:122], committed[committed > 0])
  assert row[122:].sum() == 0


def test_half_of_the_steps_leave_what_the_power_says():
  first = [counts.count_table(name, 64, 2)[64, 0] for name in ("pow0.5", "pow2", "pow3")]
  np.testing.assert_array_equal(first, [64 - math.floor(64 * (1 - 0.5 ** p)) for p in (0.5, 2, 3)])
