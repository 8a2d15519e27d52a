"""Checkpoints: Orbax v1 behind one file.

Contents: Checkpoints (save and restore of a run), abstract, check_directory, step_directories,
check_params, load_params, save_params.

Convention: a checkpoint holds the items params, ema, opt_state, extra, data
and meta, saved separately, so that sampling and export read `params` alone.
Saving is asynchronous and atomic: a step directory counts only when it is complete. On a disk it
appears under its name then; in a bucket, where nothing can be renamed, a file in it says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging as std_logging
import os
import re
from typing import Any, Callable, Iterable, Iterator

from absl import logging
from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from mdx.utils import checksum
from mdx.utils import files
from mdx.utils import readers
from mdx.utils import tree


_BUCKET = "gs://"
_STEP = re.compile("0|[1-9][0-9]*")  # name of a step's directory
_SUMS = ("sums", "data_sums")  # of `meta`: checksums, used here alone
_PACKED = (*_SUMS, "window")  # of `meta`: written as JSON
_COMPLETE = "commit_success.txt"  # written by Orbax when all else is


def _is_news(record: std_logging.LogRecord) -> bool:
  """False for what Orbax logs of errors that we report, and of iterators without metadata."""
  return "orbax" not in record.pathname or not (
      record.exc_info or record.getMessage().startswith("Failed to get metadata"))


def _saving() -> ocp.Context:
  """Replicas of a large array write a share of it each; of small ones one writes all.

  A share is cut by a program of its own per shape and device, which costs more than it saves.
  """
  context = ocp.Context()
  context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
  return context


def _first_line(error: BaseException) -> str:
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _quieten_orbax() -> None:
  logging.get_absl_logger().addFilter(_is_news)  # adding it again changes nothing


class _Misfit(ValueError):
  """A sound checkpoint that this run cannot use."""


@contextlib.contextmanager
def _writing(path: os.PathLike) -> Iterator[None]:
  """Turns whatever goes wrong while writing into one line.

  Raises:
    OSError: naming the path and the cause.
  """
  _quieten_orbax()
  try:
    yield
  except Exception as error:  # pylint: disable=broad-except  (full disks raise many kinds)
    # Tensorstore: "RESOURCE_EXHAUSTED: ... file 11: No space left on device [os_error_code='28']"
    reason = re.search(r"([^:\n]+) \[os_error_code", str(error))
    reason = reason[1].strip() if reason else _first_line(error)
    raise OSError(f"{path} could not be written ({reason}); checkpoints already there are intact. "
                  "Free some space or repair the disk, and run the same command again.") from error


def _absolute(path: str | os.PathLike) -> epath.Path:
  text = os.fspath(path)
  return epath.Path(text if "://" in text else os.path.abspath(text))


def _in_bucket(path: str | os.PathLike) -> bool:
  return os.fspath(path).startswith(_BUCKET)


def check_directory(directory: str) -> None:
  """Raises ValueError unless checkpoints can be kept in `config.checkpoint.directory`."""
  if "://" in directory and not _in_bucket(directory):
    raise ValueError(f"config.checkpoint.directory {directory} is neither a path nor a bucket; "
                     f"write {_BUCKET}BUCKET/FOLDER.")
  if _in_bucket(directory) and importlib.util.find_spec("gcsfs") is None:
    raise ValueError(f"checkpoint.directory {directory} needs gcsfs; pip install -e '.[gcs]'.")


def _root(workdir: str | os.PathLike, directory: str = "") -> epath.Path:
  """Folder of the checkpoints of a run."""
  return _absolute(directory) if directory else _absolute(workdir) / "checkpoints"


def _elsewhere(workdir: epath.Path) -> str:
  """`config.checkpoint.directory` of the run of a workdir, or ""."""
  try:
    stored = readers.read_json(workdir / "config.json")["config"]
    return stored["checkpoint"].get("directory", "")
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return ""


def _steps(root: epath.Path) -> list[epath.Path]:
  """Complete checkpoints, newest first."""
  if not root.is_dir():
    return []
  found = [p for p in root.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()]
  if _in_bucket(root):
    found = [p for p in found if (p / _COMPLETE).exists()]
  return sorted(found, key=lambda p: int(p.name), reverse=True)


def step_directories(path: str | os.PathLike) -> list[epath.Path]:
  """Finds checkpoints, newest first.

  Args:
    path: a run's workdir, the folder of its checkpoints, one step of it, or an
      exported directory.

  Raises:
    ValueError: nothing there looks like a checkpoint.
  """
  path = _absolute(path)
  if not path.exists():
    raise ValueError(f"checkpoint {path} does not exist; give a run's workdir or a step directory.")
  if (path / "params").is_dir():
    return [path]
  root = _root(path, _elsewhere(path))
  steps = _steps(root if root.is_dir() else path)
  if not steps:
    raise ValueError(f"{path} holds no checkpoint; give a run's workdir, or a directory with "
                     "'params' in it.")
  return steps


def abstract(items: Any) -> Any:
  """Shape structs (with shardings) of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


