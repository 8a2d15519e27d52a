"""Metrics: window means and writers.

Contents: Window, Writer, JsonLines, TensorBoard, WandB, Writers, open_writers, read, read_rows,
last.

Convention: `workdir/metrics.jsonl` is the truth: one object a line with
`step`, `kind` ("train", "eval", "rollout") and flat names. TensorBoard and wandb are optional.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import secrets
import warnings
from typing import Any, Mapping, Protocol, Sequence

from mdx.utils import files
from mdx.utils import readers
from mdx.utils import streams


class Window:
  """Means of (sum, weight) metrics between two log lines."""

  def __init__(self, totals: Mapping[str, Sequence[float]] | None = None):
    """Starts empty, or with the sums and weights of a window that was cut short."""
    self._totals: dict[str, list[float]] = {k: list(v) for k, v in (totals or {}).items()}

  @property
  def totals(self) -> dict[str, list[float]]:
    """Sum and weight of each metric."""
    return {k: list(v) for k, v in self._totals.items()}

  def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
    """Adds one step's sums and weights (host numbers)."""
    for name, (total, weight) in metrics.items():
      entry = self._totals.setdefault(name, [0.0, 0.0])
      entry[0] += float(total)
      entry[1] += float(weight)

  def flush(self) -> dict[str, float]:
    """Returns the means and starts a new window."""
    means = {k: total / weight for k, (total, weight) in self._totals.items() if weight}
    self._totals = {}
    return means


class Writer(Protocol):
  """Destination of metrics."""

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Records named numbers of a step."""

  def close(self) -> None:
    """Flushes and releases."""


class JsonLines:
  """Appends to `metrics.jsonl`; a resumed run drops what it will redo.

  A line that is there already, of the same step and kind, is not written again: a run that was
  stopped between its last checkpoint and its results evaluates twice.
  """

  def __init__(self, path: str | os.PathLike, *, resume_step: int = 0):
    """Opens the file, keeping only lines at or before `resume_step`."""
    self._path = pathlib.Path(path)
    self._kept: set[tuple[int, str]] = set()
    if self._path.exists():
      kept = [line for line in read(self._path) if line["step"] <= resume_step]
      self._kept = {(line["step"], line.get("kind", "")) for line in kept}
      files.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = open(self._path, "a", encoding="utf-8")

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Writes one line and flushes it."""
    if (step, kind) in self._kept:
      return
    clean = {k: v if not isinstance(v, float) or math.isfinite(v) else None
             for k, v in values.items()}
    self._file.write(json.dumps({"step": step, "kind": kind, **clean}) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class TensorBoard:
  """Event files through tensorboardX (extra `log`)."""

  def __init__(self, workdir: str | os.PathLike, *, resume_step: int = 0):
    """Opens `workdir/tensorboard`; events after `resume_step` of an earlier run are hidden.

    Raises:
      ValueError: tensorboardX is not installed.
    """
    try:
      import tensorboardX  # pylint: disable=g-import-not-at-top
    except ImportError:
      raise ValueError("config.tensorboard needs tensorboardX; pip install -e '.[log]'.") from None
    self._writer = tensorboardX.SummaryWriter(
        str(pathlib.Path(workdir) / "tensorboard"),
        purge_step=resume_step + 1 if resume_step else None)

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Writes each number as a scalar `kind/name`."""
    for name, value in values.items():
      self._writer.add_scalar(f"{kind}/{name}", value, step)

  def close(self) -> None:
    """Flushes the event file."""
    self._writer.close()


class WandB:
  """A run of Weights & Biases (extra `wandb`), one a workdir, also over resumptions."""

  def __init__(self, workdir: str | os.PathLike, project: str, config: Mapping[str, Any]):
    """Joins the project.

    Raises:
      ValueError: wandb is not installed.
    """
    try:
      import wandb  # pylint: disable=g-import-not-at-top
    except ImportError:
      raise ValueError("config.wandb needs wandb; pip install -e '.[wandb]'.") from None
    path = pathlib.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    file = path / "wandb_id"
    if not file.exists():
      files.write_text(file, secrets.token_hex(8))
    self._run = wandb.init(project=project, dir=str(path), name=path.name, config=dict(config),
                           id=file.read_text(encoding="utf-8").strip(), resume="allow")

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Logs the numbers as `kind/name` of a step."""
    self._run.log({f"{kind}/{name}": value for name, value in values.items()} | {"step": step})

  def close(self) -> None:
    """Waits until all is sent."""
    self._run.finish()


class Writers:
  """Several writers as one; silent on all but the first process."""

  def __init__(self, writers: list[Writer]):
    """Takes the writers over."""
    self._writers = writers

  def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
    """Writes to all."""
    for writer in self._writers:
      writer.write(step, kind, {k: float(v) for k, v in values.items()})

  def close(self) -> None:
    """Closes all."""
    for writer in self._writers:
      writer.close()


def open_writers(workdir: str, config: Mapping[str, Any], *, resume_step: int,
                 is_main: bool) -> Writers:
  """Opens the writers of a run; none on other processes than the first.

  Args:
    workdir: of the run.
    config: with `tensorboard`, whether to write event files, and `wandb`, a project or "".
    resume_step: what was written after it is dropped.
    is_main: whether this is the first process.
  """
  if not is_main:
    return Writers([])
  writers: list[Writer] = [JsonLines(pathlib.Path(workdir) / "metrics.jsonl",
                                     resume_step=resume_step)]
  if config.get("tensorboard"):
    writers.append(TensorBoard(workdir, resume_step=resume_step))
  if config.get("wandb"):
    writers.append(WandB(workdir, config["wandb"], config))
  return Writers(writers)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics file; damaged lines are dropped, with a warning unless it is the last one.

  A line has a step, a kind, and numbers. A kill may cut the last line off.
  """
  texts = _lines(path)
  found = [_row(text) for text in texts]
  damaged = [i for i, row in enumerate(found, 1) if not _is_figures(row or {})]
  if damaged and damaged != [len(texts)]:
    warnings.warn(f"{os.fspath(path)}: {len(damaged)} damaged line(s) are left out, the first of "
                  f"them line {damaged[0]}; the figures of their steps are missing.", stacklevel=2)
  return [row for row in found if row is not None and _is_figures(row)]


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The objects of a file of JSON lines; lines that are none are dropped."""
  return [row for text in _lines(path) if (row := _row(text)) is not None]


def _lines(path: str | os.PathLike) -> list[str]:
  streams.check_regular(path)
  text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
  return [line for line in readers.lines(text) if line.strip()]


def _row(text: str) -> dict[str, Any] | None:
  """The object of a line, or None."""
  try:
    row = readers.parse_json(text, "line", "drop it")
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _is_figures(row: dict[str, Any]) -> bool:
  """Whether a row is one of a metrics file."""
  numbers = {k: v for k, v in row.items() if k not in ("step", "kind")}
  return (type(row.get("step")) is int and isinstance(row.get("kind"), str)
          and all(v is None or isinstance(v, (int, float)) for v in numbers.values()))


def last(path: str | os.PathLike, step: int) -> dict[str, Any] | None:
  """The last line at or before a step; None if there is none."""
  if not pathlib.Path(path).exists():
    return None
  return next((x for x in reversed(read(path)) if x["step"] <= step), None)
