"""Runs killed at the moments that hurt most end with the figures of an undisturbed one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_STEPS = 30
_ARGS = ["--config=configs/diffusion.py", "--config.network.num_layers=1",
         "--config.network.width=16", "--config.network.num_heads=2", "--config.tokenizer.path=char",
         "--config.network.mlp_width=16", "--config.batch_size=4", "--config.data.length=16",
         "--config.eval.final_samples=1", "--config.eval.num_batches=1",
         "--config.sampler.num_samples=1", "--config.sampler.steps=4", "--config.log_steps=7",
         "--config.checkpoint_steps=10", "--config.eval_steps=15", f"--config.steps={_STEPS}"]
# Of what appears in the workdir: the first bytes of a checkpoint, one that is complete, the last
# one, the figures, the pictures, the results and the report, also while they are being written.
_MOMENTS = {
    "first_line": "metrics.jsonl", "checkpoint_begun": "checkpoints/10.*", "checkpoint":
    "checkpoints/20", "last_checkpoint": f"checkpoints/{_STEPS}", "samples": "samples.txt*",
    "picture": "learning_curve.png*", "results": "results.json*", "report": "report.html*"}
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {  # one device
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # most of the time is that of compiling
_OF_TIME = ("tokens_per_second", "seconds", "goodput", "checkpoint_seconds_per_step", "cpu_seconds")


def _start(workdir):
  return subprocess.Popen([sys.executable, "-m", "mdx.main", *_ARGS, f"--workdir={workdir}"],
                          cwd=_ROOT, text=True, env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _finish(workdir):
  with _start(workdir) as process:
    out, _ = process.communicate(timeout=300)
  assert process.returncode == 0, out


def _figures(workdir):
  """All that a run leaves but times: metrics, results, samples."""
  timeless = lambda line: {k: v for k, v in line.items() if k not in _OF_TIME}
  lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
  return ([timeless(x) for x in lines], timeless(json.loads((workdir / "results.json").read_text())),
          (workdir / "samples.txt").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  _finish(workdir)
  return _figures(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("moment, number", tiny.mostly_slow(
    [*((moment, signal.SIGKILL) for moment in _MOMENTS), ("first_line", signal.SIGTERM),
     ("picture", signal.SIGTERM)], [], ci=[("checkpoint_begun", signal.SIGKILL),
                                           ("results", signal.SIGKILL)]))
def test_a_run_killed_at_a_moment_ends_as_if_it_had_not_been(moment, number, whole, tmp_path):
  with _start(tmp_path) as process:
    while process.poll() is None and not any(tmp_path.glob(_MOMENTS[moment])):
      time.sleep(0.0005)
    process.send_signal(number)
    process.communicate(timeout=120)
  assert process.returncode in (0, 75, -number)
  for file in ("results.json", "config.json"):  # whole, or not there
    if os.path.exists(tmp_path / file):
      json.loads((tmp_path / file).read_text())
  _finish(tmp_path)
  assert _figures(tmp_path) == whole
  assert not list(tmp_path.glob("*.tmp"))
