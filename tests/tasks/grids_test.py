"""Sudoku grids: the solver against brute force, the count of grids, symmetries."""

import itertools

import numpy as np
import pytest

from mdx.tasks import grids


@pytest.fixture(name="minimal", scope="module")
def _minimal():
  """Ten grids and sets of about 24 givens, none of which can be spared."""
  rng = np.random.default_rng(2)
  return grids.Images(rng, (20, 22)).draw(rng, 10)


def _obey_the_rules(cells, size):
  """Which rows of cells [N, size^2] repeat no digit; by the rules, and in no way by `grids`."""
  box, fine = int(size**0.5), np.ones(len(cells), bool)
  for i, j in itertools.combinations(range(size * size), 2):
    (r, c), (s, d) = divmod(i, size), divmod(j, size)
    if r == s or c == d or (r // box == s // box and c // box == d // box):
      fine &= cells[:, i] != cells[:, j]
  return fine


def _rows_in_all_ways():
  """All 4x4 arrays of permuted rows, [24^4, 16]."""
  rows = np.array(list(itertools.permutations(range(1, 5))))
  index = np.array(list(itertools.product(range(24), repeat=4)))
  return rows[index].reshape(-1, 16)


@pytest.mark.slow
def test_there_are_288_grids_of_size_4_by_solver_and_by_brute_force():
  assert len(grids.all_grids()) == 288
  cells = _rows_in_all_ways()
  bits = 1 << cells.reshape(-1, 4, 4)
  columns = (np.bitwise_or.reduce(bits, axis=1) == 30).all(1)
  boxes = bits.reshape(-1, 2, 2, 2, 2).swapaxes(2, 3).reshape(-1, 4, 4)
  valid = cells[columns & (np.bitwise_or.reduce(boxes, axis=2) == 30).all(1)]
  assert {tuple(g) for g in grids.all_grids()} == {tuple(g) for g in valid}


def test_solver_and_count_agree_with_trying_every_filling():
  rng = np.random.default_rng(0)
  is_given = grids.random_givens(rng, 12, 16, 8, 10)
  puzzles = np.where(is_given, grids.all_grids()[rng.integers(288, size=12)], 0)
  puzzles[0, np.flatnonzero(puzzles[0])[:2]] = 1, 1  # most likely no solution
  counts = grids.count_completions(puzzles)
  assert set(counts) >= {0, 1, 2}
  for puzzle, count in zip(puzzles, counts):
    empty = np.flatnonzero(puzzle == 0)
    digits = np.array(list(itertools.product(range(1, 5), repeat=len(empty))))
    filled = np.tile(puzzle, (len(digits), 1))
    filled[:, empty] = digits
    expected = set(map(tuple, filled[_obey_the_rules(filled, 4)].tolist()))
    found = grids.solve(puzzle, 4, limit=100)
    assert set(found) == expected and len(found) == count == len(expected)


def test_solver_stops_at_the_limit_and_leaves_the_puzzle_alone():
  puzzle = [0] * 16
  assert len(grids.solve(puzzle, 4, limit=2)) == 2 and puzzle == [0] * 16


@pytest.mark.parametrize("cell", [1, 9, 10])
def test_a_puzzle_that_repeats_a_digit_in_a_row_column_or_box_has_no_solution(cell):
  puzzle = [0] * 81
  puzzle[0] = puzzle[cell] = 5
  assert grids.solve(puzzle, 9) == []


def test_each_9x9_image_is_a_grid_and_its_givens_determine_it():
  rng = np.random.default_rng(1)
  images = grids.Images(rng, (28, 34))
  drawn, is_given = images.draw(rng, 40)
  assert len({tuple(g) for g in drawn}) == 40
  assert 28 <= is_given.sum(1).min() and is_given.sum(1).max() <= 36
  assert _obey_the_rules(drawn, 9).all()
  for grid, given in zip(drawn.tolist(), is_given):
    assert grids.solve(np.where(given, grid, 0), 9) == [tuple(grid)]


@pytest.mark.slow
def test_removing_one_more_given_can_lose_uniqueness(minimal):
  """So the solver's limit of 2 does find second solutions of size 9."""
  drawn, is_given = minimal
  counts = []
  for cell in np.flatnonzero(is_given[0]):
    puzzle = np.where(is_given[0], drawn[0], 0)
    puzzle[cell] = 0
    counts.append(len(grids.solve(puzzle, 9)))
  assert set(counts) == {2}  # about 24 givens are left where no further one can be spared


@pytest.mark.slow
def test_solver_fills_forced_cells_before_it_guesses(monkeypatch, minimal):
  """About 90 choices a puzzle with its 57 empty cells; 620 by the fewest digits alone."""
  drawn, is_given = minimal
  choices, choose = [], grids._choose
  monkeypatch.setattr(grids, "_choose", lambda *a: choices.append(0) or choose(*a))
  for puzzle in np.where(is_given, drawn, 0):
    grids.solve(puzzle, 9)
  assert len(choices) < 2000


def test_units_are_the_rows_columns_and_boxes():
  table = grids.units(4)
  assert table[0].tolist() == [0, 1, 2, 3]
  assert table[4].tolist() == [0, 4, 8, 12]
  assert table[8].tolist() == [0, 1, 4, 5]
  assert np.array_equal(np.bincount(grids.units(9).ravel()), np.full(81, 3))
