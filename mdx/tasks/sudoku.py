r"""Sudoku, 4x4 and 9x9: draw or read puzzles, and check completions exactly.

Contents: Sudoku.

Convention: a prompt is the cells row by row with "." for an empty one, then "="; an answer is the
digits of the whole grid. With `in_place` there is no "=", and the answer takes the place of the
prompt, whose givens stay. Every character is one token. With an `instruction` a prompt is text for
a real model: the rules, the cells with "0" for an empty one, a newline, the instruction. The answer
of a completion is its last \boxed{} or <answer>, or else all of it; in a text with other characters
than cells, its last run of as many cells as the grid has. Blanks, newlines and lines drawn between
cells do not count.

Reference: the reward of `unique=True` and the cells as digits are those of d1, Zhao et al. 2025,
arXiv:2504.12216; the instruction behind a newline is that of He et al. 2025, arXiv:2508.13148. Only
288 grids exist for size 4, hence the split by grid.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.tasks import grids as grids_lib
from mdx.tasks import parsing
from mdx.tasks import problems
from mdx.utils import readers

_ROUND = 8192  # puzzles drawn at a time
_FEWEST = {4: 4, 9: 17}  # givens without which no puzzle has a single solution
_LINES = str.maketrans(dict.fromkeys("|,;&-+*`'\"[]()/\\\u2502\u2500\u253c", None))
_PROMPT = ("Solve this {size}x{size} Sudoku: every row, every column and every {box}x{box} box "
           "holds each of the digits 1 to {size} once. Its {cells} cells, row by row, 0 for an "
           "empty one: {puzzle}. The answer is the {cells} digits of the solved grid, row by row, "
           "without spaces.\n{instruction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sudoku:
  """Sudoku as a task.

  Attributes:
    size: 4 or 9.
    min_givens, max_givens: cells shown, uniform on this range. (For size 9 with `unique` about
      this many: cells are taken away only while the solution stays unique.)
    unique: False: any completion that keeps the givens and obeys the rules is right, and puzzles
      are divided among the splits. True: puzzles with one solution; solution grids are divided
      among the splits; the reward is the fraction of the empty cells that are right.
    partial_reward: for unique=False, instead of 0 or 1 the fraction of rows, columns and boxes
      that are complete times the fraction of givens kept.
    in_place: whether the empty cells are filled in where they are.
    instruction: sentence after the problem in words, such as `problems.INSTRUCTION`; "": symbols.
    num_train, num_validation, num_test: number of puzzles (at most, if they are read).
    seed: of the drawing.
    path: file of puzzles instead of drawing: `puzzle solution` or `puzzle` a line, with a space,
      tab or comma between (a header line is skipped), or .jsonl with fields puzzle and solution.
      Empty cells are "." or "0". A missing solution is searched for.
    test_path: file of the test split; "" takes it from `path`.
  """

  size: int = 4
  min_givens: int = 2
  max_givens: int = 4
  unique: bool = False
  partial_reward: bool = False
  in_place: bool = False
  instruction: str = ""
  num_train: int = 23000
  num_validation: int = 512
  num_test: int = 1024
  seed: int = 0
  path: str = ""
  test_path: str = ""

  def __post_init__(self):
    config_lib.check(self, "task", choices=dict(size=_FEWEST))
    problems.check_at_least(self, num_train=0, num_validation=0, num_test=0, seed=0,
                            min_givens=1, max_givens=self.min_givens)
    if self.max_givens >= self.cells:
      raise ValueError(f"max_givens must be below the {self.cells} cells, got {self.max_givens}.")
    if self.unique and not self.path and self.min_givens < _FEWEST[self.size]:
      raise ValueError(f"no {self.size}x{self.size} puzzle with fewer than {_FEWEST[self.size]} "
                       f"givens has a single solution; raise min_givens ({self.min_givens}).")
    if self.unique and self.partial_reward:
      raise ValueError("partial_reward is for unique=False; with unique=True the reward is the "
                       "fraction of right cells already. Leave it out.")
    if self.instruction and self.in_place:
      raise ValueError("a task with an instruction is answered in words, not in_place; leave one "
                       "of them out.")
    if self.path or self.test_path:
      problems.check_files(self, "...34.2.......4. solution")

  @property
  def cells(self) -> int:
    """Number of cells."""
    return self.size**2

  @property
  def symbols(self) -> tuple[str, ...]:
    """The vocabulary of prompts and answers."""
    self._need_symbols("symbols")
    return (".", *(str(d) for d in range(1, self.size + 1))) + ("=",) * (not self.in_place)

  @property
  def blank(self) -> str:
    """Symbol of a cell to fill in, or "" if the answer follows the prompt."""
    return "." if self.in_place else ""

  @property
  def prompt_length(self) -> int:
    """Tokens before an answer."""
    self._need_symbols("prompt_length")
    return 0 if self.in_place else self.cells + 1

  @property
  def answer_length(self) -> int:
    """Tokens of an answer."""
    self._need_symbols("answer_length")
    return self.cells

  @property
  def noun(self) -> str:
    """Name of the problems."""
    return f"{self.size}x{self.size} Sudokus"

  @property
  def rules(self) -> str:
    """Text of the problem."""
    box = math.isqrt(self.size)
    return (f"A grid is right if every row, column and {box}x{box} box has each of the digits 1 to "
            f"{self.size} once and the given cells are kept; a puzzle has "
            f"{'one solution' if self.unique else 'one solution or more'}.")

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> types.Drawing | None:
    """Returns the grid; wrong are cells in conflict and givens that were changed."""
    if self.instruction or len(tokens) != self.cells:
      return None
    text = "".join(token if token and len(token) == 1 else "." for token in tokens)
    cells, givens = self._digits([text, self._grid_in(example["prompt"].removesuffix("="))])
    is_wrong = grids_lib.conflicts(cells, self.size) | (
        (givens > 0) & (cells > 0) & (cells != givens))
    rows = np.arange(self.cells).reshape(self.size, self.size).tolist()
    return types.Drawing(tuple(map(tuple, rows)), is_wrong, math.isqrt(self.size))

  def _need_symbols(self, name: str) -> None:
    if self.instruction:
      raise ValueError(f"Sudoku has {name} without an instruction only; with one, use the "
                       "tokenizer of the model.")

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "key"}]; drawn or read once."""
    make = functools.partial(problems.read, self, self._read_file) if self.path else self._draw
    return problems.cached(self, split, make)

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text to complete."""
    return example["prompt"]

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, the grid that the puzzle was drawn from, as the instruction wants it)."""
    form = "{}"
    if self.instruction:
      form = "<answer>{}</answer>" if "<answer>" in self.instruction else "\\boxed{{{}}}"
    return [(e["prompt"], form.format(e["answer"])) for e in self.examples(split)]

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Scores completions, a whole batch at a time.

    A completion that is too short is filled up with wrong cells. One that is too long is never
    correct; for the reward of `unique` it is cut, otherwise it earns nothing.

    Returns:
      {"reward": float32 [N], "correct": bool [N]}.
    """
    problems.same_length(examples, completions)
    puzzles = self._digits([self._grid_in(e["prompt"]) for e in examples])
    completions = [self._grid_in(c) for c in completions]
    cells = self._digits(completions)
    fits = np.array([len(c) <= self.cells for c in completions], bool)
    is_given = puzzles > 0
    is_kept = (cells == puzzles) & is_given
    if self.unique:
      is_right = cells == self._digits([e["answer"] for e in examples])
      reward = (is_right & ~is_given).sum(1) / np.maximum((~is_given).sum(1), 1)
      return {"reward": reward.astype(np.float32), "correct": is_right.all(1) & fits}
    units = grids_lib.complete_units(cells, self.size)
    correct = units.all(1) & (is_kept == is_given).all(1) & fits
    if not self.partial_reward:
      return {"reward": correct.astype(np.float32), "correct": correct}
    kept_rate = is_kept.sum(1) / np.maximum(is_given.sum(1), 1)
    return {"reward": (units.mean(1) * kept_rate * fits).astype(np.float32), "correct": correct}

  def _grid_in(self, text: str) -> str:
    """The cells in a text: those of its answer, of its last whole run of cells, or all of it."""
    marked = parsing.last_marked(text) if "<" in text or "\\" in text else None
    text = text[-parsing.MAX_CHARS:] if marked is None else marked
    joined = "".join(text.replace("\\hline", "").split()).translate(_LINES)
    if marked is not None and len(joined) == self.cells + 1:
      joined = joined.removesuffix(".")
    if re.fullmatch("[.0-9]*", joined):
      return joined
    run = rf"(?<![.0-9])[.0-{self.size}]{{{self.cells}}}(?![0-9]|\.[.0-9])"
    return (re.findall(run, text) or re.findall(run, joined) or [joined])[-1]

  def _digits(self, texts: Sequence[str]) -> np.ndarray:
    """The first cells of each text as digits, uint8 [N, cells]; 0 for anything else."""
    n = self.cells
    joined = "".join([t[:n].ljust(n, ".") for t in texts])
    codes = np.frombuffer(joined.encode("ascii", "replace"), np.uint8).reshape(len(texts), n)
    is_digit = (codes > ord("0")) & (codes <= ord("0") + self.size)
    return np.where(is_digit, codes - ord("0"), 0).astype(np.uint8)

  def _example(self, puzzle: str, answer: str) -> dict[str, Any]:
    prompt = puzzle + "=" * (not self.in_place)
    if self.instruction:
      prompt = _PROMPT.format(size=self.size, box=math.isqrt(self.size), cells=self.cells,
                              puzzle=puzzle.replace(".", "0"), instruction=self.instruction)
    return {"prompt": prompt, "answer": answer,
            "key": answer if self.unique else puzzle}

  def _draw(self, split: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng([self.seed, problems.SPLITS.index(split)])
    given_range = (self.min_givens, self.max_givens)
    images = (grids_lib.Images(rng, given_range if self.unique else None) if self.size == 9
              else None)
    draws = problems.Draws(split, getattr(self, f"num_{split}"))
    while draws.missing():
      if images:
        grids, is_given = images.draw(rng, _ROUND)
      else:
        grids = grids_lib.all_grids()[rng.integers(288, size=_ROUND)]
      if not (images and self.unique):
        is_given = grids_lib.random_givens(rng, _ROUND, self.cells, *given_range)
      puzzles = np.where(is_given, grids, 0)
      if self.unique and not images:
        is_single = grids_lib.count_completions(puzzles) == 1
        grids, puzzles = grids[is_single], puzzles[is_single]
      for puzzle, answer in zip(_texts(puzzles), _texts(grids)):
        example = self._example(puzzle.replace("0", "."), answer)
        draws.offer(example["key"], puzzle, example)
    return list(draws.found.values())

  def _read_file(self, path: str) -> list[dict[str, Any]]:
    rows = _read_puzzles(path)
    wrong = [(where, p) for where, p, s in rows if len(p) != self.cells or
             not re.fullmatch(f"[.1-{self.size}]*", p) or s and len(s) != self.cells]
    if wrong:
      raise ValueError(f"{wrong[0][0]}: expected a puzzle of {self.cells} cells (digits to "
                       f"{self.size}, '.' or '0' if empty), got {wrong[0][1]!r:.100}; is size="
                       f"{self.size} right?")
    rows = [(where, p, s or self._solution(where, p)) for where, p, s in rows]
    puzzles, grids = self._digits([r[1] for r in rows]), self._digits([r[2] for r in rows])
    is_sound = (grids_lib.complete_units(grids, self.size).all(1) &
                ((puzzles == 0) | (puzzles == grids)).all(1) & (puzzles == 0).any(1))
    if self.unique and self.size == 4:
      is_sound &= grids_lib.count_completions(puzzles) == 1
    for (where, puzzle, solution), sound in zip(rows, is_sound):
      if not sound:
        raise ValueError(f"{where}: {solution} is not {'the only' if self.unique else 'a'} "
                         f"solution of {puzzle}, or no cell is empty; correct or remove the line.")
    return [self._example(puzzle, solution) for _, puzzle, solution in rows]

  def _solution(self, where: str, puzzle: str) -> str:
    cells = [0 if c == "." else int(c) for c in puzzle]
    found = grids_lib.solve(cells, self.size, limit=1 + self.unique)
    if not found or self.unique and len(found) > 1:
      raise ValueError(f"{where}: {puzzle} has {'several solutions' if found else 'no solution'}; "
                       f"remove the line{' or set unique=False' if found else ''}.")
    return "".join(map(str, found[0]))


def _texts(cells: np.ndarray) -> list[str]:
  """Rows of digits as strings."""
  joined = (cells + np.uint8(ord("0"))).astype(np.uint8).tobytes().decode()
  return [joined[i:i + cells.shape[1]] for i in range(0, len(joined), cells.shape[1])]


def _read_puzzles(path: str) -> list[tuple[str, str, str]]:
  """Returns (where it stands, puzzle with "." for empty cells, solution or "") of a file."""
  if ".jsonl" in path:
    rows = [(where, problems.field(where, row, "puzzle"),
             problems.field(where, row, "solution") if "solution" in row else "")
            for where, row in problems.read_rows(path)]
  else:
    rows = []
    for number, line in enumerate(readers.lines(readers.read_text(path)), 1):
      words = re.split(r"[\s,;]+", line.strip())
      is_header = number == 1 and not re.fullmatch(r"[.\d]+", words[0])
      if line.strip() and not is_header:
        rows.append((f"{path}, line {number}", words[0], words[1] if len(words) > 1 else ""))
  if not rows:
    raise ValueError(f"{path}: no puzzles; write one a line.")
  return [(where, puzzle.replace("0", "."), solution) for where, puzzle, solution in rows]
