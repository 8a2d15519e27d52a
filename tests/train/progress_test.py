"""Signals stop a run at a step and never lose it; the console shows rate and time left."""

import os
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


def test_other_processes_show_nothing(capsys):
  shown = progress.Progress(10, enabled=False)
  shown.log(1, {"loss": 1.0})
  shown.say("a word")
  shown.update(2)
  shown.close()
  assert not capsys.readouterr().out
