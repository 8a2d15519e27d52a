"""Time of a run by what it is spent on, and metrics, read one step late.

Contents: Clock, Meter, NonFinite.

Convention: *goodput* is the share of the wall time since the run was first started that went into
steps which count: compilation, restarts and the pauses between them, steps that had to be done
again, evaluation, waiting for data and for checkpoints are lost. `workdir/goodput.jsonl` says it,
a line a log interval, since the first start; what a restart drops no longer counts.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from mdx import metrics as metrics_lib

_STAGES = ("data", "checkpoint", "eval")


class NonFinite(Exception):
  """The loss became NaN or infinite."""


def _is_ready(value: Any) -> bool:
  return value.is_ready() if isinstance(value, jax.Array) else True


class Clock:
  """Seconds of a run by stage, over all its starts; written on the first process.

  Wall time, and the CPU time of this process, of all its threads, while it trains: without
  compiling and without pauses.
  """

  def __init__(self, workdir: pathlib.Path, start: int):
    """Takes up what the starts before this one had spent at step `start`."""
    file, config = workdir / "goodput.jsonl", workdir / "config.json"
    before = (metrics_lib.last(file, start) or {}) if not jax.process_index() else {}
    self._began = config.stat().st_mtime if config.exists() else time.time()
    self._seconds = {k: before.get(f"{k}_seconds", 0.0) for k in ("step", *_STAGES)}
    self._cpu, self._since = before.get("cpu_seconds", 0.0), None
    self._lines = None if jax.process_index() else metrics_lib.JsonLines(file, resume_step=start)

  def go(self) -> None:
    """CPU time counts from here on."""
    self._since = time.process_time()

  def stop(self) -> bool:
    """CPU time does not count from here on; whether it did."""
    is_running = self._since is not None
    self._cpu, self._since = self.cpu_seconds, None
    return is_running

  @property
  def cpu_seconds(self) -> float:
    """CPU time spent so far."""
    return self._cpu + (time.process_time() - self._since if self._since is not None else 0.0)

  def add(self, step: int, seconds: Mapping[str, float]) -> None:
    """Adds a log interval's."""
    for stage, value in seconds.items():
      self._seconds[stage] += value
    if self._lines is not None:
      self._lines.write(step, "time", self.summary())

  def summary(self) -> dict[str, float]:
    """Since the run was first started: goodput, seconds in steps and lost to each stage."""
    wall = max(time.time() - self._began, self._seconds["step"], 1e-9)
    return {"goodput": self._seconds["step"] / wall, "wall_seconds": wall,
            "cpu_seconds": self.cpu_seconds} | {
        f"{stage}_seconds": seconds for stage, seconds in self._seconds.items()}

  def close(self) -> None:
    """Closes the file."""
    if self._lines is not None:
      self._lines.close()


class Meter:
  """Reads metrics one step late, logs windows and keeps the rate and the clock."""

  def __init__(self, writers: metrics_lib.Writers, progress: Any, *, steps: int, log_steps: int,
               clock: Clock | None = None,
               also: Callable[[], Mapping[str, float]] = dict,
               window: Mapping[str, Sequence[float]] | None = None):
    """Starts the clock.

    Args:
      writers, progress: where figures go.
      steps: length of the run.
      log_steps: between two log lines.
      clock: is told what the time was spent on.
      also: () -> more figures for the console.
      window: sums and weights that a run before this one had collected for its next line.
    """
    self._writers, self._progress = writers, progress
    self._steps, self._log_steps = steps, log_steps
    self._window, self._pending, self._first = metrics_lib.Window(window or {}), None, True
    self._since = self._tokens = self._seconds = self._all_tokens = 0.0
    self._lost = dict.fromkeys(_STAGES, 0.0)
    self._clock, self._also = clock, also

  def add(self, step: int, metrics: Any, num_tokens: int) -> None:
    """Takes a dispatched step's metrics; reads those of the step before."""
    self.settle()
    self._pending = (step, metrics, num_tokens)

  def settle(self) -> None:
    """Reads the outstanding metrics; raises NonFinite if the loss is not finite."""
    if self._pending is None:
      return
    step, metrics, num_tokens = self._pending
    self._pending = None
    metrics = jax.device_get(metrics)
    if not math.isfinite(metrics["loss"][0]):
      raise NonFinite(f"the loss of step {step} is {float(metrics['loss'][0])}; the last "
                      "checkpoint is sound. Lower the learning rate or clip more.")
    self._window.add(metrics)
    if self._first:  # compilation is over: start the clock here
      self._first, self._since = False, time.monotonic()
      if self._clock is not None:
        self._clock.go()
      self._lost = dict.fromkeys(_STAGES, 0.0)
    else:
      self._tokens += num_tokens
    if (step + 1) % self._log_steps == 0 or step + 1 == self._steps:
      self._log(step + 1)

  @property
  def window(self) -> dict[str, list[float]]:
    """Sums and weights of the metrics since the last log line."""
    return self._window.totals

  def _log(self, step):
    now = time.monotonic()
    elapsed, self._since = now - self._since, now
    useful = max(elapsed - self._lost["data"], 0.0)  # pauses are not in `elapsed`
    self._seconds += elapsed
    self._all_tokens += self._tokens
    values = self._window.flush()
    if self._tokens:
      values["tokens_per_second"] = self._tokens / max(elapsed, 1e-9)
    if self._clock is not None:
      self._clock.add(step, {"step": useful} | self._lost)
    self._tokens, self._lost = 0.0, dict.fromkeys(_STAGES, 0.0)
    self._writers.write(step, "train", values)
    also = self._also()
    shown, values = ("loss", "nats_per_token", *also, "tokens_per_second"), values | also
    self._progress.log(step, {k: values[k] for k in shown if k in values})

  def finish(self, step: int) -> None:
    """Tells the clock of pauses after the last log line, such as the last checkpoint."""
    if self._clock is not None and any(self._lost.values()):
      self._clock.add(step, {"step": 0.0} | self._lost)
      self._lost = dict.fromkeys(_STAGES, 0.0)

  @contextlib.contextmanager
  def paused(self, stage: str) -> Iterator[None]:
    """Time inside is that of a stage, and not in the rate."""
    begin, goes_on = time.monotonic(), self._clock is not None and self._clock.stop()
    try:
      yield
    finally:
      if goes_on:
        self._clock.go()
      seconds = time.monotonic() - begin
      self._lost[stage] += seconds
      self._since += seconds

  @contextlib.contextmanager
  def fetching(self) -> Iterator[None]:
    """Time inside is lost if the device has finished its step when it ends."""
    begin = time.monotonic()
    yield
    if self._pending is None or _is_ready(self._pending[1]["loss"][0]):
      self._lost["data"] += time.monotonic() - begin

  @property
  def tokens_per_second(self) -> float:
    """Mean rate over the steps of this start."""
    return self._all_tokens / self._seconds if self._seconds else 0.0