def _averaged(directory: epath.Path, wanted: Any) -> Any:
  """The part of the wanted parameters that has a moving average; the rest was not trained."""
  _quieten_orbax()
  stored = ocp.checkpointables_metadata(directory).metadata.get("ema")
  if stored is None:
    raise FileNotFoundError(f"checkpoint {directory} has no item 'ema'.")
  paths = tree.flatten(stored)
  return tree.part(wanted, lambda path: path in paths)


def _check_shapes(directory: epath.Path, items: dict[str, Any], *,
                  is_part: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
  """Raises ValueError if the stored trees are not shaped as expected.

  Args:
    directory: of one step.
    items: name -> tree of shape structs.
    is_part: the trees may lack parts (first keys) that are stored.

  Returns:
    `items`, with the stored parts that they lack, and the shapes and dtypes stored.
  """
  _quieten_orbax()
  found = ocp.checkpointables_metadata(directory).metadata
  whole = {}
  for name, expected in items.items():
    if found.get(name) is None:
      raise FileNotFoundError(f"checkpoint {directory} has no item {name!r}.")
    if is_part:
      others = {k: v for k, v in found[name].items() if k not in expected}
      expected = {**expected, **jax.tree.map(
          lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), others)}
    whole[name] = expected
    lines = tree.difference(expected, found[name])
    if lines:
      raise _Misfit(f"checkpoint {directory} does not fit this model: {name}: {lines[0]}"
                    + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
                    + "; use the network of the run that wrote it.")
  return whole, {name: found[name] for name in items}


def _load(directory: epath.Path, wanted: dict[str, Any], *,
          is_part: bool = False) -> dict[str, Any]:
  """Loads trees, and `meta` with them.

  Raises:
    OSError: an array, or `meta`, is not the one that was saved.
  """
  stored = {k: v for k, v in wanted.items() if jax.tree.leaves(v)}
  whole, found = _check_shapes(directory, stored, is_part=is_part)
  loaded = ocp.load_checkpointables(directory, dict(whole, meta=None))
  meta = loaded["meta"] = _sound_meta(directory, dict(loaded["meta"]))
  for name, sums in checksum.of_items(
      {k: loaded[k] for k in stored if k in meta.get("sums", {})}).items():
    types = tree.flatten(found[name])  # what is cast on the way has another sum
    cast = {path: x.dtype for path, x in tree.flatten(loaded[name]).items()}
    sums = {path: x for path, x in sums.items() if types[path].dtype == cast[path]}
    if path := checksum.differing(meta["sums"][name], sums):
      raise OSError(f"{name}: {path} does not have its checksum.")
  return {k: loaded.get(k, v) for k, v in wanted.items()} | {"meta": meta}


def _with_sums(meta: dict[str, Any], items: dict[str, Any], data: Any = None) -> dict[str, Any]:
  """`meta` with the checksums of all that is saved with it, and its own."""
  meta = {**meta, "sums": checksum.of_items(items)}
  if data is not None:
    meta["data_sums"] = checksum.gathered(checksum.of_json(data.get_state()))
  # Orbax would write an array for every number of a table.
  meta = {k: json.dumps(v) if k in _PACKED else v for k, v in meta.items()}
  return {**meta, "sum": checksum.of_json(meta)}


