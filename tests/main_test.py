"""The command line, as a user types it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import tiny

from mdx import main

_SMALL = ["--config.network.num_layers=1", "--config.network.width=16",
          "--config.network.num_heads=2", "--config.network.mlp_width=16",
          "--config.batch_size=4", "--config.data.length=16", "--config.eval.final_samples=1",
          "--config.eval.num_batches=1", "--config.sampler.num_samples=1",
          "--config.sampler.steps=4", "--config.log_steps=10"]
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # most of the time is that of compiling


def _start(*args, cwd=None, **kwargs):
  return subprocess.Popen([sys.executable, "-m", "mdx.main", *args], text=True, cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT,
                          **kwargs)


def _run(*args, cwd=None):
  process = _start(*args, cwd=cwd)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def _logged_steps(workdir):
  """Steps of the complete lines of metrics.jsonl."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(x)["step"] for x in lines if x.endswith("}")]


def _wait_for_step(workdir, step, process):
  """Returns once metrics.jsonl has a line at or after a step."""
  for _ in range(1200):
    if max(_logged_steps(workdir), default=0) >= step:
      return
    assert process.poll() is None, process.communicate()
    time.sleep(0.1)
  raise AssertionError(f"no step {step} after two minutes")


def test_help_lists_modes_and_configs_and_exits_0():
  code, out, err = _run("--help")
  assert code == 0 and not err
  assert all(word in out for word in ("train", "eval", "export", "exit status"))
  assert len(tiny.CONFIGS) and all(f"configs/{name}.py" in out for name in tiny.CONFIGS)
  for words in (" Masked language modelling (BERT", "lattice_times"):
    assert words in out  # what a config is, and the claims


@pytest.mark.slow
def test_help_of_a_config_explains_its_keys_and_exits_0():
  code, out, err = _run("--help", "--config=configs/mlm.py")
  assert code == 0 and not err
  assert "  --config.batch_size=64\n      whole number; rows a step over all devices\n" in out
  assert "network.width=128\n      whole number; residual width D.\n" in out
  assert _run("--help", "--config", "configs/nope.py")[0] == 2


def test_print_config_prints_overrides_that_give_the_same_config():
  code, out, err = _run("--config", "configs/mlm.py", "--print_config", "--config.steps=7",
                        '--config.lora.targets=("q", "v")')
  assert code == 0 and not err and "--config.steps=7\n" in out
  assert """--config.lora.targets='("q", "v")'""" in out
  assert _run("--config=configs/mlm.py", "--print_config", *shlex.split(out)) == (0, out, "")


_BAD_INPUT = [
    (["--nope=1"], "nope"),
    ([], "give a config"),
    (["--config=configs/difusion.py"], "shipped are configs/adapt.py"),
    (["--config", "configs/difusion.py"], "Did you mean 'configs/diffusion.py'?"),
    (["--config=configs/ar.py", "extra"], "unexpected argument 'extra'"),
    (["--config=configs/ar.py", "--config.stepz=3"], "Did you mean 'steps'?"),
    (["--config=configs/ar.py", "--config.data.lenght=3"], "Did you mean 'data.length'?"),
    (["--config=configs/ar.py", "--config.hidden_size=3"], "Did you mean network.width?"),
    (["--config=configs/ar.py", "--config.width=3"], "Did you mean network.width?"),
    (["--config=configs/ar.py", "--config.optimizer.lr=3"], "Did you mean 'optimizer.learning_rate'?"),
    (["--config=configs/ar.py", "--config.steps=many"], "expected a whole number, such as 1000"),
    (["--config", "configs/ar.py", "--config.optimizer.b1", "x"], "expected a number, such as 0.9"),
    (["--config=configs/ar.py", "--config.seed=-1"], "config.seed must be a whole number of at least 0"),
    (["--config=configs/ar.py", "--config.tensorboard=on"], "expected True or False"),
    (["--config=configs/ar.py", "--config.objective=mlm"], "set its keys, such as --config.objective.name"),
    (["--config=configs/ar.py", "--config.mode=trian"], "Did you mean 'train'?"),
    (["--config=configs/ar.py", "--config.network.num_heads=3"], "use a divisor"),
]


