"""The command line: `python -m mdx.main --config=configs/diffusion.py`.

Contents: main.

Exit status: 0 finished; 2 bad input (one line on stderr); 3 a program of mode compile does not
fit; 75 stopped on a signal with everything saved; 1 anything else.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
from typing import Sequence

from absl import flags
from absl import logging

from mdx import config as config_lib
from mdx.utils import host

OK, FAILED, BAD_INPUT, TOO_LARGE, STOPPED = 0, 1, 2, 3, 75
_GRACE_SECONDS = 10.0  # in which the processes of a job that failed may end together

_HELP = """mdx: masked language models in JAX.

usage: python -m mdx.main --config=FILE[:ARG] [--config.KEY=VALUE ...] [--workdir=DIR]

  --config      a config file; those shipped with mdx:
                {configs}
  --config.KEY  overrides one value, e.g. --config.steps=100 --config.optimizer.learning_rate=1e-3
  --print_config  print every value of the config, and do nothing
  --workdir     where the run writes (default: runs/ and the config's name)
  --distributed join a multi-process job: TPU pod, SLURM, Kubernetes, or by hand with
                JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set
  --debug       show tracebacks instead of one-line errors

modes (config.mode; sample, rl and claim have configs of their own)
  train         train, evaluate, sample, plot; resumes if the workdir has a checkpoint
  sample        decode --config.prompts with --config.sampler.name from --config.init.checkpoint
  rl            improve a model by reinforcement learning on a task, and compare it with its base
  eval          accuracy on a task (configs/eval.py), or held-out likelihood of a checkpoint (with
                any training config)
  export        write weights, config and tokenizer to --config.export.path (likewise)
  claim         measure a claim of configs/claims: arms x seeds of runs, and a stated test
  report        write report.html of a run again, or of several (configs/report.py)
  compile       compile a training or RL config for --config.compile.topology, which need not be
                there: does it fit, and what does the compiler estimate
  table         fine-tune models on tasks and compare them (configs/finetune.py:table)

exit status: 0 finished, 2 bad input, 3 does not fit (compile), 75 stopped on a signal with
everything saved, 1 anything else
"""


def _config_dir() -> pathlib.Path:
  """Where the configs are, in a checkout and in an installed wheel."""
  from mdx import configs  # pylint: disable=g-import-not-at-top
  return pathlib.Path(configs.__path__[0])


def _print_help() -> None:
  files = [p.relative_to(_config_dir()) for p in sorted(_config_dir().rglob("*.py"))]
  shown = [f"configs/{p}" for p in files if p.stem not in ("__init__", "common")]
  print(_HELP.format(configs=", ".join(shown)))


def _find_configs(argv: Sequence[str]) -> list[str]:
  """Lets `--config=configs/x.py` find the packaged file outside a checkout."""
  found = []
  for arg in argv:
    name, given, value = arg.partition("=")
    file, colon, rest = value.partition(":")
    if name in ("--config", "-config") and given and not os.path.exists(file):
      packaged = _config_dir() / pathlib.Path(file).relative_to("configs") if (
          file.startswith("configs/")) else None
      if packaged is not None and packaged.exists():
        arg = f"{name}={packaged}{colon}{rest}"
      else:
        names = sorted(p.name for p in _config_dir().glob("*.py") if p.stem != "__init__")
        raise ValueError(f"config file {file!r} does not exist; shipped are "
                         f"{', '.join('configs/' + n for n in names if n != 'common.py')}.")
    found.append(arg)
  return found


def _check_overrides(argv: Sequence[str]) -> None:
  """Raises ValueError for `--config.KEY` where the config file has no such key."""
  import importlib.util  # pylint: disable=g-import-not-at-top
  file, _, arg = next(
      (a.partition("=")[2] for a in argv if a.startswith("--config=")), "").partition(":")
  keys = [a.partition("=")[0] for a in argv if a.startswith("--config.")]
  if not file:
    return
  spec = importlib.util.spec_from_file_location("mdx_checked_config", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(arg) if arg else module.get_config()
  for flag in keys:
    value, path = config, "config"
    for part in flag.split(".")[1:]:
      name = part.partition("[")[0]
      if not hasattr(value, "keys") or name not in value:
        choices = sorted(value) if hasattr(value, "keys") else []
        raise ValueError(f"{path} has no key {name!r} ({flag}); its keys are "
                         f"{', '.join(choices) or 'none'}."
                         + config_lib.did_you_mean(name, choices))
      value, path = value[name], f"{path}.{name}"


def _define_flags():
  from ml_collections import config_flags  # pylint: disable=g-import-not-at-top
  config = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
  workdir = flags.DEFINE_string("workdir", None, "Directory of the run.")
  distributed = flags.DEFINE_bool("distributed", False, "Join a multi-process job.")
  debug = flags.DEFINE_bool("debug", False, "Show tracebacks.")
  shown = flags.DEFINE_bool("print_config", False, "Print the config.")
  return config, workdir, distributed, debug, shown


def _prepare_jax(distributed: bool) -> None:
  """Compilation cache and the multi-process job, before any device is used."""
  host.tune_cpu()
  import jax  # pylint: disable=g-import-not-at-top
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mdx" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
  if distributed:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name, "") for name in names]
    if not any(given[1:]):
      jax.distributed.initialize()  # TPU pods, SLURM, Kubernetes and MPI are recognised
    elif all(given) and given[1].isdigit() and given[2].isdigit():
      jax.distributed.initialize(given[0], int(given[1]), int(given[2]))
    else:
      raise ValueError(f"a job started by hand needs {', '.join(names)} in the environment of "
                       f"every process; got {', '.join(g or 'nothing' for g in given)}.")


def _one_line(error: BaseException) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a config; returns the exit status."""
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _stop_early)  # until training installs its own
  argv = list(sys.argv if argv is None else argv)
  debug_given = "--debug" in argv
  if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in argv[1:]):
    _print_help()
    return OK
  try:
    config, workdir, distributed, debug, shown = _define_flags()
    argv = _find_configs(argv)
    _check_overrides(argv)
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise ValueError(f"unexpected argument {rest[1]!r}; see --help.")
    if config.value is None:
      raise ValueError("give a config: --config=configs/diffusion.py; see --help.")
    cfg = config.value
    if shown.value:
      print(cfg)
      return OK
  except flags.UnrecognizedFlagError as error:
    print(f"mdx: {_one_line(error)}; see --help.", file=sys.stderr)
    return BAD_INPUT
  except Exception as error:  # pylint: disable=broad-except  (a config file may raise anything)
    if debug_given:
      raise
    print(f"mdx: {_one_line(error)}", file=sys.stderr)
    return BAD_INPUT
  name = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "run")
  directory = workdir.value or f"runs/{pathlib.Path(name.partition(':')[0]).stem}"
  logging.set_verbosity(logging.WARNING)
  return _run(cfg, directory, distributed.value, debug.value)


