r"""MATH as a task: reading, rewards, dropped problems, errors."""

import json
import os

import numpy as np
import pytest

from mdx import tasks
from mdx.tasks import algebra
from mdx.tasks import math_task
from mdx.tasks import problems

_EXTRACT = os.path.join(os.path.dirname(__file__), "data", "math_extract.jsonl")


@pytest.fixture(name="_library", scope="module")
def _has_library():
  pytest.importorskip("math_verify")


@pytest.fixture(name="task", scope="module")
def _task(_library):
  return math_task.Math(path=_EXTRACT, test_path=_EXTRACT, time_limit=20.0)


@pytest.mark.slow
def test_the_extract_is_read_with_prompt_solution_and_gold(task):
  examples = task.examples("test")
  assert [e["gold"] for e in examples] == [
      "2", r"-\frac{1}{8}", r"(-\infty,-8)\cup (8,\infty)", r"\sqrt{x}", r"575\text{ students}",
      "x = 4"]
  first = json.loads(open(_EXTRACT, encoding="utf-8").readline())
  assert task.prompt(examples[0]) == f"{first['problem']}\n{problems.INSTRUCTION}"
  assert task.training_pairs("test")[0] == (examples[0]["prompt"], first["solution"])


def test_given_solutions_and_other_forms_are_right_and_other_answers_wrong(task):
  examples = task.examples("test")
  other_forms = [r"\boxed{4/2}", "<answer>-0.125</answer>",
                 r"\boxed{(8,\infty)\cup(-\infty,-8)}", r"\boxed{x^{1/2}}", r"\boxed{575}",
                 r"\boxed{4}"]
  for completions in ([e["answer"] for e in examples], other_forms):
    result = task.score(examples, completions)
    assert result["correct"].tolist() == [True] * 6, completions
    assert result["reward"].tolist() == [1] * 6 and result["reward"].dtype == np.float32
  answers = [e["answer"] for e in examples]
  assert not task.score(examples, answers[1:] + answers[:1])["correct"].any()
  assert not task.score(examples, ["2", "-1/8", "", r"\sqrt{x}", "575", "x = 4"])["correct"].any()


def test_a_gold_that_cannot_be_read_is_dropped_with_a_count(_library, tmp_path):
  rows = [{"problem": "a", "answer": "7"}, {"problem": "b", "answer": r"\frac{1}{"},
          {"problem": "c", "answer": None}, {"problem": "d", "solution": "no box"},
          {"problem": "e", "answer": r"\frac{1}{2}"}, {"problem": "f", "solution": r"\boxed{3}"}]
  path = tmp_path / "p.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  task = math_task.Math(path=_EXTRACT, test_path=str(path), time_limit=20.0)
  with pytest.warns(UserWarning, match=r"p.jsonl: 3 of 6 problems of the test split dropped"):
    examples = task.examples("test")
  assert [(e["key"], e["gold"], e["answer"]) for e in examples] == [
      ("a", "7", r"\boxed{7}"), ("e", r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
      ("f", "3", r"\boxed{3}")]


def test_a_missing_library_and_bad_fields_are_refused_when_built(monkeypatch):
  monkeypatch.setattr(algebra.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[math\]'"):
    tasks.build({"name": "math", "path": _EXTRACT})
  with pytest.raises(ValueError, match="time_limit"):
    tasks.build({"name": "math", "path": _EXTRACT, "time_limit": 0})
  with pytest.raises(ValueError, match="path 'nowhere' is not a file"):
    tasks.build({"name": "math", "path": "nowhere"})
