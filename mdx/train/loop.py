"""The one training loop.

Contents: Intervals, NonFinite, place, fit.

Convention: the order is evaluate, save, fetch a batch, step, and must stay so:
the data iterator in a checkpoint then stands before the batch of the step that
the checkpoint resumes with. Metrics are read one step late, so the device
never waits for the host.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, Callable

import jax
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import metrics as metrics_lib
from mdx import sharding
from mdx.eval import measures
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervals:
  """How often what happens, in steps.

  Attributes:
    steps: length of the run.
    log_steps: between two log lines.
    checkpoint_steps: between two checkpoints.
    eval_steps: between two evaluations; 0 = only at the end.
  """
  steps: int
  log_steps: int
  checkpoint_steps: int
  eval_steps: int

  def __post_init__(self):
    for name in ("steps", "log_steps", "checkpoint_steps"):
      if getattr(self, name) < 1:
        raise ValueError(f"config.{name} must be positive, got {getattr(self, name)}.")
    if self.eval_steps < 0:
      raise ValueError(f"config.eval_steps must not be negative, got {self.eval_steps}.")
    # A short run still logs, saves and evaluates.
    for name in ("log_steps", "checkpoint_steps", "eval_steps"):
      object.__setattr__(self, name, min(getattr(self, name), self.steps))


class NonFinite(Exception):
  """The loss became NaN or infinite."""


def place(batch: dict[str, np.ndarray], step: int, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """Adds the global `example_index` and puts this process's rows on the mesh."""
  rows = len(batch["tokens"])
  first = (step * jax.process_count() + jax.process_index()) * rows
  # Wraps after 2^31 examples; only keys are derived from it.
  index = ((first + np.arange(rows, dtype=np.int64)) % 2 ** 31).astype(np.int32)
  return sharding.place_batch(dict(batch, example_index=index), mesh)


class Clock:
  """CPU time of this process, of all its threads, while it trains: without compiling, evaluating.

  Attributes:
    seconds: spent so far.
  """

  def __init__(self, seconds: float = 0.0):
    self._spent, self._since = seconds, None

  def go(self) -> None:
    """Begins, or goes on."""
    self._since = time.process_time()

  def stop(self) -> bool:
    """Stops; whether it was running."""
    is_running = self._since is not None
    self._spent, self._since = self.seconds, None
    return is_running

  @property
  def seconds(self) -> float:
    """Spent so far."""
    return self._spent + (time.process_time() - self._since if self._since is not None else 0.0)


