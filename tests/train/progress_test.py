"""Signals stop a run at a step and never lose it; the console shows rate and time left."""

import io
import os
import re
import signal

import pytest

from mdx.train import progress


@pytest.fixture(name="stop")
def _stop():
  before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  stop = progress.StopSignal()
  yield stop
  stop.close()
  assert {n: signal.getsignal(n) for n in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_run_stops_before_its_next_step(stop, number):
  assert not stop.reached(3)
  os.kill(os.getpid(), number)
  assert stop.reached(4) and stop.reached(5)


def test_a_second_ctrl_c_does_not_wait_and_a_second_sigterm_does(stop):
  os.kill(os.getpid(), signal.SIGTERM)
  os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_when_everything_is_saved_stops_at_once(stop):
  stop.saved = True
  with pytest.raises(progress.Stopped, match="everything is saved"):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_log_line_has_step_numbers_and_time_left(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  shown = progress.Progress(1000, start=100)
  now[0] = 50.0  # 100 steps: half a second each, 800 are left
  shown.log(200, {"loss": 2.34567, "tokens_per_second": 12345.6})
  shown.say("a word")
  shown.close()
  assert capsys.readouterr().out == (
      "step 200/1000  loss 2.346  tokens_per_second 12,346  left 6:40\na word\n")


def test_compilation_is_said_and_does_not_count_in_the_rate(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  shown = progress.Progress(11)
  shown.compiling()
  now[0] = 1000.0
  shown.update(1)
  now[0] = 1005.0  # a step a second, six are left
  shown.log(6, {})
  assert capsys.readouterr().out == "compiling ...\nstep 6/11    left 0:05\n"


def test_a_bar_says_what_is_done_and_breaks_no_word_at_80_columns(monkeypatch):
  file = io.StringIO()
  from rich import console, progress as rich_progress
  wide = console.Console(file=file, force_terminal=True, width=80, color_system=None)
  make = rich_progress.Progress
  monkeypatch.setattr(rich_progress, "Progress", lambda *columns, **fields: make(
      *columns, console=wide, auto_refresh=False, **fields))
  monkeypatch.setattr(progress.sys, "stdout", _Terminal())
  shown = progress.Progress(1000)
  seen = lambda: (shown._bar.refresh(), file.getvalue().rpartition("\r")[2])[1]
  assert "training" in seen()
  shown.compiling()
  assert "compiling" in seen() and "training" not in seen()
  shown.update(1)
  assert "training" in seen()
  shown.log(10, {"loss": 0.25, "nats_per_token": 0.25, "tokens_per_second": 12345.0, "reward": 0.5})
  last = seen()
  assert len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)) <= 80 and "\u2026" in last
  shown.say("It was [MASK]")
  assert "It was [MASK]" in file.getvalue()
  shown.close()


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def test_other_processes_show_nothing(capsys):
  shown = progress.Progress(10, enabled=False)
  shown.log(1, {"loss": 1.0})
  shown.say("a word")
  shown.update(2)
  shown.close()
  assert not capsys.readouterr().out


def test_batches_are_counted_as_they_are_taken():
  told = []
  assert list(progress.counted("abc", 4, told.append)) == ["a", "b", "c"] and told == [0, 4, 8]
  with progress.bar(3, "reading", enabled=False) as update:
    update(1)
