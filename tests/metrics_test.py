"""Metrics: window means, a file that survives kills and resumes, TensorBoard."""

import json
import math
import struct

import numpy as np
import pytest

from mdx import metrics


def _lines(path):
  return [json.loads(text) for text in path.read_text().splitlines()]


def _write(path, steps, resume_step=0, kind="train"):
  writer = metrics.JsonLines(path, resume_step=resume_step)
  for step in steps:
    writer.write(step, kind, {"loss": float(step)})
  writer.close()


def test_a_window_is_the_ratio_of_sums_not_the_mean_of_ratios():
  window = metrics.Window()
  window.add({"loss": (6.0, 2.0), "accuracy": (np.float32(1), np.float32(4))})
  window.add({"loss": (1.0, 8.0), "rare": (0.0, 0.0)})
  assert window.flush() == {"loss": 0.7, "accuracy": 0.25}  # nothing has no mean
  window.add({"loss": (3.0, 1.0)})
  assert window.flush() == {"loss": 3.0}
  assert window.flush() == {}


def test_resuming_drops_what_will_be_done_again_and_appends(tmp_path):
  path = tmp_path / "metrics.jsonl"
  _write(path, [10, 20, 30, 40])
  _write(path, [30, 40], resume_step=20)
  assert [x["step"] for x in _lines(path)] == [10, 20, 30, 40]
  _write(path, [5])  # a new run in the same file
  assert [x["step"] for x in _lines(path)] == [5]


def test_a_line_that_is_there_is_not_written_again(tmp_path):
  for _ in range(2):  # killed between the last checkpoint and the results
    lines = metrics.JsonLines(tmp_path / "metrics.jsonl", resume_step=4)
    lines.write(4, "eval", {"x": 1.0})
    lines.write(4, "train", {"x": 2.0})
    lines.close()
  assert [(x["step"], x["kind"]) for x in metrics.read(tmp_path / "metrics.jsonl")] == [
      (4, "eval"), (4, "train")]


@pytest.mark.parametrize("rest", ['{"step": 30, "kind": "tra', '{"step": 30', "\x00\x00\x00", "3"])
def test_a_last_line_that_a_kill_cut_off_is_dropped(tmp_path, rest):
  path = tmp_path / "metrics.jsonl"
  _write(path, [10, 20])
  with path.open("a") as file:
    file.write(rest)
  assert [x["step"] for x in metrics.read(path)] == [10, 20]
  _write(path, [30], resume_step=20)
  assert [x["step"] for x in _lines(path)] == [10, 20, 30]


def test_lines_reach_the_disk_at_once(tmp_path):
  writer = metrics.JsonLines(tmp_path / "metrics.jsonl")
  writer.write(1, "eval", {"loss": 2.5})
  assert _lines(tmp_path / "metrics.jsonl") == [{"step": 1, "kind": "eval", "loss": 2.5}]
  writer.close()


def test_numbers_that_are_not_finite_are_null_and_the_file_stays_json(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writers = metrics.open_writers(str(tmp_path), {"tensorboard": False}, resume_step=0, is_main=True)
  writers.write(1, "train", {"loss": np.float32("nan"), "norm": math.inf, "rate": np.float32(0.5)})
  writers.close()

  def refuse(constant):
    raise AssertionError(constant)

  line = json.loads(path.read_text(), parse_constant=refuse)
  assert line == {"step": 1, "kind": "train", "loss": None, "norm": None, "rate": 0.5}


def test_other_processes_write_nothing(tmp_path):
  writers = metrics.open_writers(str(tmp_path), {"tensorboard": True}, resume_step=0, is_main=False)
  writers.write(1, "train", {"loss": 1.0})
  writers.close()
  assert not list(tmp_path.iterdir())


def _scalars(directory):
  """(tag, step, value) of all event files, read from their bytes: length, crc, event, crc."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  found = []
  for path in sorted(directory.glob("events.*")):
    data = path.read_bytes()
    while data:
      size, = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12:12 + size])
      found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
      data = data[16 + size:]
  return found


@pytest.mark.slow
def test_tensorboard_files_hold_every_number(tmp_path):
  pytest.importorskip("tensorboardX")
  writers = metrics.open_writers(str(tmp_path), {"tensorboard": True}, resume_step=0, is_main=True)
  writers.write(10, "train", {"loss": 2.5, "rate": 0.5})
  writers.write(20, "eval", {"loss": 1.5})
  writers.close()
  assert _scalars(tmp_path / "tensorboard") == [("train/loss", 10, 2.5), ("train/rate", 10, 0.5),
                                                ("eval/loss", 20, 1.5)]
  assert [x["step"] for x in _lines(tmp_path / "metrics.jsonl")] == [10, 20]


def test_a_resumed_run_tells_tensorboard_from_which_step_on_to_purge(tmp_path):
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  writers = metrics.open_writers(str(tmp_path), {"tensorboard": True}, resume_step=20, is_main=True)
  writers.write(30, "train", {"loss": 2.5})
  writers.close()
  path, = (tmp_path / "tensorboard").glob("events.*")
  data, starts = path.read_bytes(), []
  while data:
    size, = struct.unpack("<Q", data[:8])
    event = event_pb2.Event.FromString(data[12:12 + size])
    if event.session_log.status == event_pb2.SessionLog.START:
      starts.append(event.step)
    data = data[16 + size:]
  assert starts == [21]


def test_without_tensorboardx_one_line_says_how_to_get_it(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
  with pytest.raises(ValueError, match="needs tensorboardX; pip install") as error:
    metrics.open_writers(str(tmp_path), {"tensorboard": True}, resume_step=0, is_main=True)
  assert "\n" not in str(error.value)


def test_damaged_lines_are_left_out_and_said(tmp_path):
  path = tmp_path / "metrics.jsonl"
  good = [json.dumps({"step": i, "kind": "train", "loss": 1.0, "none": None}) for i in range(3)]
  bad = ["[" * 10**5, "9" * 5000, '{"step": "x", "kind": "train"}', '{"step": 5}', "[1]", "\udcff",
         '{"step": 1, "kind": "train", "loss": "x"}', '{"step": true, "kind": "eval"}', "null",
         '{"step": 1, "kind": 5}', '{"step": 1, "kind": "eval", "x": {}}']
  path.write_text("\n".join([good[0], *bad, *good[1:]]) + "\n", errors="surrogateescape")
  with pytest.warns(UserWarning, match="metrics.jsonl: 11 damaged.* the first of them line 2"):
    lines = metrics.read(path)
  assert [x["step"] for x in lines] == [0, 1, 2]


def test_lines_of_rows_end_at_newlines_alone(tmp_path):
  path = tmp_path / "samples.jsonl"
  path.write_text(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n{cut")
  assert metrics.read_rows(path) == [{"text": "a\u2028b\x85c"}]