def fit(state: state_lib.State, step_fn: Callable, data: Any, *, start: int,
        intervals: Intervals, mesh: jax.sharding.Mesh, writers: metrics_lib.Writers,
        checkpoints: checkpoint_lib.Checkpoints, meta: dict[str, Any],
        stop: progress_lib.StopSignal,
        evaluate: Callable[[state_lib.State, int], dict[str, float]] | None = None,
        frozen: Any = None, next_batch: Callable | None = None,
        unit: int = 1, clock: Clock | None = None) -> tuple[state_lib.State, float]:
  """Trains to `intervals.steps`.

  Args:
    state: at step `start`; donated.
    step_fn: jitted (state, batch, frozen) -> (state, metrics).
    data: yields this process's rows; its state is checkpointed. None with `next_batch`.
    start: step to begin with.
    intervals: see `Intervals`.
    mesh: where batches go.
    writers: metrics.
    checkpoints: where the run is saved; a last save is made at the end.
    meta: saved with every checkpoint.
    stop: asked before every step.
    evaluate: (state, step) -> numbers, every `eval_steps` but not at the end.
    frozen: passed to the step.
    next_batch: (state, step) -> the global batch of a step, on the mesh; by default the
      next one of `data`.
    unit: steps whose batches come from one state (inner epochs of a rollout); the run is
      evaluated, saved and stopped between units only.
    clock: told when training begins, pauses and goes on.

  Returns:
    The final state, and tokens per second without compilation and evaluation.

  Raises:
    Stopped: SIGTERM or Ctrl-C, after saving.
    NonFinite: a loss that is not finite, naming its step.
    OSError: a checkpoint could not be written.
  """
  next_batch = next_batch or (lambda state, step: place(next(data), step, mesh))
  progress = progress_lib.Progress(intervals.steps, start=start,
                                   enabled=jax.process_index() == 0)
  meter = _Meter(writers, progress, intervals, clock or Clock())

  def save(step):
    meter.settle()  # a state that came from a bad loss is never saved
    with meter.paused():
      checkpoints.save(step, state.items(), data=data, meta=dict(meta, step=step))

  try:
    for step in range(start, intervals.steps):
      is_whole = step % unit == 0
      if (evaluate and is_whole and intervals.eval_steps and step > start
          and step % intervals.eval_steps == 0):
        meter.settle()
        with meter.paused():
          values = evaluate(state, step)
        writers.write(step, "eval", values)
        progress.say(f"step {step}/{intervals.steps}  held-out  " + _held_out(values))
      stopping = is_whole and stop.reached(step)
      if stopping or (is_whole and step > start and step % intervals.checkpoint_steps == 0):
        save(step)
      if stopping:
        checkpoints.wait()
        raise progress_lib.Stopped(f"stopped on a signal at step {step}; everything is saved.")
      batch = next_batch(state, step)
      state, metrics = step_fn(state, batch, {} if frozen is None else frozen)
      meter.add(step, metrics, batch["tokens"].size)
      progress.update(step + 1)
    if start < intervals.steps:
      save(intervals.steps)
      checkpoints.wait()
      if stop.reached(intervals.steps):
        raise progress_lib.Stopped("stopped on a signal after training; everything is saved.")
  except NonFinite:
    checkpoints.wait()  # the last sound state may still be on its way to the disk
    raise
  finally:
    progress.close()
  return state, meter.tokens_per_second


def _held_out(values: dict[str, float]) -> str:
  """The figures of an evaluation that the console shows."""
  known = ("nats_per_token", "bits_per_char", *measures.MEASURES)
  shown = [k for k in known if k in values] or list(values)
  return "  ".join(
      f"{k} {values[k]:.4g}" + (f" +- {values[f'{k}_stderr']:.2g}" if f"{k}_stderr" in values
                                else "") for k in shown)


class _Meter:
  """Reads metrics one step late, logs windows and keeps the rate."""

  def __init__(self, writers, progress, intervals, clock):
    self.clock = clock
    self._writers, self._progress, self._intervals = writers, progress, intervals
    self._window, self._pending = metrics_lib.Window(), None
    self._since = self._tokens = self._seconds = self._all_tokens = 0.0
    self._first = True

  def add(self, step, metrics, num_tokens):
    """Takes a dispatched step's metrics; reads those of the step before."""
    self.settle()
    self._pending = (step, metrics, num_tokens)

  def settle(self):
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
      self.clock.go()
    else:
      self._tokens += num_tokens
    if (step + 1) % self._intervals.log_steps == 0 or step + 1 == self._intervals.steps:
      self._log(step + 1)

  def _log(self, step):
    now = time.monotonic()
    elapsed, self._since = now - self._since, now
    self._seconds += elapsed
    self._all_tokens += self._tokens
    values = self._window.flush()
    if self._tokens:
      values["tokens_per_second"] = self._tokens / max(elapsed, 1e-9)
    self._tokens = 0.0
    self._writers.write(step, "train", values)
    shown = ("loss", "nats_per_token", "tokens_per_second")
    self._progress.log(step, {k: values[k] for k in shown if k in values})

  def paused(self):
    """Context whose time does not count in the rate."""
    return _Paused(self)

  @property
  def tokens_per_second(self) -> float:
    """Mean rate over the whole run."""
    return self._all_tokens / self._seconds if self._seconds else 0.0


class _Paused:
  """Shifts the meter's clock by the time spent inside."""

  def __init__(self, meter):
    self._meter = meter

  def __enter__(self):
    self._begin = time.monotonic()
    self._is_running = self._meter.clock.stop()

  def __exit__(self, *error):
    if self._is_running:
      self._meter.clock.go()
    self._meter._since += time.monotonic() - self._begin  # pylint: disable=protected-access
