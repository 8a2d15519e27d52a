"""The command line: `python -m mdx.main --config=configs/diffusion.py`.

Contents: main, command.

Exit status: 0 finished; 2 bad input (one line on stderr); 3 a program of mode compile does not
fit; 75 stopped on a signal with everything saved; 1 anything else.
"""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import sys
import textwrap
import threading
import warnings
from typing import Sequence

from absl import flags
from absl import logging

from mdx import config as config_lib
from mdx.utils import malloc
from mdx.utils import stopping

OK, FAILED, BAD_INPUT, TOO_LARGE, STOPPED = 0, 1, 2, 3, 75
_HELP_FLAGS = ("--help", "-h", "-help", "--helpfull", "--helpshort")
_HEARTBEAT_SECONDS = 30  # after which a process that died ends the others of its job
_GRACE_SECONDS = 10.0  # in which the processes of a job that failed may end together

_HELP = """mdx: masked language models in JAX.

usage: mdx --config=FILE[:ARG] [--config.KEY=VALUE ...] [--workdir=DIR]
       (the same as python -m mdx.main ...)

  --config      a config file, one of those below or yours
  --config.KEY  overrides one value, e.g. --config.steps=100 --config.optimizer.learning_rate=1e-3
  --help --config=FILE  every key of a config with its default, type and explanation
  --print_config  print every value of the config as such an override, and do nothing
  --workdir     where the run writes (default: runs/ and the config's name)
  --distributed  join a multi-process job: TPU pod, SLURM, Kubernetes, or by hand with
                JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set
  --debug       show tracebacks instead of one-line errors

modes (config.mode; sample, rl and claim have configs of their own)
  train         train, evaluate, sample, plot; resumes if the workdir has a checkpoint
  sample        decode --config.prompts with --config.sampler.name from --config.init.checkpoint
  rl            improve a model by reinforcement learning on a task, and compare it with its base
  eval          accuracy on a task (configs/eval.py), or held-out likelihood of a checkpoint (with
                any training config)
  export        write weights, config and tokenizer to --config.export.path (likewise)
  predict       label new rows with a fine-tuned model (configs/predict.py)
  embed         embeddings of the texts of a file (configs/embed.py)
  search        the nearest texts of a corpus to a query (configs/search.py)
  claim         measure a claim of configs/claims: arms x seeds of runs, and a stated test
  report        write report.html of a run again, or of several (configs/report.py)
  compile       compile a training or RL config for --config.compile.topology, which need not be
                there: does it fit, and what does the compiler estimate
  table         fine-tune models on tasks and compare them (configs/finetune.py:table)

configs that come with mdx
{configs}
claims (configs/claims)
{claims}

exit status: 0 finished, 2 bad input, 3 does not fit (compile), 75 stopped on a signal with
everything saved, 1 anything else
"""


def _config_dir() -> pathlib.Path:
  """Folder of the configs, in a checkout and in an installed wheel."""
  from mdx import configs  # pylint: disable=g-import-not-at-top
  return pathlib.Path(configs.__path__[0])


def _names(folder: pathlib.Path) -> list[str]:
  return sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "common"))


def _print_help() -> None:
  folder = _config_dir()
  about = lambda name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(
      encoding="utf-8"))).partition("\n")[0]
  column = max(map(len, _names(folder))) + len("configs/.py") + 2
  configs = [f"  {f'configs/{name}.py':<{column}}{about(name)}" for name in _names(folder)]
  text = _HELP.format(configs="\n".join(configs), claims="  " + ", ".join(
      _names(folder / "claims")))
  _show(_wrapped(text.rstrip(), min(shutil.get_terminal_size((100, 24)).columns, 100)))


def _wrapped(text: str, width: int) -> str:
  """Breaks lines between words; what follows stands below its entry's explanation."""
  lines: list[str] = []
  for line in text.split("\n"):
    if lines and line.startswith(" " * 12):  # goes on with the entry above
      lines[-1] += " " + line.strip()
    else:
      lines.append(line)
  column = lambda line: len(re.match(r"\s*(\S+( \S+)*?\s{2,})?", line).group())
  return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * column(line),
                                 break_long_words=False, break_on_hyphens=False)
                   for line in lines)


