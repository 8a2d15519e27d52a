"""The common part of tasks, and the table of tasks."""

import collections

import pytest

from mdx import tasks
from mdx.tasks import problems


def test_splits_are_17_1_and_2_of_20():
  counts = collections.Counter(problems.split_of(f"problem {i}") for i in range(20_000))
  assert abs(counts["train"] - 17_000) < 300
  assert abs(counts["validation"] - 1000) < 150 and abs(counts["test"] - 2000) < 200


def test_split_of_a_key_never_changes():
  """A golden vector: whoever changes it moves test problems into training sets."""
  of = {s: [i for i in range(100) if problems.split_of(str(i)) == s] for s in problems.SPLITS}
  assert of["validation"] == [36, 84, 88, 93]
  assert of["test"] == [25, 30, 64, 71, 94]


def test_divide_keeps_a_problem_of_the_test_file_out_of_the_others():
  examples = [{"key": str(i), "prompt": str(i)} for i in range(200)] * 2
  tests = [{"key": str(i), "prompt": str(i)} for i in range(100, 300)]
  parts = {s: [e["key"] for e in problems.divide(examples, tests, s)] for s in problems.SPLITS}
  assert parts["test"] == [str(i) for i in range(100, 300)]
  assert sorted(map(int, parts["train"] + parts["validation"])) == list(range(100))
  assert 0 < len(parts["validation"]) < 20
  thirds = [e["key"] for s in problems.SPLITS for e in problems.divide(examples, None, s)]
  assert sorted(map(int, thirds)) == list(range(200))


def test_draws_stops_when_a_round_finds_nothing_new():
  draws = problems.Draws("train", 3)
  keys = [k for k in map(str, range(50)) if problems.split_of(k) == "train"]
  assert draws.missing()
  draws.offer(keys[0], "x", 1)
  assert draws.missing()
  draws.offer(keys[0], "x", 2)  # seen
  draws.offer(next(k for k in map(str, range(99)) if problems.split_of(k) == "test"), "y", 3)
  with pytest.raises(ValueError, match="only 1 train problems exist.*num_train=3"):
    draws.missing()
  assert draws.found == {"x": 1}


def test_draws_takes_no_more_than_wanted():
  draws = problems.Draws("train", 2)
  keys = [k for k in map(str, range(50)) if problems.split_of(k) == "train"]
  for key in keys:
    draws.offer(key, key, key)
  assert not draws.missing() and list(draws.found) == keys[:2]


def test_an_unknown_task_lists_the_choices():
  with pytest.raises(ValueError, match="unknown task name 'sudoko'; choose from countdown, gsm8k, "
                                       "math, relations, search, sudoku, translation. Did you mean 'sudoku'"):
    tasks.build({"name": "sudoko"})
  with pytest.raises(ValueError, match="needs a value for path"):
    tasks.build({"name": "gsm8k"})