def _sound_meta(directory: epath.Path, meta: dict[str, Any]) -> dict[str, Any]:
  """`meta` without its checksum; OSError unless it is that of this step."""
  if "sum" in meta and meta.pop("sum") != checksum.of_json(meta):
    raise OSError("meta does not have its checksum.")
  meta = {k: json.loads(v) if k in _PACKED else v for k, v in meta.items()}
  name = directory.name
  if _STEP.fullmatch(name) and meta.get("step", int(name)) != int(name):
    raise OSError(f"meta is that of step {meta['step']}.")
  return meta


def _load_iterator(directory: epath.Path, data: Any, meta: dict[str, Any]) -> None:
  """Sets the data iterator, from the states of all processes that there were.

  Raises:
    OSError: a state is missing, or is not the one that was saved.
  """
  files = sorted((directory / "data").glob("process_*.json"))
  if len(files) != meta.get("process_count", len(files)) or not files:
    raise OSError(f"{directory / 'data'} has {len(files)} of {meta.get('process_count')} states.")
  states = [json.loads(file.read_text()) for file in files]
  sums = sorted(checksum.of_json(state) for state in states)
  if meta.get("data_sums", sums) != sums:
    raise OSError(f"{directory / 'data'} does not have its checksum.")
  shards = {}
  for state in states:
    shards |= state["shards"]
  data.set_state({"shards": shards})
  if len(files) != jax.process_count():
    logging.warning("checkpoint %s was written by %s process(es), this job has %s: the data goes "
                    "on with the next batch.", directory, len(files), jax.process_count())


def check_params(path: str, wanted: Any, *, is_part: bool = False) -> None:
  """Raises ValueError unless `path` has weights of these shapes; reads no weights.

  Args:
    path: see `step_directories`.
    wanted: tree of shape structs.
    is_part: it may have more parts (first keys) than are wanted.
  """
  _newest(path, lambda directory: _check_shapes(directory, {"params": wanted}, is_part=is_part),
          logging.debug)


def _newest(path: str, read: Callable[[epath.Path], Any], log: Callable[..., None]) -> Any:
  """Returns `read` of the newest checkpoint that is not damaged; ValueError if there is none."""
  errors = []
  for directory in step_directories(path):
    try:
      return read(directory)
    except _Misfit:
      raise
    except Exception as error:  # pylint: disable=broad-except  (damaged files raise many kinds)
      errors.append(f"{directory.name}: {_first_line(error)}")
    log("checkpoint %s is damaged; trying the one before it.", directory)
  raise ValueError(f"no checkpoint under {path} can be read ({errors[0]}).")


def load_params(path: str, wanted: Any, which: str = "ema", *, is_part: bool = False) -> Any:
  """Loads the weights of a model from any checkpoint of ours.

  Args:
    path: see `step_directories`.
    wanted: tree of shape structs with shardings, the parameters to load.
    which: "ema" (falls back to raw weights, with a notice, where none were
      kept) or "raw".
    is_part: the checkpoint may have more parts (first keys) than are wanted.

  Raises:
    ValueError: no checkpoint there, another shape, or no readable step.
  """
  if which not in ("ema", "raw"):
    raise ValueError(f"config.init.params is {which!r}; choose from ema, raw.")

  def read(directory):
    item = "ema" if which == "ema" and (directory / "ema").is_dir() else "params"
    if item == "params" and which == "ema":
      logging.info("%s keeps no moving average; using the raw weights.", directory)
    averaged = _averaged(directory, wanted) if item == "ema" else wanted
    trees = {item: wanted}
    if set(tree.flatten(averaged)) != set(tree.flatten(wanted)):
      trees = {"params": wanted, "ema": averaged}
    loaded = _load(directory, trees, is_part=is_part)
    loaded = tree.overlay(loaded["ema"], loaded["params"]) if len(trees) > 1 else loaded[item]
    return {k: loaded[k] for k in wanted} if is_part else loaded

  return _newest(path, read, logging.warning)


