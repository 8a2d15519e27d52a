"""The clock of a run over all its starts, and the goodput."""

import os

from mdx import metrics as metrics_lib
from mdx.train import meter
from mdx.train import progress


class _Silent:
  """A writer that writes nothing."""

  def write(self, step, kind, values):
    pass


def test_goodput_is_the_share_of_time_in_steps_that_count_since_the_first_start(tmp_path,
                                                                              monkeypatch):
  now = [1000.0]
  (tmp_path / "config.json").touch()
  os.utime(tmp_path / "config.json", (980, 980))
  monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(meter.time, "time", lambda: now[0])

  def wait(seconds):
    now[0] += seconds

  def run(start):
    clock = meter.Clock(tmp_path, start)
    one = meter.Meter(_Silent(), progress.Progress(9, enabled=False), steps=9, log_steps=3,
                      clock=clock)
    one.add(start, {"loss": (1.0, 1.0)}, 6)
    wait(20)  # compiles
    for step in range(start + 1, 7):
      with one.fetching():  # the device has nothing to do meanwhile
        wait(1)
      with one.paused("checkpoint" if step == start + 2 else "eval"):
        wait(2)
      wait(4)
      one.add(step, {"loss": (1.0, 1.0)}, 6)
    if start:  # at the end of the run: the last checkpoint, after the last log line
      with one.paused("checkpoint"):
        wait(3)
      one.finish(6)
    clock.close()
    lines = metrics_lib.read(tmp_path / "goodput.jsonl")
    assert len(lines) and all(line.pop("cpu_seconds") >= 0 for line in lines)
    return lines

  first, second = run(0)
  # The wall has also 20 s before the run, 20 s of compiling, and three pauses of 2 s.
  assert first == {
      "step": 3, "kind": "time", "step_seconds": 8.0, "wall_seconds": 61.0, "goodput": 8 / 61,
      "data_seconds": 2.0, "checkpoint_seconds": 2.0, "eval_seconds": 2.0}
  assert second["step_seconds"] == 8 + 12
  wait(100)  # then killed, and started again from step 3: the steps after it no longer count
  again = run(3)
  assert again[0] == first and [line["step"] for line in again] == [3, 6, 6]
  assert again[2]["step_seconds"] == 8 + 8 and again[2]["wall_seconds"] == now[0] - 980
  assert again[2]["checkpoint_seconds"] - again[1]["checkpoint_seconds"] == 3


def test_the_clock_counts_cpu_time_between_going_and_stopping_over_all_starts(tmp_path,
                                                                              monkeypatch):
  now = [100.0]
  monkeypatch.setattr(meter.time, "process_time", lambda: now[0])
  clock = meter.Clock(tmp_path, 0)
  assert not clock.stop() and clock.cpu_seconds == 0.0
  clock.go()
  now[0] += 3
  assert clock.cpu_seconds == 3.0 and clock.stop()
  now[0] += 50
  assert clock.cpu_seconds == 3.0
  clock.add(7, {"step": 1.0})
  clock.close()
  assert meter.Clock(tmp_path, 7).cpu_seconds == 3.0
  assert meter.Clock(tmp_path, 6).cpu_seconds == 0.0  # what is done again does not count twice
