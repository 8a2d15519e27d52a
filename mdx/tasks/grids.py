"""Sudoku grids: solving, counting, drawing.

Contents: units, solve, all_grids, complete_units, conflicts, count_completions, random_givens,
Images.

Convention: a grid or puzzle is a row of size * size cells, row by row; 0 is an empty cell. `size`
is a square number (4 or 9), its root is the side of a box.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

_NUM_BASES = 48  # 9x9 grids found by search; all others are images of these under symmetries


@functools.cache
def units(size: int) -> np.ndarray:
  """Cells of each row, then each column, then each box: int [3 * size, size]."""
  cell = np.arange(size * size).reshape(size, size)
  box = math.isqrt(size)
  boxes = cell.reshape(box, box, box, box).swapaxes(1, 2).reshape(size, size)
  table = np.concatenate([cell, cell.T, boxes])
  table.flags.writeable = False
  return table


@functools.cache
def _units_of(size: int) -> tuple[tuple[int, int, int], ...]:
  """The three units that each cell lies in."""
  table = units(size)
  return tuple(tuple(np.flatnonzero((table == c).any(1)).tolist()) for c in range(size * size))


def solve(puzzle: Sequence[int], size: int, limit: int = 2,
          rng: np.random.Generator | None = None) -> list[tuple[int, ...]]:
  """Returns up to `limit` completions of a puzzle.

  Depth-first; the next cell is the one with the fewest digits left. `free[u]` has bit d set if
  digit d is still missing in unit u, so the digits left for a cell are an AND of three integers.

  Args:
    puzzle: size * size cells, 0 empty.
    size: 4 or 9.
    limit: 2 tells whether the solution is unique.
    rng: if given, digits are tried in random order (one completion is then a random one, though
      not uniformly distributed).
  """
  where = _units_of(size)
  grid = [int(d) for d in puzzle]
  free = [(2 << size) - 2] * (3 * size)
  empty = []
  for cell, digit in enumerate(grid):
    if not digit:
      empty.append(cell)
    elif not _place(free, where[cell], 1 << digit):
      return []
  found: list[tuple[int, ...]] = []
  _search(grid, free, empty, where, limit, rng, found)
  return found


def _place(free: list[int], triple: tuple[int, int, int], bit: int) -> bool:
  """Takes a digit from three units; False if one of them has it already."""
  a, b, c = triple
  if not free[a] & free[b] & free[c] & bit:
    return False
  free[a] ^= bit
  free[b] ^= bit
  free[c] ^= bit
  return True


def _search(grid, free, empty, where, limit, rng, found) -> None:
  """One node of `solve`; leaves its arguments as they were, `found` apart."""
  if not empty:
    found.append(tuple(grid))
    return
  best, best_left = _choose(free, empty, where)
  cell = empty[best]
  empty[best] = empty[-1]
  empty.pop()
  digits = [d for d in range(1, best_left.bit_length()) if best_left >> d & 1]
  if rng is not None:
    rng.shuffle(digits)
  for digit in digits:
    _place(free, where[cell], 1 << digit)
    grid[cell] = digit
    _search(grid, free, empty, where, limit, rng, found)
    for unit in where[cell]:
      free[unit] ^= 1 << digit
    if len(found) >= limit:
      break
  grid[cell] = 0
  empty.append(cell)
  empty[best], empty[-1] = empty[-1], empty[best]


def _choose(free, empty, where) -> tuple[int, int]:
  """Index in `empty` of the cell to fill next, and the digits left for it.

  A cell with at most one digit left; else one that a unit needs for a digit that fits nowhere else
  in it; else one with the fewest digits left.
  """
  left = [free[a] & free[b] & free[c] for a, b, c in map(where.__getitem__, empty)]
  fewest = min(map(int.bit_count, left))
  if fewest > 1:
    once, twice = [0] * len(free), [0] * len(free)
    for cell, digits in zip(empty, left):
      for unit in where[cell]:
        twice[unit] |= once[unit] & digits
        once[unit] |= digits
    for i, cell in enumerate(empty):
      for unit in where[cell]:
        if forced := left[i] & ~twice[unit]:
          return i, forced & -forced
  best = next(i for i, digits in enumerate(left) if digits.bit_count() == fewest)
  return best, left[best]


@functools.cache
def all_grids() -> np.ndarray:
  """All 4x4 grids, uint8 [288, 16]."""
  grids = np.array(sorted(solve([0] * 16, 4, limit=1000)), np.uint8)
  grids.flags.writeable = False
  return grids


def complete_units(cells: np.ndarray, size: int) -> np.ndarray:
  """Which rows, columns and boxes have every digit: bool [N, 3 * size], cells [N, size^2]."""
  bits = np.left_shift(1, cells.astype(np.int32))[:, units(size)]
  return np.bitwise_or.reduce(bits, axis=2) == (2 << size) - 2


def conflicts(cells: np.ndarray, size: int) -> np.ndarray:
  """Cells whose digit stands a second time in their row, column or box: bool [size^2].

  Args:
    cells: int [size^2], 0 empty.
    size: 4 or 9.
  """
  table = units(size)
  digits = np.asarray(cells)[table]  # [3 * size, size]
  is_twice = (digits[:, :, None] == digits[:, None, :]).sum(axis=2) > 1
  found = np.zeros(size * size, bool)
  found[table[is_twice & (digits > 0)]] = True
  return found


def count_completions(puzzles: np.ndarray) -> np.ndarray:
  """Number of solutions of each 4x4 puzzle, int [N], puzzles uint8 [N, 16]."""
  def one_hot(cells):
    return (cells[:, :, None] == np.arange(1, 5)).reshape(len(cells), -1).astype(np.float32)
  agreeing = one_hot(puzzles) @ one_hot(all_grids()).T
  return (agreeing == (puzzles > 0).sum(1, keepdims=True)).sum(1)


def random_givens(rng: np.random.Generator, count: int, cells: int, low: int, high: int):
  """Random sets of given cells, bool [count, cells]; their sizes are uniform on low..high."""
  sizes = rng.integers(low, high + 1, (count, 1))
  return rng.permuted(np.tile(np.arange(cells), (count, 1)), axis=1) < sizes


class Images:
  """Full 9x9 grids, and sets of their cells, from a few found by search.

  A draw takes one of `_NUM_BASES` grids through a random symmetry (digits renamed; bands and
  stacks, rows in a band and columns in a stack exchanged; transposed). A set of given cells that
  has one solution keeps this property.

  Args:
    rng: source of the bases.
    givens: None, or (low, high): each base gets a set of cells, about this many (uniform on
      low..high), that determines it.
  """

  def __init__(self, rng: np.random.Generator, givens: tuple[int, int] | None):
    self._grids = np.array([_random_grid(rng) for _ in range(_NUM_BASES)], np.uint8)
    self._givens = np.ones(self._grids.shape, bool)
    if givens:
      self._givens = np.array([_determining(rng, grid, rng.integers(givens[0], givens[1] + 1))
                               for grid in self._grids])

  def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns grids uint8 [count, 81] and the sets of cells, bool [count, 81]."""
    base = rng.integers(len(self._grids), size=(count, 1))
    cells = _lines(rng, count)[:, :, None] * 9 + _lines(rng, count)[:, None, :]
    flipped = rng.random(count) < 0.5
    cells[flipped] = cells[flipped].swapaxes(1, 2)
    cells = cells.reshape(count, 81)
    names = rng.permuted(np.tile(np.arange(1, 10, dtype=np.uint8), (count, 1)), axis=1)
    grids = np.take_along_axis(names, self._grids[base, cells] - 1, axis=1)
    return grids, self._givens[base, cells]


def _lines(rng: np.random.Generator, count: int) -> np.ndarray:
  """Random orders of nine lines that keep the three bands together, int [count, 9]."""
  bands = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
  within = rng.permuted(np.tile(np.arange(3), (count, 3, 1)), axis=2)
  return (bands[:, :, None] * 3 + within).reshape(count, 9)


def _random_grid(rng: np.random.Generator) -> tuple[int, ...]:
  """A full 9x9 grid: a random first row and a search in random order."""
  return solve([*rng.permutation(9) + 1, *[0] * 72], 9, limit=1, rng=rng)[0]


def _determining(rng: np.random.Generator, grid: np.ndarray, target: int) -> np.ndarray:
  """Takes cells away in random order while the solution stays unique, down to `target`."""
  puzzle = grid.copy()
  for cell in rng.permutation(81):
    if np.count_nonzero(puzzle) == target:
      break
    puzzle[cell] = 0
    if len(solve(puzzle, 9)) > 1:
      puzzle[cell] = grid[cell]
  return puzzle > 0
