"""Jobs of several processes on this machine, over Gloo: the same as one process.

A mesh of `tensor` makes every process hold all rows, one of `data` a share of them.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mdx import checkpoint as checkpoint_lib
from mdx import metrics as metrics_lib
from mdx import sharding
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib

import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_STEPS, _SHARDS = 120, 4
_SMALL = ["--config=configs/diffusion.py", "--config.network.num_layers=1",
          "--config.network.width=16", "--config.network.num_heads=2",
          "--config.network.mlp_width=16", "--config.batch_size=8", "--config.data.length=16",
          f"--config.data.num_shards={_SHARDS}", "--config.eval.final_samples=1",
          "--config.eval.num_batches=1", "--config.eval.baselines=False",
          "--config.sampler.num_samples=0", "--config.log_steps=1",
          "--config.checkpoint_steps=100000", f"--config.steps={_STEPS}"]
_RL = ["--config=configs/mdpo.py", "--config.init.base.steps=100",
       "--config.init.base.batch_size=64", "--config.init.base.network.num_layers=1",
       "--config.init.base.network.width=32", "--config.init.base.network.num_heads=2",
       "--config.init.base.network.mlp_width=64",
       "--config.init.base.eval.final_samples=1", "--config.init.base.eval.num_batches=1",
       *(f"--config.{task}.{bound}_givens={number}" for bound, number in (("min", 10), ("max", 12))
         for task in ("task", "init.base.data.source.task")),  # easy: a few cells are empty
       "--config.updates=4",
       "--config.rollout.num_prompts=16", "--config.rollout.group_size=4",
       "--config.rollout.batch_size=32", "--config.eval.num_examples=16",
       "--config.eval.batch_size=16", "--config.eval.nfe=(2,)", "--config.eval.curve_nfe=2",
       "--config.eval.remasking=('low_confidence',)",
       "--config.log_steps=1", "--config.checkpoint_steps=2"]
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
    # Most of the time is that of compiling, again and again.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  """A compilation cache: programs of one job are found by the next."""
  _ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  """Texts so short that evaluating is quick."""
  folder, draw = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
  for i in range(5):
    words = draw.choice(["moor", "hound", "fog", "door", "light"], 500)
    (folder / f"text{i}.txt").write_text(" ".join(words))
  return [f"--config.data.source.path={folder}/text[1-4].txt",
          f"--config.data.source.validation_path={folder}/text0.txt"]


@pytest.fixture(scope="module")
def alone(texts, tmp_path_factory):
  """The workdir of the run on one process that the others are compared with."""
  workdir = tmp_path_factory.mktemp("alone")
  _run([*_SMALL, *texts, f"--workdir={workdir}"], 1)
  return workdir


@pytest.fixture(scope="module")
def rl_alone(tmp_path_factory):
  """The same of RL, with its base."""
  workdir = tmp_path_factory.mktemp("rl_alone")
  _run([*_RL, f"--workdir={workdir}"], 1)
  return workdir


def _start(args, num_processes, *options):
  command = ([str(_ROOT / "launch/local.sh"), *options, str(num_processes)] if num_processes > 1
             else [sys.executable, "-m", "mdx.main"])
  return subprocess.Popen([*command, *args], text=True, cwd=_ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=_ENVIRONMENT, start_new_session=True)


def _finish(process):
  try:
    out, _ = process.communicate(timeout=300)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    raise
  return process.returncode, out


def _run(args, num_processes):
  code, out = _finish(_start(args, num_processes))
  assert code == 0, out
  return out


def _until(process, workdir, step):
  """Waits until a run has logged a step; returns the ids of its processes."""
  file = workdir / "metrics.jsonl"
  reached = lambda: [x["step"] for x in metrics_lib.read(file)] if file.exists() else []
  while max(reached(), default=0) < step:
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  return [int(x) for x in subprocess.run(
      ["pgrep", "-g", str(process.pid), "-f", "mdx.main --distributed"], capture_output=True,
      text=True, check=True).stdout.split()]


def _losses(workdir):
  return {x["step"]: x["loss"] for x in metrics_lib.read(workdir / "metrics.jsonl")
          if x["kind"] == "train"}


def _assert_same(a, b):
  assert a and a.keys() == b.keys()
  np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-5)


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_job(texts, tmp_path):
  """Only the first process writes the workdir; the other goes on to where it waits for the first."""
  (tmp_path / "file").write_text("in the way")
  began = time.monotonic()
  code, out = _finish(_start([*_SMALL, *texts, f"--workdir={tmp_path / 'file/run'}"], 2))
  assert code == 2 and "cannot be written" in out, out
  assert time.monotonic() - began < 120  # jax by itself waits for five minutes


@pytest.mark.slow
@pytest.mark.parametrize("other, named", [("--config.optimizer.learning_rate=0.5", "config"),
                                          ("data", "data")])
def test_processes_that_would_not_run_the_same_are_refused(other, named, texts, tmp_path):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  jobs = []
  for i in range(2):
    job = tmp_path / f"process_{i}"  # each has a disk of its own, where the data has one name
    job.mkdir()
    for j, text in enumerate(("the moor", "the hound" if i and other == "data" else "the fog")):
      (job / f"text{j}.txt").write_text(text * 50)
    args = [*_SMALL, "--config.data.source.path=text1.txt", f"--workdir={tmp_path / 'run'}",
            "--config.data.source.validation_path=text0.txt", "--distributed"]
    if i and other != "data":
      args.append(other)
    environment = _ENVIRONMENT | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(i), "PYTHONPATH": str(_ROOT)}
    jobs.append(subprocess.Popen([sys.executable, "-m", "mdx.main", *args], text=True, cwd=job,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=environment, start_new_session=True))
  for code, out in map(_finish, jobs):
    assert code == 2 and f"do not have the same {named}: that of process 1" in out, out
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_port_in_use_is_one_line_at_once(texts, tmp_path):
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    environment = _ENVIRONMENT | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{taken.getsockname()[1]}",
        "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    done = subprocess.run([sys.executable, "-m", "mdx.main", *_SMALL, *texts, "--distributed",
                           f"--workdir={tmp_path}"], capture_output=True, text=True, cwd=_ROOT,
                          env=environment, timeout=60)
  assert done.returncode == 2 and "choose a free one for every process" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("num, after", [(2, 1), tiny.releases(4, 2)])
def test_a_signal_to_one_saves_one_step_on_all_and_another_number_goes_on_where_they_were(
    num, after, texts, alone, tmp_path):
  args = [*_SMALL, *texts, f"--workdir={tmp_path}"]
  process = _start(args, num)
  workers = _until(process, tmp_path, 10)
  assert len(workers) == num
  os.kill(workers[0], signal.SIGTERM)
  code, out = _finish(process)
  assert code == 75 and out.count("everything is saved") == num, out
  newest = checkpoint_lib.step_directories(tmp_path)[0]
  step = int(newest.name)
  assert 10 <= step < _STEPS
  states = [json.loads(p.read_text()) for p in sorted((newest / "data").glob("process_*.json"))]
  streams = [list(state["shards"]) for state in states]
  assert [len(x) for x in streams] == [_SHARDS // num] * num  # each its own
  assert sorted(sum(streams, [])) == [str(i) for i in range(_SHARDS)]

  out = _run(args, after)
  assert f"resuming from step {step}" in out and "goes on with the next batch" in out, out
  assert checkpoint_lib.step_directories(tmp_path)[0].name == str(_STEPS)
  _assert_same(_losses(tmp_path), _losses(alone))
  results = [json.loads((path / "results.json").read_text()) for path in (tmp_path, alone)]
  assert results[0]["bits_per_char"] == pytest.approx(results[1]["bits_per_char"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("num, mesh", [
    tiny.releases(4, []), (2, ["--config.mesh.data=1", "--config.mesh.tensor=2"])])
def test_a_job_killed_and_started_again_has_the_losses_of_one_process(num, mesh, texts, alone,
                                                                      tmp_path):
  args = [*_SMALL, *texts, f"--workdir={tmp_path}", "--config.checkpoint_steps=10", *mesh]
  process = _start(args, num)
  workers = _until(process, tmp_path, 25)
  assert len(workers) == num
  os.kill(workers[-1], signal.SIGKILL)
  code, out = _finish(process)
  assert code == 137, out
  assert "resuming from step" in _run(args, num)
  _assert_same(_losses(tmp_path), _losses(alone))


@pytest.mark.release
@pytest.mark.slow
def test_the_launcher_starts_a_killed_job_again(texts, alone, tmp_path):
  args = [*_SMALL, *texts, f"--workdir={tmp_path}", "--config.checkpoint_steps=10"]
  process = _start(args, 2, "--restart")
  os.kill(_until(process, tmp_path, 25)[0], signal.SIGKILL)
  code, out = _finish(process)
  assert code == 0 and "status 137, starting again" in out and "resuming from step" in out, out
  _assert_same(_losses(tmp_path), _losses(alone))


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("num", [2, tiny.releases(4)])
def test_rl_on_several_processes_is_rl_on_one_also_after_a_kill(num, rl_alone, tmp_path):
  shutil.copytree(rl_alone / "base", tmp_path / "base")
  args = [*_RL, f"--workdir={tmp_path}"]
  process = _start(args, num)
  os.kill(_until(process, tmp_path, 3)[-1], signal.SIGKILL)
  _finish(process)
  _run(args, num)
  _assert_same(_losses(rl_alone), _losses(tmp_path))
  assert any(_losses(rl_alone).values())  # there was something to learn from
  one, many = (json.loads((path / "results.json").read_text())["table"]
               for path in (rl_alone, tmp_path))
  assert [row["accuracy"] for row in one] == [row["accuracy"] for row in many]


@pytest.mark.parametrize("num_shards", [1, 4])
def test_the_examples_of_an_epoch_are_read_once_over_all_processes(num_shards):
  """Counted: 24 documents in rows of their own, 4 processes with two rows of a batch of 8 each."""
  tokenizer = tokenizer_lib.build("byte")
  cfg = {"length": 4, "packing": "pad", "append_eos": False, "num_shards": num_shards,
         "source": {"name": "memory", "documents": [[i] for i in range(24)], "holdout_every": 0}}
  mesh = sharding.make_mesh({"data": 4, "tensor": 2})
  assert sharding.local_rows(mesh, 8) == slice(0, 8)  # this process has all devices
  seen = []
  for process in range(4):
    batches = iter(pipeline.build(cfg, tokenizer, split="train", batch_size=8, seed=1,
                                  rows=slice(2 * process, 2 * process + 2)))
    seen += [int(t) for _ in range(3) for t in next(batches)["tokens"][:, 0]]
  assert sorted(seen) == list(range(24))
