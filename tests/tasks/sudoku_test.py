"""Sudoku as a task: rewards by exact vectors, splits, files, errors."""

import itertools
import time

import numpy as np
import pytest

from mdx import tasks
from mdx.tasks import grids
from mdx.tasks import problems
from mdx.tasks import sudoku

_SPLITS = problems.SPLITS
_GRID = "1234341221434321"


def _task(**fields):
  return sudoku.Sudoku(**fields)


@pytest.fixture(name="free", scope="module")
def _free():
  return _task()


@pytest.fixture(name="unique", scope="module")
def _unique():
  return _task(unique=True, min_givens=4, max_givens=8, num_train=3000)


def _one(puzzle, answer=_GRID):
  return {"prompt": puzzle + "=", "answer": answer, "key": puzzle}


def test_default_sizes_and_shapes(free):
  assert [len(free.examples(s)) for s in _SPLITS] == [23000, 512, 1024]
  pairs = free.training_pairs("train")
  assert len(set(pairs)) == 23000
  assert {(len(p), len(a)) for p, a in pairs} == {(free.prompt_length, free.answer_length)}
  assert set("".join(p + a for p, a in pairs)) == set(free.symbols)
  assert {16 - p.count(".") for p, _ in pairs} == {2, 3, 4}


def test_no_puzzle_is_in_two_splits_even_of_two_seeds(free):
  other = _task(seed=1, num_train=5000)
  keys = {s: {e["key"] for t in (free, other) for e in t.examples(s)} for s in _SPLITS}
  for a, b in itertools.combinations(_SPLITS, 2):
    assert not keys[a] & keys[b]
  assert keys["test"] - {e["key"] for e in free.examples("test")}


def test_unique_puzzles_have_one_solution_and_no_grid_is_in_two_splits(unique):
  answers = {}
  for split in _SPLITS:
    examples = unique.examples(split)
    answers[split] = {e["answer"] for e in examples}
    puzzles = np.array([[0 if c == "." else int(c) for c in e["prompt"][:-1]] for e in examples])
    assert (grids.count_completions(puzzles) == 1).all()
  assert not (answers["train"] & answers["test"] or answers["train"] & answers["validation"] or
              answers["test"] & answers["validation"])
  assert sum(map(len, answers.values())) == 288


def test_most_default_puzzles_have_many_solutions(free):
  puzzles = np.array([[0 if c == "." else int(c) for c in e["prompt"][:-1]]
                      for e in free.examples("test")])
  counts = grids.count_completions(puzzles)
  # Two cells that share a unit leave 288 / (4 * 3) = 24 grids, some that share none 36.
  assert counts.min() >= 1 and counts.max() == 36
  assert (counts > 1).mean() > 0.9


@pytest.mark.parametrize("fields", [
    {}, {"unique": True, "min_givens": 5, "max_givens": 9},
    {"size": 9, "min_givens": 30, "max_givens": 40},
    {"size": 9, "min_givens": 30, "max_givens": 40, "unique": True}])
@pytest.mark.parametrize("partial", [False, True])
def test_drawn_solutions_are_right_and_every_mutated_one_is_wrong(fields, partial):
  if partial and fields.get("unique"):
    return
  task = _task(**fields, partial_reward=partial, num_train=500)
  examples = task.examples("train")
  answers = [e["answer"] for e in examples]
  result = task.score(examples, answers)
  assert result["correct"].all() and (result["reward"] == 1).all()
  assert result["reward"].dtype == np.float32 and result["correct"].dtype == bool
  rng = np.random.default_rng(0)
  mutated = []
  for answer in answers:
    cell = rng.integers(len(answer))
    digit = rng.choice([s for s in task.symbols if s != answer[cell]])
    mutated.append(answer[:cell] + digit + answer[cell + 1:])
  result = task.score(examples, mutated)
  assert not result["correct"].any()
  if not fields.get("unique"):  # there a changed given costs nothing
    assert (result["reward"] < 1).all() and (result["reward"] > 0).all() == partial


