r"""The processes that compare formulas: verdicts, limits, workers that hang or die."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from mdx.tasks import algebra

_HANG = "x + 2^{2^{30}}"


@pytest.fixture(name="_library", scope="module")
def _has_library():
  pytest.importorskip("math_verify")


@pytest.fixture(name="checker", scope="module")
def _checker(_library):
  return algebra.Checker(20.0)


def _stub(tmp_path, monkeypatch, reaction):
  """A worker that says ready, then does `reaction` with each line."""
  path = tmp_path / "worker.py"
  path.write_text("import json, os, signal, sys, time\nprint('ready', flush=True)\n"
                  f"for line in sys.stdin:\n  text = json.loads(line)[2]\n  {reaction}\n"
                  "  print('true', flush=True)\n")
  monkeypatch.setattr(algebra, "_WORKER", str(path))
  monkeypatch.setattr(algebra, "_GRACE_SECONDS", 0.3)


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


@pytest.mark.parametrize("gold, answer, equal", [
    (r"\sqrt{2}", "1.414214", True), (r"\sqrt{2}", "1.4142136", True),
    (r"\sqrt{2}", "1.41421399", False), (r"\sqrt{2}", "1.41", False), (r"\pi", "3.14", False),
    (r"\pi", r"\frac{355}{113}", False), (r"\sqrt{1000001}", "1000", False),
    (r"\frac{\pi}{10^9}", "0.0000000031", False), (r"\frac{\pi}{10^9}", "0", False),
    (r"\pi\cdot 10^{-20}", r"2\pi\cdot 10^{-20}", False), ("x<10^{-20}", r"x<2\cdot 10^{-20}", False),
    ("x^2", "x^2+10^{-20}", False), ("0.5x", r"\frac{x}{2}", True), ("|x|", "x", False),
    (r"\{1,\sqrt2\}", r"\{\sqrt2,1\}", True), (r"(1,\sqrt2)", r"(\sqrt2,1)", False),
    (r"[0,\sqrt2]", r"[0,\sqrt2)", False), (r"\{0,\pi 10^{-9}\}", r"\{0,2\pi 10^{-9}\}", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2.0000001\end{pmatrix}", False),
    (r"\pm 5", "5,-5", True), ("5", r"\pm 5", False), ("5", r"\sqrt{16}=5", False),
    ("0", "3x+2=0", False), (r"15\sqrt2\text{ m}", r"15\sqrt2\text{ cm}", False),
    (r"15\sqrt2\text{ m}", r"15\sqrt2", True), ("2x+1", "y=2x+1", True), ("a", "b", False)])
def test_numbers_are_not_rounded_and_lists_keep_their_order(checker, gold, answer, equal):
  """The library's own comparison rounds to six decimals and takes the last side of 16 = 5."""
  assert checker.equal(gold, answer) is equal


@pytest.mark.slow
def test_a_hang_ends_at_the_time_limit_and_the_next_answer_is_judged(_library):
  checker = algebra.Checker(0.5)
  start = time.perf_counter()
  assert checker.are_equal([("2x", _HANG), ("2x", "3x - x"), ("2x", "y + " + _HANG)]) == [
      False, True, False]
  assert time.perf_counter() - start < 30
  start = time.perf_counter()
  assert not checker.equal("2x", _HANG)
  assert time.perf_counter() - start < 0.5  # remembered
  assert checker.equal("2x", "4x - 2x")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the limits of another process")
@pytest.mark.slow
def test_the_worker_ends_a_request_and_can_neither_write_files_nor_use_all_memory(_library):
  process = subprocess.Popen([sys.executable, "-P", algebra._WORKER], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
  try:
    assert process.stdout.readline() == b"ready\n"
    assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert 0 < resource.prlimit(process.pid, resource.RLIMIT_AS)[0] <= 4 * 2**30
    for answer, reply in ((_HANG, b"false\n"), ("3x - x", b"true\n")):
      process.stdin.write(json.dumps([0.3, "2x", answer]).encode() + b"\n")
      assert process.stdout.readline() == reply, answer
    process.stdin.close()
    assert process.wait(60) == 0
  finally:
    process.kill()


def _process(checker):
  """The process of the worker that was used last."""
  return checker._idle.queue[-1]._process


def test_a_worker_that_was_killed_between_requests_is_replaced(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, "pass")
  checker = algebra.Checker(1.0)
  assert checker.equal("x", "good")
  process = _process(checker)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert checker.equal("x", "good too") and _process(checker) is not process


def test_a_batch_does_not_wait_for_one_answer(tmp_path, monkeypatch):
  _stub(tmp_path, monkeypatch, "if text.startswith('z'): time.sleep(1)")
  monkeypatch.setattr(algebra.os, "cpu_count", lambda: 4)
  checker = algebra.Checker(5.0)
  start = time.perf_counter()
  assert all(checker.are_equal([("x", f"z{'a' * i}") for i in range(4)]))
  assert time.perf_counter() - start < 3.5
  assert len(checker._idle.queue) == 4


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

  def interrupted(self, seconds):
    raise KeyboardInterrupt
  with monkeypatch.context() as m:
    m.setattr(algebra._Worker, "_reply", interrupted)
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
  process = _process(checker)
  del checker
  assert process.wait(20) is not None