def _print_keys(argv: Sequence[str]) -> None:
  """Explains the keys of the config of a command line."""
  from mdx.build import explain  # pylint: disable=g-import-not-at-top
  file, _, arg = next(a.partition("=")[2] for a in _find_configs(argv)
                      if a.startswith("--config=")).partition(":")
  _show(explain.text(explain.of_config(_read_config(file, arg), file)))


def _print_config(cfg) -> None:
  lines = []
  for key, value in config_lib.flatten(cfg).items():
    if value == {}:  # a table without keys has nothing to override
      continue
    text = str(tuple(value)).replace("'", '"') if isinstance(value, list) else str(value)
    lines.append(f"--config.{key}={shlex.quote(text)}")
  _show("\n".join(lines))


def _show(text: str) -> None:
  """Prints a text to whoever may read only its head."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _joined(argv: Sequence[str]) -> list[str]:
  """`--config FILE` and `--config.KEY VALUE` as `--config=FILE` and `--config.KEY=VALUE`."""
  argv, found = list(argv), []
  while argv:
    arg = argv.pop(0)
    is_split = arg.startswith(("--config.", "-config.")) or arg in ("--config", "-config")
    if is_split and "=" not in arg and argv and not argv[0].startswith("-"):
      arg = f"{arg}={argv.pop(0)}"
    found.append(arg)
  return found


def _find_configs(argv: Sequence[str]) -> list[str]:
  """Lets `--config=configs/x.py` find the packaged file outside a checkout."""
  found = []
  for arg in _joined(argv):
    name, given, value = arg.partition("=")
    file, colon, rest = value.partition(":")
    if name in ("--config", "-config") and given and not os.path.exists(file):
      packaged = _config_dir() / pathlib.Path(file).relative_to("configs") if (
          file.startswith("configs/")) else None
      if packaged is None or not packaged.exists():
        shipped = [f"configs/{n}.py" for n in _names(_config_dir())]
        raise ValueError(f"config file {file!r} does not exist; shipped are {', '.join(shipped)}."
                         + config_lib.did_you_mean(file, shipped))
      arg = f"{name}={packaged}{colon}{rest}"
    found.append(arg)
  return found


def _check_value(flag: str, text: str, default) -> None:
  """Raises ValueError for a text that is no value of the default's type."""
  kinds = {bool: "True or False", int: "a whole number", float: "a number"}
  if hasattr(default, "keys"):
    raise ValueError(f"{flag} is a table; set its keys, such as {flag}.{min(default)}=VALUE."
                     if default else f"{flag} is a table without keys; set it in a config file.")
  try:
    if isinstance(default, bool):
      ("true", "false", "t", "f", "1", "0").index(text.lower())
    elif isinstance(default, (int, float)):
      type(default)(text)
  except ValueError:
    raise ValueError(f"{flag}: expected {kinds[type(default)]}, such as {default!r}; "
                     f"got {text!r}.") from None


def _read_config(file: str, arg: str):
  """The config of a file, which is tried before absl does; raises ValueError."""
  from mdx.utils import python_file  # pylint: disable=g-import-not-at-top
  module = python_file.load(file, "config file")
  if hasattr(module, "get_config"):
    with python_file.errors(file, "config file"):
      return module.get_config(arg) if arg else module.get_config()
  raise ValueError(f"config file {file!r} has no get_config(arg=None); begin with a copy of one of "
                   "mdx, see --help.")