def test_any_completion_of_a_puzzle_is_right_and_no_grid_that_changes_a_given():
  task, puzzle = _task(), "12.............."
  texts = ["".join(map(str, g)) for g in grids.all_grids()]
  correct = task.score([_one(puzzle)] * 288, texts)["correct"]
  assert correct.tolist() == [t.startswith("12") for t in texts] and correct.sum() == 24


def test_partial_reward_is_the_rate_of_units_times_the_rate_of_givens_kept():
  task = _task(partial_reward=True)
  completions = [
      _GRID,
      "1234341221434322",  # breaks one row, one column and one box
      "2143432112343412",  # a grid that keeps one of two givens
      "1234341221434",  # three cells missing: one row, three columns, two boxes
      "",
      _GRID + "1",
  ]
  result = task.score([_one("1........1......")] * 6, completions)
  expected = [1, 9 / 12, 0, 6 / 12, 0, 0]
  kept_one = task.score([_one("1..............2")], ["1234341221434321"])
  np.testing.assert_allclose(kept_one["reward"], [0.5])
  np.testing.assert_allclose(result["reward"], expected, rtol=1e-6)
  assert result["correct"].tolist() == [True] + [False] * 5


def test_reward_of_unique_is_the_rate_of_empty_cells_that_are_right():
  task = _task(unique=True, min_givens=4)
  puzzle = "1234........4321"  # 8 empty cells
  completions = [
      _GRID,
      "1234341221444321",  # one of eight wrong
      "4321341221431234",  # all givens changed
      "123434122143",  # cut before the last row of givens
      "12343",  # one empty cell right
      _GRID + "1",  # too long
      "................",
  ]
  result = task.score([_one(puzzle)] * 7, completions)
  np.testing.assert_allclose(result["reward"], [1, 7 / 8, 1, 1, 1 / 8, 1, 0])
  assert result["correct"].tolist() == [True] + [False] * 6


def test_thousands_of_completions_are_scored_in_a_blink(free):
  examples = free.examples("train")[:5000]
  completions = [e["answer"] for e in examples]
  start = time.perf_counter()
  free.score(examples, completions)
  assert time.perf_counter() - start < 1  # 2 ms on two busy cores


def test_examples_depend_on_the_fields_alone_and_are_made_once(free):
  task = _task()
  assert task.examples("test") == free.examples("test")
  assert task.examples("test")[0] is task.examples("test")[0]
  assert task.examples("test") != _task(seed=1).examples("test")
  assert task.prompt(task.examples("test")[0]) == task.examples("test")[0]["prompt"]


@pytest.mark.parametrize("name, text", [
    ("p.csv", "Puzzle,Solution\n{0},{1}\n"), ("p.tsv", "Puzzle\tSolution\n{0}\t{1}\n"),
    ("p.txt", "{0} {1}\n\n"), ("q.txt", "{0}\n"),
    ("p.jsonl", "{{\"puzzle\": \"{0}\", \"solution\": \"{1}\"}}\n"),
    ("q.jsonl", "{{\"puzzle\": \"{0}\"}}\n")])
@pytest.mark.parametrize("empty", ".0")
def test_puzzles_are_read_from_files_of_each_form(tmp_path, name, text, empty):
  path = tmp_path / name
  path.write_text(text.format("12343412214343..".replace(".", empty), _GRID))
  (tmp_path / "other.txt").write_text("1234341221434...")
  task = _task(path=str(tmp_path / "other.txt"), test_path=str(path), unique=True)
  example, = task.examples("test")
  assert example == {"prompt": "12343412214343..=", "answer": _GRID, "key": _GRID}


def test_a_puzzle_of_the_test_file_is_never_trained_on(tmp_path):
  lines = ["".join(map(str, g))[:15] + "." for g in grids.all_grids()]
  (tmp_path / "a.txt").write_text("\n".join(lines))
  (tmp_path / "b.txt").write_text("\n".join(lines[:50]))
  task = _task(path=str(tmp_path / "a.txt"), test_path=str(tmp_path / "b.txt"))
  sizes = [len(task.examples(s)) for s in _SPLITS]
  assert sizes[2] == 50 and sizes[0] + sizes[1] == 238 and sizes[1] > 0
  whole = _task(path=str(tmp_path / "a.txt"), num_train=10)
  assert len(whole.examples("train")) == 10 and len(whole.examples("test")) > 10


