"""GSM8K as a task: reading, rewards by exact vectors, dropped problems, errors."""

import json
import os

import numpy as np
import pytest

from mdx import tasks
from mdx.tasks import gsm8k
from mdx.tasks import problems

_EXTRACT = os.path.join(os.path.dirname(__file__), "data", "gsm8k_extract.jsonl")


def _write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


@pytest.fixture(name="task", scope="module")
def _task():
  return gsm8k.Gsm8k(path=_EXTRACT, test_path=_EXTRACT)


def test_the_extract_is_read_with_prompt_solution_and_gold(task):
  examples = task.examples("test")
  assert [e["gold"] for e in examples] == ["72", "10", "42", "624", "35", "48"]
  question = json.loads(open(_EXTRACT, encoding="utf-8").readline())["question"]
  assert task.prompt(examples[0]) == f"{question}\n{problems.INSTRUCTION}"
  assert task.training_pairs("test")[0] == (
      examples[0]["prompt"],
      "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and "
      "May.\nThe answer is \\boxed{72}.")


def test_given_solutions_are_right_and_those_of_another_problem_wrong(task):
  examples = task.examples("test")
  answers = [e["answer"] for e in examples]
  result = task.score(examples, answers)
  assert result["correct"].all() and result["reward"].tolist() == [1] * 6
  assert result["reward"].dtype == np.float32 and result["correct"].dtype == bool
  assert not task.score(examples, answers[1:] + answers[:1])["correct"].any()


@pytest.mark.parametrize("completion, correct", [
    (r"\boxed{1000}", True), (r"\boxed{1,000}", True), (r"\boxed{1000.00}", True),
    (r"\boxed{\$1,000}", True), (r"\boxed{1000\%}", True), ("1000 dollars", True),
    ("<answer>$1000</answer> for 3", True), ("so 3, thus 1,000.", True),
    (r"\boxed{7} 1000", False), (r"\boxed{1000} 7", True), (r"\boxed{1000.01}", False),
    (r"\boxed{} 1000", False), (r"\boxed{-1000}", False), ("1000 or 7", False),
    (r"\boxed{1000} \boxed{7}", False), ("", False), (r"\boxed{10^3}", True),
    (r"\boxed{−1000}", False), (r"\boxed{7 = 1000}", False), (r"\boxed{500 1000}", False),
    (r"\boxed{1\,000 \text{ m}^2}", True), ("It is 2000-1000", True), (r"\boxed{1 000}", True)])
@pytest.mark.parametrize("gold", ["1000", "1,000", "$1000.00"])
def test_reward_vectors(task, gold, completion, correct):
  result = task.score([{"gold": gold}], [completion])
  assert result["correct"].tolist() == [correct] and result["reward"].tolist() == [float(correct)]


def test_a_problem_without_a_number_is_dropped_with_a_count(tmp_path):
  rows = [{"question": f"q{i}", "answer": "so #### " + a}
          for i, a in enumerate(["5", "five", "1 or 2", ""])] + [{"question": "q", "answer": "5"}] * 2
  path = _write(tmp_path / "p.jsonl", rows)
  task = gsm8k.Gsm8k(path=_EXTRACT, test_path=path)
  with pytest.warns(UserWarning, match="3 problems dropped"):
    examples = task.examples("test")
  assert [e["key"] for e in examples] == ["q0", "q"]


def test_train_and_validation_are_divided_by_the_text_of_the_problem(tmp_path):
  rows = [{"question": f"How much is {i}?", "answer": f"#### {i}"} for i in range(200)]
  for order in (1, -1):
    task = gsm8k.Gsm8k(path=_write(tmp_path / f"{order}.jsonl", rows[::order]), test_path=_EXTRACT)
    keys = {s: {e["key"] for e in task.examples(s)} for s in ("train", "validation")}
    assert len(keys["train"]) + len(keys["validation"]) == 200 and keys["validation"]
    if order == 1:
      first = keys
  assert keys == first


@pytest.mark.parametrize("row, message", [
    ({"question": "q"}, "no field 'answer'"), ({"answer": "#### 1"}, "no field 'question'"),
    ({"question": "q", "answer": 5}, "of type str")])
def test_a_bad_line_is_named(tmp_path, row, message):
  path = _write(tmp_path / "p.jsonl", [{"question": "a", "answer": "#### 1"}, row])
  with pytest.raises(ValueError, match=f"p.jsonl, line 2: .*{message}"):
    gsm8k.Gsm8k(path=path).examples("train")


def test_missing_files_and_empty_splits_are_refused(tmp_path):
  with pytest.raises(ValueError, match="path 'nowhere' is not a file"):
    tasks.build({"name": "gsm8k", "path": "nowhere"})
  with pytest.raises(ValueError, match="test_path 'nowhere' is not a file"):
    tasks.build({"name": "gsm8k", "path": _EXTRACT, "test_path": "nowhere"})
  task = gsm8k.Gsm8k(path=_write(tmp_path / "p.jsonl", [{"question": "q", "answer": "none"}]))
  with (pytest.raises(ValueError, match="no examples"),
        pytest.warns(UserWarning, match="1 problems")):
    task.examples("train")