def save_params(path: str, params: Any, meta: dict[str, Any]) -> None:
  """Writes weights alone, readable by `load_params`.

  Raises:
    ValueError: the directory already holds something.
    OSError: it cannot be written.
  """
  directory = _absolute(path)
  files.check_new(directory)
  with _writing(directory), _saving():
    ocp.save_checkpointables(
        directory, {"params": params, "meta": _with_sums(meta, {"params": params})},
        overwrite=True)


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(self, workdir: str | os.PathLike, *, keep: int = 2, directory: str = ""):
    """Opens (and creates) the folder of a run's checkpoints.

    Args:
      workdir: of the run.
      keep: how many stay, the newest.
      directory: the folder; "" = `workdir/checkpoints`.
    """
    self.directory = _root(workdir, directory)
    self._keep = keep
    self._checkpointer = None
    self._saved = None

  def _open(self):
    if self._checkpointer is None:
      with _saving():
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=True)
    return self._checkpointer

  def save(self, step: int, items: dict[str, Any], *, data: Any, meta: dict[str, Any]) -> None:
    """Starts saving; returns while files are still being written.

    Raises:
      OSError: this or the last step could not be written.
    """
    if step == self._saved:
      return
    self.wait()
    full = {k: v for k, v in items.items() if jax.tree.leaves(v)}
    full["meta"] = _with_sums(meta, full, data)
    if data is not None:
      full["data"] = data
    with self._writing(step):
      self._open().save_checkpointables_async(step, full)

  def wait(self) -> None:
    """Returns when every save has reached the disk.

    Raises:
      OSError: the last step could not be written.
    """
    if self._checkpointer is not None:
      with self._writing(self._saved):
        self._checkpointer.wait()

  def close(self) -> None:
    """Waits and releases the directory."""
    if self._checkpointer is not None:
      checkpointer, self._checkpointer = self._checkpointer, None
      with self._writing(self._saved):
        checkpointer.close()

  @contextlib.contextmanager
  def _writing(self, step: int | None) -> Iterator[None]:
    """Takes `step` as saved, unless an error is raised inside."""
    self._saved = None
    with _writing(self.directory / str(step)):
      yield
    self._saved = step

  def restore(self, items: dict[str, Any], *,
              data: Any = None) -> tuple[int, dict[str, Any]] | None:
    """Restores the newest readable checkpoint.

    Args:
      items: name -> tree of arrays giving shapes, dtypes and shardings (of any
        mesh: arrays are resharded on load).
      data: the data iterator, set in place, also from the states of another number of
        processes; None leaves it alone.

    Returns:
      (step, items with `meta` added), or None if there is no checkpoint. A
      half-written or damaged one is set aside with a warning, and the one
      before it is taken.

    Raises:
      ValueError: the newest checkpoint has other shapes (another model), or all
        checkpoints are damaged.
    """
    steps = self.steps()
    wanted, damaged = {k: abstract(v) for k, v in items.items()}, []
    for step in steps:
      directory = self.directory / str(step)
      try:
        loaded = _load(directory, wanted)
        jax.block_until_ready({k: loaded[k] for k in wanted})
        if data is not None:
          _load_iterator(directory, data, loaded["meta"])
      except _Misfit:
        raise
      except Exception as error:  # pylint: disable=broad-except
        logging.warning("checkpoint %s is damaged (%s); falling back to the one before it.",
                        directory, _first_line(error))
        damaged.append(directory)
        continue
      self._set_aside(damaged)
      self._saved = step
      loaded["meta"] = {k: v for k, v in loaded["meta"].items() if k not in _SUMS}
      return step, loaded
    if steps:
      raise ValueError(f"none of the checkpoints {steps} in {self.directory} can be read; remove "
                       "them to start again, or restore them from a copy.")
    return None

  def steps(self) -> list[int]:
    """Complete steps, newest first."""
    return [int(p.name) for p in _steps(self.directory)]

  def _set_aside(self, directories: Iterable[epath.Path]) -> None:
    """Moves damaged steps away, so that they can be saved anew."""
    if jax.process_index() == 0:
      for directory in directories:
        target = self.directory.parent / "damaged_checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        if _in_bucket(target):  # which has no empty folders
          (target / "README").write_text("Checkpoints that could not be read.\n")
        (target / directory.name).rmtree(missing_ok=True)
        directory.rename(target / directory.name)
