"""Jobs of two processes on this machine, over Gloo."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mdx import checkpoint as checkpoint_lib

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SMALL = ["--config=configs/diffusion.py", "--config.network.num_layers=1",
          "--config.network.width=16", "--config.network.num_heads=2",
          "--config.network.mlp_width=16", "--config.batch_size=4", "--config.data.length=16",
          "--config.eval.final_samples=1", "--config.eval.num_batches=1",
          "--config.sampler.num_samples=1", "--config.sampler.steps=4", "--config.log_steps=5",
          "--config.checkpoint_steps=100000", "--config.steps=120"]
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}


def _start(args, num_processes):
  command = ([str(_ROOT / "launch/local.sh"), str(num_processes)] if num_processes > 1 else
             [sys.executable, "-m", "mdx.main"])
  return subprocess.Popen([*command, *args], text=True, cwd=_ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=_ENVIRONMENT, start_new_session=True)


def _finish(process):
  try:
    out, _ = process.communicate(timeout=180)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    raise
  return process.returncode, out


def _steps(workdir):
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(x)["step"] for x in lines if x.endswith("}")]


def test_a_signal_to_one_process_saves_one_step_on_all_and_the_job_goes_on(tmp_path):
  args = [*_SMALL, f"--workdir={tmp_path}"]
  process = _start(args, 2)
  while max(_steps(tmp_path), default=0) < 10:
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  workers = subprocess.run(["pgrep", "-g", str(process.pid), "-f", "mdx.main --distributed"],
                           capture_output=True, text=True, check=True).stdout.split()
  assert len(workers) == 2
  os.kill(int(workers[0]), signal.SIGTERM)
  code, out = _finish(process)
  assert code == 75 and out.count("everything is saved") == 2, out
  newest = checkpoint_lib.step_directories(tmp_path)[0]
  step = int(newest.name)
  assert 10 <= step < 120
  assert len(list((newest / "data").glob("process_*.json"))) == 2  # each process's iterator

  code, out = _finish(_start(args, 2))
  assert code == 0 and f"resuming from step {step}" in out, out
  assert checkpoint_lib.step_directories(tmp_path)[0].name == "120"
  assert json.loads((tmp_path / "results.json").read_text())["bits_per_char"] > 0


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
  args = [*_SMALL, f"--workdir={tmp_path}"]
  process = _start(args, 2)
  while max(_steps(tmp_path), default=0) < 10:
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGTERM)
  code, out = _finish(process)
  assert code == 75, out
  code, out = _finish(_start(args, 1))
  assert code == 0 and "resuming from step" in out and "begins anew" in out, out