@pytest.mark.parametrize("line, message", [
    ("123434122143432", "16 cells"), ("12343412214343.5", "16 cells"),
    ("11..............", "no solution"), ("12..............", "several solutions"),
    ("12343412214343.. 1234341221434312", "not the only"),
    ("12343412214343.. 123434122143432", "16 cells"),
    ("1234............ " + _GRID, "not the only"), (_GRID, "no cell is empty"),
    ("", "no puzzles")])
def test_a_bad_line_of_a_file_is_named(tmp_path, line, message):
  path = tmp_path / "bad.txt"
  path.write_text(line + "\n")
  with pytest.raises(ValueError, match=message) as error:
    _task(path=str(path), unique=True).examples("train")
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fields, message", [
    ({"size": 6}, "task.size is 6; choose from 4, 9"), ({"min_givens": 0}, "min_givens"),
    ({"max_givens": 1}, "max_givens"), ({"max_givens": 16}, "below the 16 cells"),
    ({"unique": True}, "single solution"),
    ({"unique": True, "size": 9, "min_givens": 16, "max_givens": 30}, "fewer than 17"),
    ({"unique": True, "min_givens": 4, "partial_reward": True}, "partial_reward"),
    ({"num_train": -1}, "num_train"), ({"path": "nowhere.txt"}, "not a file"),
    ({"test_path": __file__}, "not a file")])