@pytest.mark.parametrize("args, message", tiny.mostly_slow(
    _BAD_INPUT, [_BAD_INPUT[i] for i in (1, 3, 5, 7, 9, 16)]))
def test_bad_input_exits_2_with_one_line(args, message, tmp_path):
  code, out, err = _run(*args, f"--workdir={tmp_path}/run")
  assert code == 2 and not out
  assert err.count("\n") == 1 and err.startswith("mdx: ") and message in err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, text, message", [
    ("mine.py", "x = 1\n", "has no get_config"), ("mine.py", "x = (\n", "fails: SyntaxError"),
    ("mine.py", "def get_config():\n  return 1 / 0\n", "fails: ZeroDivisionError: division by zero"),
    ("mine.txt", "", "is no Python file")])
def test_a_config_file_that_cannot_be_read_is_named(name, text, message, tmp_path):
  (tmp_path / name).write_text(text)
  code, out, err = _run(f"--config={tmp_path / name}")
  assert code == 2 and not out and err.count("\n") == 1
  assert err.startswith(f"mdx: config file '{tmp_path / name}' ") and message in err


@pytest.mark.slow
def test_a_failure_exits_1_and_names_the_step(tmp_path):
  code, _, err = _run("--config=configs/ar.py", *_SMALL, f"--workdir={tmp_path}",
                      "--config.steps=40", "--config.optimizer.learning_rate=9e15",
                      "--config.optimizer.clip_norm=0")
  assert code == 1 and "the loss of step" in err and "Traceback" not in err


@pytest.mark.slow
def test_runs_outside_the_checkout_with_the_default_workdir(tmp_path):
  code, out, err = _run("--config=configs/diffusion.py", *_SMALL, "--config.steps=3",
                        cwd=tmp_path)
  assert code == 0, err
  results = json.loads((tmp_path / "runs" / "diffusion" / "results.json").read_text())
  assert results["steps"] == 3 and "bits_per_char" in results
  for word in ("unigram", "bigram", "bound", "tokens_per_second", "left", "sample 1"):
    assert word in out


@pytest.mark.slow
@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_exits_75_and_the_same_command_goes_on(number, tmp_path):
  args = ["--config=configs/mlm.py", *_SMALL, f"--workdir={tmp_path}",
          "--config.checkpoint_steps=100000", "--config.steps=100000"]
  process = _start(*args)
  _wait_for_step(tmp_path, 20, process)
  process.send_signal(number)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75, err
  assert "everything is saved" in err and err.count("\n") == 1
  stopped = tiny.stored(tmp_path)[0]
  assert stopped >= 20
  process = _start(*args)
  _wait_for_step(tmp_path, stopped + 20, process)
  process.send_signal(number)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 75 and f"resuming from step {stopped}" in out
  lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  steps = [(x["step"], x["kind"]) for x in lines]  # step 250 is logged and evaluated
  assert len(steps) == len(set(steps)) and [x for x, _ in steps] == sorted(x for x, _ in steps)


@pytest.mark.slow
def test_a_run_killed_outright_goes_on_from_its_last_checkpoint(tmp_path):
  args = ["--config=configs/ar.py", *_SMALL, f"--workdir={tmp_path}",
          "--config.checkpoint_steps=20", "--config.steps=100000"]
  process = _start(*args)
  _wait_for_step(tmp_path, 60, process)
  process.kill()
  process.communicate()
  reached = max(_logged_steps(tmp_path))  # past what the first run has written
  process = _start(*args)
  _wait_for_step(tmp_path, reached + 20, process)
  process.kill()
  out, _ = process.communicate()
  assert "resuming from step" in out


def test_a_signal_outside_training_exits_75_and_says_what_is_kept():
  code = ("import os, signal, sys; from mdx import main; sys.stderr = None\n"  # a bar may have it
          "signal.signal(signal.SIGINT, main._stop_early); os.kill(os.getpid(), signal.SIGINT)")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 75 and not done.stdout
  assert done.stderr.count("\n") == 1 and "rows and checkpoints are kept" in done.stderr


def test_a_config_file_that_would_block_is_refused(tmp_path):
  os.mkfifo(tmp_path / "mine.py")
  with pytest.raises(ValueError, match="mine.py: expected a regular file, got a FIFO"):
    main._read_config(str(tmp_path / "mine.py"), "")
