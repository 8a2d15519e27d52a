"""The directory of a run: checked, and claimed for one config.

Contents: BASE, check_workdir, in_use, claim_workdir, write_config, check_config, check_job, meta,
check_meta.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Mapping

import jax

from mdx import checkpoint as checkpoint_lib
from mdx.build import identity
from mdx.data import tokenizer as tokenizer_lib
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers
from mdx.utils import tree

BASE = "base"  # directory in a workdir, of the model that the run trained first

def check_workdir(workdir: str) -> None:
  """Raises ValueError for a URL."""
  if "://" in workdir:
    raise ValueError(f"workdir {workdir} is a URL; give a path, such as that of a mounted bucket "
                     "(gcsfuse). Checkpoints can be kept in a bucket that is not mounted: "
                     "config.checkpoint.directory=gs://BUCKET/FOLDER.")


@contextlib.contextmanager
def in_use(path: pathlib.Path, *, alone: bool = True) -> Iterator[None]:
  """Keeps a workdir to one run while the block lasts, on the first process of a job.

  Args:
    path: the workdir, which is made.
    alone: False for what only looks at a run, which may go on meanwhile.

  The system frees it when the process ends, however it ends. A workdir that did not exist and in
  which nothing was written is removed again.

  Raises:
    ValueError: it cannot be written, or another run has it.
  """
  if jax.process_index():
    yield
    return
  new = [p for p in (path, *path.parents) if not p.exists()]
  descriptor = _open(path, alone)
  try:
    yield
  finally:
    os.close(descriptor)
    with contextlib.suppress(OSError):  # something is in it
      for folder in new:
        folder.rmdir()


def _open(path: pathlib.Path, alone: bool) -> int:
  """The descriptor of a workdir, which has its lock if it is to be alone."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".probe{os.getpid()}"
    probe.write_text("x" * 4096, encoding="utf-8")
    probe.unlink()
    descriptor = os.open(path, os.O_RDONLY)
  except OSError as error:
    raise ValueError(f"workdir {path} cannot be written ({error.strerror}); use another "
                     "--workdir, or free some space.") from None
  if not alone:
    return descriptor
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise ValueError(f"workdir {path} is in use by another run that has not ended; wait for it, "
                     "or use another --workdir.") from None
  except OSError:
    pass  # a file system without locks
  return descriptor


def claim_workdir(path: pathlib.Path, config: Mapping[str, Any],
                  tokenizer: tokenizer_lib.Tokenizer, state: Any) -> None:
  """Checks the workdir of a run and writes the resolved config into it.

  Args:
    path: the workdir.
    config: resolved config, with `checkpoint.keep`.
    tokenizer: written beside the config.
    state: shape structs of what a checkpoint holds.

  Raises:
    ValueError: too little space, or the run of another config.
  """
  is_begun = _is_begun(path)
  if is_begun:
    check_config(path, config)
  if jax.process_index() != 0:
    return
  path.mkdir(parents=True, exist_ok=True)
  kept = 0 if config["checkpoint"].get("directory") else config["checkpoint"]["keep"] + 1
  need = tree.num_bytes(state) * kept + 2 ** 24
  free = shutil.disk_usage(path).free
  if free < need:
    raise ValueError(f"workdir {path} has {free / 2 ** 20:,.0f} MiB free, the checkpoints need "
                     f"{need / 2 ** 20:,.0f} MiB; free some space or use another --workdir.")
  if not (is_begun and (path / "config.json").exists()):
    tokenizer.save(path)
    write_config(path, config)


def write_config(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Writes the config of a run, with its hash, into the workdir."""
  files.write_json(path / "config.json", {"hash": identity.run_hash(config),
                                          "config": identity.anywhere(config)})


def _is_begun(path: pathlib.Path) -> bool:
  """Whether a run has left anything that another would spoil: a config alone is nothing yet."""
  lines = path / "metrics.jsonl"
  if (path / "results.json").exists() or lines.exists() and lines.stat().st_size:
    return True
  try:
    return bool(checkpoint_lib.step_directories(path))
  except ValueError:
    return False


def check_config(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Raises ValueError if a workdir has a run of another config than this resolved one."""
  config_path = path / "config.json"
  if config_path.exists():
    try:
      old = readers.read_json(config_path)["config"]
    except (ValueError, KeyError, TypeError, OSError):
      raise ValueError(f"{config_path} is not readable as a config; use another --workdir, or "
                       "remove that file.") from None
    if identity.run_hash(old) != identity.run_hash(config):
      changes = identity.differences(old, config)
      raise ValueError(f"workdir {path} holds a run of another config ({'; '.join(changes[:3])}); "
                       "use another --workdir, or remove it.")
    before, now = (c["checkpoint"].get("directory", "") for c in (old, config))
    if before != now:
      raise ValueError(f"the run in workdir {path} keeps its checkpoints in {before or 'it'}, not "
                       f"in {now or 'it'}; give config.checkpoint.directory={before!r}.")


def check_job(path: pathlib.Path, config: Mapping[str, Any], data: Callable[[], Any]) -> None:
  """Raises ValueError unless all processes of a job run the same, before any of them writes.

  Args:
    path: the workdir.
    config: resolved config.
    data: () -> what tells the data from others, a value of JSON.
  """
  processes.check_same({"workdir": lambda: os.path.abspath(path), "config": lambda: config,
                        "data": data, "code of mdx": identity.code})


def meta(config: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Any]:
  """Facts of a run that are saved with every checkpoint."""
  return {"hash": identity.run_hash(config), "tokenizer": tokenizer.fingerprint,
          "process_count": jax.process_count()}


def check_meta(path: pathlib.Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
  """Raises ValueError if a checkpoint in the workdir of a run is that of another.

  Args:
    path: the workdir, with the config of the run.
    stored: what was saved with the checkpoint.
    expected: `meta` of the run.
  """
  try:
    first = readers.read_json(path / "config.json").get("hash")
  except (OSError, ValueError, AttributeError):
    first = None
  # A release that computes hashes otherwise goes on with what an older one began.
  if stored.get("hash", first) not in (first, expected["hash"]) or (
      stored.get("tokenizer", expected["tokenizer"]) != expected["tokenizer"]):
    raise ValueError(f"the checkpoints of workdir {path} are those of another run (its config or "
                     "tokenizer is another); use another --workdir, or remove them.")