def test_bad_fields_are_refused_at_once(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    tasks.build({"name": "sudoku", **fields})
  assert "\n" not in str(error.value)


def test_empty_unknown_and_too_large_splits_are_refused(free):
  with pytest.raises(ValueError, match="split must be one of"):
    free.examples("dev")
  with pytest.raises(ValueError, match="no examples; raise num_test"):
    _task(num_test=0).examples("test")
  with pytest.raises(ValueError, match="only .* train problems exist"):
    _task(max_givens=2, num_train=10_000).examples("train")
  with pytest.raises(ValueError, match="one example per completion"):
    free.score(free.examples("test")[:2], [""])


def test_in_place_the_answer_takes_the_place_of_the_prompt():
  task = sudoku.Sudoku(in_place=True, num_train=20)
  example = task.examples("train")[0]
  assert (task.blank, task.prompt_length, task.answer_length) == (".", 0, 16)
  assert len(task.prompt(example)) == 16 and "=" not in task.symbols
  other = sudoku.Sudoku(num_train=20)
  assert other.blank == "" and other.examples("train")[0]["prompt"] == example["prompt"] + "="
  assert task.score([example], [example["answer"]])["correct"].tolist() == [True]


_ROWS = ["1234", "3412", "2143", "4321"]


@pytest.mark.parametrize("completion", [
    "<answer>{0}</answer>", "\\boxed{{{0}}}", "\n{0}", " {0}\n", "<answer>\n{0}\n</answer>",
    "<reasoning>1200 is row one.</reasoning>\n<answer>{0}</answer>",
    "<answer>4321341221431234</answer> no: <answer>{0}</answer>", "\\boxed{{4321}} <answer>{0}</answer>",
    "<answer>4321</answer> so \\boxed{{{0}}}.", "<answer>\\boxed{{{0}}}</answer>",
    "\\boxed{{\\text{{{0}}}}}", "<answer>\n{1}\n</answer>", "{1}", "Solved:\n{1}",
    "The answer is {0}.", "<answer>{0}.</answer>", "<answer>{0}", "**{0}**", "{2}",
    "\\boxed{{\\begin{{array}}{{|cc|cc|}}\n1 & 2 & 3 & 4 \\\\\\hline 3&4&1&2\\\\2&1&4&3\\\\4&3&2&1"
    "\\end{{array}}}}", "| 1 2 | 3 4 |\n| 3 4 | 1 2 |\n+-----+\n| 2 1 | 4 3 |\n| 4 3 | 2 1 |",
    "1200000000000021 is {0}"])
@pytest.mark.parametrize("unique", [False, True])
def test_a_right_grid_is_right_in_every_form_of_an_answer(completion, unique):
  task = _task(unique=unique, min_givens=4)
  nested = str([list(map(int, row)) for row in _ROWS])
  text = completion.format(_GRID, "\n".join(" ".join(row) for row in _ROWS), nested)
  puzzle = "1234........4321"
  for prompt in (puzzle + "=", f"A 4x4 grid, {puzzle.replace('.', '0')}.\nSolve it.", puzzle):
    example = {"prompt": prompt, "answer": _GRID, "key": ""}
    found = task.score([example], [text])
    assert found["correct"].tolist() == [True] and found["reward"].tolist() == [1]
    wrong = task.score([example], [text.replace("2143", "2134").replace("2, 1, 4, 3", "2, 1, 3, 4")
                                   .replace("2 1 4 3", "2 1 3 4").replace("2 1 | 4 3", "2 1 | 3 4")
                                   .replace("2&1&4&3", "2&1&3&4")])
    assert wrong["correct"].tolist() == [False] and wrong["reward"][0] < 1


@pytest.mark.parametrize("completion", [
    "<answer>12</answer> " + _GRID, "<answer></answer>", "\\boxed{}", "1" + _GRID, _GRID + ".",
    _GRID.replace("4", "0"), "5" + _GRID[1:], "x" + _GRID[1:], "row 1 is 1234, then 3412"])
def test_what_is_no_whole_right_grid_stays_wrong(completion):
  assert not _task().score([_one("12..............")], [completion])["correct"].any()


@pytest.mark.parametrize("instruction, answer", [
    (problems.INSTRUCTION, "\\boxed{{{}}}"), ("Write it in <answer> tags.", "<answer>{}</answer>")])
def test_with_an_instruction_prompts_are_text_and_their_answers_are_right(instruction, answer):
  task = _task(instruction=instruction, num_train=20)
  symbols = _task(num_train=20)
  pairs = task.training_pairs("train")
  for (prompt, text), (puzzle, grid) in zip(pairs, symbols.training_pairs("train"), strict=True):
    assert puzzle[:-1].replace(".", "0") in prompt and prompt.endswith("\n" + instruction)
    assert text == answer.format(grid)
  found = task.score(task.examples("train"), [text for _, text in pairs])
  assert found["correct"].all()
  with pytest.raises(ValueError, match="answer_length without an instruction only"):
    task.answer_length  # pylint: disable=pointless-statement
  with pytest.raises(ValueError, match="not in_place; leave one"):
    _task(instruction=instruction, in_place=True)


def test_drawn_cells_are_wrong_where_a_digit_repeats_in_a_unit_or_a_given_was_changed():
  rng = np.random.default_rng(0)
  for size in (4, 9):
    task, box = _task(size=size, in_place=True), int(size**0.5)
    for _ in range(20):
      grid = rng.integers(0, size + 1, (size, size))
      givens = np.where(rng.random((size, size)) < 0.2, rng.integers(1, size + 1, grid.shape), 0)
      same = lambda r, c, i, j: (r == i or c == j or (r // box, c // box) == (i // box, j // box))
      wanted = [[bool(grid[r, c]) and (bool(givens[r, c]) and givens[r, c] != grid[r, c] or any(
          (i, j) != (r, c) and grid[i, j] == grid[r, c] and same(r, c, i, j)
          for i in range(size) for j in range(size))) for c in range(size)] for r in range(size)]
      prompt = "".join(str(d) if d else "." for d in givens.ravel())
      found = task.render({"prompt": prompt}, [str(d) if d else None for d in grid.ravel()])
      assert np.array_equal(np.reshape(found.is_wrong, grid.shape), wanted)
      assert found.box == box and np.ravel(found.lines).tolist() == list(range(size * size))
  assert _task().render(_one("1" + "." * 15), list(_GRID)).box == 2
  assert _task().render(_one("1" + "." * 15), list(_GRID[:-1])) is None  # not a grid