def _stop_early(number, frame) -> None:
  """A signal outside training: there is nothing to save."""
  del number, frame
  print("mdx: stopped on a signal with nothing to save.", file=sys.stderr)
  sys.stderr.flush()
  os._exit(STOPPED)  # imports may be half done: no clean-up can be trusted


def _failed(status: int) -> int:
  """The status, which ends this process soon even if others of the job wait for it elsewhere."""
  import jax  # pylint: disable=g-import-not-at-top
  if jax.distributed.is_initialized():  # its clean-up waits minutes for processes that go on
    timer = threading.Timer(_GRACE_SECONDS, os._exit, [status])
    timer.daemon = True
    timer.start()
  return status


def _run(cfg, directory: str, distributed: bool, debug: bool) -> int:
  from mdx import modes  # pylint: disable=g-import-not-at-top
  from mdx import aot  # pylint: disable=g-import-not-at-top
  from mdx import setup as setup_lib  # pylint: disable=g-import-not-at-top
  from mdx.train import progress  # pylint: disable=g-import-not-at-top
  try:
    _prepare_jax(distributed)
    setup_lib.check_workdir(directory)
    if cfg.mode not in modes.MODES:
      raise ValueError(f"unknown config.mode {cfg.mode!r}; choose from {', '.join(modes.MODES)}.")
    modes.MODES[cfg.mode](cfg, directory)
    return OK
  except progress.Stopped as stopped:
    print(f"mdx: {stopped} Run the same command to go on.", file=sys.stderr)
    return STOPPED
  except aot.TooLarge as error:
    print(f"mdx: {error}", file=sys.stderr)
    return TOO_LARGE
  except KeyboardInterrupt:
    print("mdx: interrupted; the last checkpoint is in the workdir.", file=sys.stderr)
    return _failed(FAILED)
  except ValueError as error:
    if debug:
      _failed(FAILED)
      raise
    print(f"mdx: {_one_line(error)}", file=sys.stderr, flush=True)
    return _failed(BAD_INPUT)
  except Exception as error:  # pylint: disable=broad-except
    if debug:
      _failed(FAILED)
      raise
    print(f"mdx: {type(error).__name__}: {_one_line(error)} (--debug shows where)", file=sys.stderr,
          flush=True)
    return _failed(FAILED)


if __name__ == "__main__":
  sys.exit(main())