def _check_overrides(argv: Sequence[str]) -> None:
  """Raises ValueError for `--config.KEY` of a key or a type that the config file has not."""
  file, _, arg = next(
      (a.partition("=")[2] for a in argv if a.startswith("--config=")), "").partition(":")
  given = [a.partition("=") for a in argv if a.startswith("--config.")]
  if not file:
    return
  config = _read_config(file, arg)
  for flag, is_set, text in given:
    value, path = config, "config"
    for part in flag.split(".")[1:]:
      name = part.partition("[")[0]
      if not hasattr(value, "keys") or name not in value:
        choices = sorted(value) if hasattr(value, "keys") else []
        raise ValueError(f"{path} has no key {name!r} ({flag}); its keys are "
                         f"{', '.join(choices) or 'none'}."
                         + config_lib.did_you_mean_key(
                             name, config, path.removeprefix("config").lstrip(".")))
      value, path = value[name], f"{path}.{name}"
    if is_set and "[" not in flag:
      _check_value(flag, text, value)


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
  malloc.tune_cpu()
  import jax  # pylint: disable=g-import-not-at-top
  from mdx.utils import compiled  # pylint: disable=g-import-not-at-top
  compiled.use_cache()
  if distributed:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name, "") for name in names]
    if not any(given[1:]):
      jax.distributed.initialize()  # TPU pods, SLURM, Kubernetes and MPI are recognised
    elif all(given) and given[1].isdecimal() and given[2].isdecimal():
      _check_port(given[0], is_first=int(given[2]) == 0)
      jax.distributed.initialize(given[0], int(given[1]), int(given[2]),
                                 heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    else:
      raise ValueError(f"a job started by hand needs {', '.join(names)} in the environment of "
                       f"every process; got {', '.join(g or 'nothing' for g in given)}.")


def _check_port(address: str, *, is_first: bool) -> None:
  """Raises ValueError for what is no HOST:PORT, or on the first process if the port is taken."""
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
    raise ValueError(f"JAX_COORDINATOR_ADDRESS must be HOST:PORT, got {address!r}.")
  if not is_first:
    return
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(("", int(port)))
    except OSError as error:
      raise ValueError(f"port {port} of JAX_COORDINATOR_ADDRESS {address} cannot be used on the "
                       f"first process ({error.strerror}); choose a free one for every process."
                       ) from None


def _one_line(error: BaseException) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a config; returns the exit status."""
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _stop_early)  # until training installs its own
  stopping.watch(functools.partial(_stop_early, None, None))
  argv = list(sys.argv if argv is None else argv)
  debug_given = "--debug" in argv
  if any(a in _HELP_FLAGS for a in argv[1:]):
    if not any(a.split("=")[0] == "--config" for a in argv):
      _print_help()
      return OK
  try:
    if any(a in _HELP_FLAGS for a in argv[1:]):
      _print_keys(argv)
      return OK
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
      _print_config(cfg)
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
  # Orbax leaves them behind where a damaged checkpoint is passed over.
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  return _run(cfg, directory, distributed.value, debug.value)


def _stop_early(number, frame) -> None:
  """A signal outside training: what is finished has been written already."""
  del number, frame
  if os.isatty(1):
    os.write(1, b"\033[?25h\n")  # the cursor, which a progress bar hides
  # A progress bar has sys.stderr, and what it holds would be lost.
  os.write(2, b"mdx: stopped on a signal; finished rows and checkpoints are kept. Run the same "
              b"command to go on.\n")
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
  from mdx.build import workdir as workdir_lib  # pylint: disable=g-import-not-at-top
  from mdx.costs import chips  # pylint: disable=g-import-not-at-top
  from mdx.train import progress  # pylint: disable=g-import-not-at-top
  try:
    _prepare_jax(distributed)
    workdir_lib.check_workdir(directory)
    modes.run(cfg.mode, cfg, directory)
    return OK
  except progress.Stopped as stopped:
    print(f"mdx: {stopped} Run the same command to go on.", file=sys.stderr)
    return STOPPED
  except chips.TooLarge as error:
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


def command() -> None:
  """The console command `mdx`, the same as `python -m mdx.main`."""
  sys.exit(main())


if __name__ == "__main__":
  command()
