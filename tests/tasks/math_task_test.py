r"""MATH as a task, and the process that compares formulas."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mdx import tasks
from mdx.tasks import algebra
from mdx.tasks import math_task
from mdx.tasks import problems

_EXTRACT = os.path.join(os.path.dirname(__file__), "data", "math_extract.jsonl")
_HANG = "9^{9^{9^{9}}}"


@pytest.fixture(name="_library", scope="module")
def _has_library():
  pytest.importorskip("math_verify")


@pytest.fixture(name="checker", scope="module")
def _checker(_library):
  return algebra.Checker(20.0)


@pytest.fixture(name="task", scope="module")
def _task(_library):
  return math_task.Math(path=_EXTRACT, test_path=_EXTRACT, time_limit=20.0)


def _stub(tmp_path, monkeypatch, reaction):
  """A worker that says ready, then does `reaction` with each line."""
  path = tmp_path / "worker.py"
  path.write_text("import json, os, signal, sys, time\nprint('ready', flush=True)\n"
                  f"for line in sys.stdin:\n  text = json.loads(line)[2]\n  {reaction}\n"
                  "  print('true', flush=True)\n")
  monkeypatch.setattr(algebra, "_WORKER", str(path))
  monkeypatch.setattr(algebra, "_GRACE_SECONDS", 0.3)


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


@pytest.mark.parametrize("gold, answer, equal", [
    (r"\frac12", "0.5", True), (r"\dfrac{1}{2}", r"\frac{1}{2}", True), ("1000", "1,000", True),
    (r"2\sqrt{3}", r"\sqrt{12}", True), ("x^2+1", "1+x^2", True), ("(1,2)", "(2,1)", False),
    (r"\{1,2\}", r"\{2,1\}", True), (r"\text{Monday}", r"\text{ Monday}", True), ("5", "x=5", True),
    (r"\text{Monday}", r"\text{Friday}", False), ("5", "5.", True), ("5", "6", False),
    ("5", "", False), ("5", "  ", False), ("5", r"\frac{5}{0}", False), ("5", "5" * 501, False),
    ("007", "7", True), ("x+1", "x-1", False)])
def test_equality_vectors(checker, gold, answer, equal):
  assert checker.equal(gold, answer) is equal


def test_the_given_answer_comes_first(checker):
  """The library is not symmetric: an interval answers an inequality, not the other way round."""
  assert checker.equal("1 < x < 2", "(1, 2)") and not checker.equal("(1, 2)", "1 < x < 2")


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


def test_a_hang_ends_at_the_time_limit_and_the_next_answer_is_judged(_library):
  checker = algebra.Checker(1.0)
  assert checker.equal("5", "2+3")
  start = time.perf_counter()
  assert not checker.equal("5", _HANG)
  assert time.perf_counter() - start < 20
  start = time.perf_counter()
  assert not checker.equal("5", _HANG)
  assert time.perf_counter() - start < 0.5  # remembered
  checker._time_limit = 20.0
  assert checker.equal("5", "1+4")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the limits of another process")
def test_the_worker_ends_itself_and_can_neither_write_files_nor_use_all_memory(_library):
  process = subprocess.Popen([sys.executable, "-P", algebra._WORKER], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
  try:
    assert process.stdout.readline() == b"ready\n"
    assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert 0 < resource.prlimit(process.pid, resource.RLIMIT_AS)[0] <= 4 * 2**30
    output, _ = process.communicate(json.dumps([0.3, "5", _HANG]).encode() + b"\n", timeout=60)
  finally:
    process.kill()
  assert output == b"" and process.returncode == -signal.SIGPROF


def test_a_worker_that_was_killed_between_requests_is_replaced(checker):
  assert checker.equal("5", "10/2")
  process = checker._process
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert checker.equal("5", "15/3") and checker._process is not process


@pytest.mark.parametrize("reaction", [
    "if text == 'bad': os._exit(1)", "if text == 'bad': os.kill(os.getpid(), signal.SIGSEGV)",
    "if text == 'bad': time.sleep(600)", "if text == 'bad': print('x' * 10**6)",
    "if text == 'bad': sys.stdout.write('tru'); sys.stdout.flush(); time.sleep(600)"])
def test_a_worker_that_dies_hangs_or_talks_nonsense_counts_as_wrong(tmp_path, monkeypatch,
                                                                    reaction):
  _stub(tmp_path, monkeypatch, reaction)
  checker = algebra.Checker(0.1)
  assert checker.equal("x", "good")
  start = time.perf_counter()
  assert not checker.equal("x", "bad")
  assert time.perf_counter() - start < 20
  assert checker.equal("x", "good again")


def test_an_interrupted_request_leaves_no_reply_for_the_next(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, "if text == 'bad': print('false', flush=True); continue")
  checker = algebra.Checker(5.0)
  assert checker.equal("x", "good")

  def interrupted(seconds):
    raise KeyboardInterrupt
  with monkeypatch.context() as m:
    m.setattr(checker, "_reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
      checker.equal("x", "bad")
  assert checker.equal("x", "good again")


def test_verdicts_are_remembered(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, f"open({str(tmp_path / 'log')!r}, 'a').write(text + ';')")
  checker = algebra.Checker(5.0)
  for answer in ("a", "b", "a", "a"):
    assert checker.equal("x", answer)
  assert (tmp_path / "log").read_text() == "a;b;"


def test_a_worker_that_does_not_start_is_an_error(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, "pass")
  (tmp_path / "worker.py").write_text("raise SystemExit")
  with pytest.raises(RuntimeError, match="import math_verify"):
    algebra.Checker(1.0).equal("x", "y")


def test_the_worker_ends_with_its_checker(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, "pass")
  checker = algebra.Checker(1.0)
  checker.equal("x", "y")
  process = checker._process
  del checker
  assert process.wait(20) is not None


def test_a_missing_library_and_bad_fields_are_refused_when_built(monkeypatch):
  monkeypatch.setattr(algebra.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[math\]'"):
    tasks.build({"name": "math", "path": _EXTRACT})
  with pytest.raises(ValueError, match="time_limit"):
    tasks.build({"name": "math", "path": _EXTRACT, "time_limit": 0})
  with pytest.raises(ValueError, match="path 'nowhere' is not a file"):
    tasks.build({"name": "math", "path": "nowhere"})
