"""The one training loop.

Contents: Intervals, NonFinite, Profile, place, fit.

Convention: the order is evaluate, save, fetch a batch, step, and must stay so:
the data iterator in a checkpoint then stands before the batch of the step that
the checkpoint resumes with. Metrics are read one step late, so the device
never waits for the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any, Callable, Mapping, Sequence

import jax
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import metrics as metrics_lib
from mdx import sharding
from mdx.eval import measures
from mdx.train import meter as meter_lib
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervals:
  """Intervals between logs, evaluations and checkpoints, in steps.

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
    config_lib.check(self, "config", at_least=dict(steps=1, log_steps=1, checkpoint_steps=1,
                                                   eval_steps=0))
    # A short run still logs, saves and evaluates.
    for name in ("log_steps", "checkpoint_steps", "eval_steps"):
      object.__setattr__(self, name, min(getattr(self, name), self.steps))


NonFinite = meter_lib.NonFinite


class Profile:
  """A trace of some steps, on the first process."""

  def __init__(self, steps: Sequence[int] = (), directory: str | os.PathLike = ""):
    """Checks the steps.

    Args:
      steps: (first, the one behind the last); () = no trace.
      directory: of the trace, which TensorBoard, XProf and Perfetto read.
    """
    self._steps, self._directory, self._is_running = tuple(steps), str(directory), False
    if self._steps and not (len(self._steps) == 2 and 0 <= self._steps[0] < self._steps[1]):
      raise ValueError(f"config.profile_steps is {self._steps}; write the first step and the one "
                       "behind the last, such as 10,20.")

  def before(self, step: int, state: Any) -> None:
    """Begins or ends the trace before a step."""
    if jax.process_index() or step not in self._steps:
      return
    jax.block_until_ready(state)
    if step == self._steps[0]:
      jax.profiler.start_trace(self._directory)
      self._is_running = True
    else:
      self.close()

  def step(self, step: int) -> contextlib.AbstractContextManager:
    """Context in which a step runs, so that the trace has its number."""
    if not self._is_running:
      return contextlib.nullcontext()
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def close(self) -> None:
    """Ends the trace, if there is one."""
    if self._is_running:
      self._is_running = False
      jax.profiler.stop_trace()


def place(batch: dict[str, np.ndarray], step: int, mesh: jax.sharding.Mesh,
          num_rows: int = 0, num_before: int | None = None) -> dict[str, jax.Array]:
  """Adds the global `example_index` and puts rows on the mesh.

  Args:
    batch: `sharding.local_rows` of the batch of `num_rows`, or (0) all of it.
    step: of the batch.
    mesh: where it goes.
    num_rows: of the global batch.
    num_before: rows of all batches before; None: all had as many.
  """
  rows = sharding.num_rows(batch)
  first = step * (num_rows or rows) if num_before is None else num_before
  if num_rows:
    first += sharding.local_rows(mesh, num_rows).start
  # Wraps after 2^31 examples; only keys are derived from it.
  index = ((first + np.arange(rows, dtype=np.int64)) % 2 ** 31).astype(np.int32)
  return sharding.place_batch(dict(batch, example_index=index), mesh, num_rows=num_rows)


def fit(state: state_lib.State, step_fn: Callable, data: Any, *, start: int,
        intervals: Intervals, mesh: jax.sharding.Mesh, writers: metrics_lib.Writers,
        checkpoints: checkpoint_lib.Checkpoints, meta: dict[str, Any],
        stop: progress_lib.StopSignal,
        evaluate: Callable[[state_lib.State, int], dict[str, float]] | None = None,
        frozen: Any = None, next_batch: Callable | None = None,
        window: Mapping[str, Sequence[float]] | None = None,
        unit: int = 1, batch_size: int = 0, profile: Profile | None = None,
        clock: meter_lib.Clock | None = None,
        also: Callable[[], Mapping[str, float]] = dict) -> tuple[state_lib.State, float]:
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
    window: sums and weights of the metrics since the last log line, as the checkpoint has them.
    unit: steps whose batches come from one state (inner epochs of a rollout); the run is
      evaluated, saved and stopped between units only.
    batch_size: rows of a global batch; 0 = `data` yields whole batches.
    profile: says which steps are traced.
    clock: is told what the time was spent on.
    also: () -> figures of what makes the batches, for the console.

  Returns:
    The final state, and tokens per second without compilation and evaluation.

  Raises:
    Stopped: SIGTERM or Ctrl-C, after saving.
    NonFinite: a loss that is not finite, naming its step.
    ValueError: a bad record, after saving (in a job of one process).
    OSError: a checkpoint could not be written.
  """
  profile = profile or Profile()
  next_batch = next_batch or (lambda state, step: place(next(data), step, mesh, batch_size))
  progress = progress_lib.Progress(intervals.steps, start=start, enabled=jax.process_index() == 0)
  meter = meter_lib.Meter(writers, progress, steps=intervals.steps,
                          log_steps=intervals.log_steps, clock=clock, also=also,
                          window=window)

  def save(step, *, is_last=False):
    meter.settle()  # a state that came from a bad loss is never saved
    with meter.paused("checkpoint"):
      checkpoints.save(step, state.items(), data=data,
                       meta=dict(meta, step=step)
                       | ({"window": meter.window} if meter.window else {}))
      if is_last:
        checkpoints.wait()
    if is_last:
      meter.finish(step)

  if start < intervals.steps:
    progress.compiling()
  try:
    for step in range(start, intervals.steps):
      is_whole = step % unit == 0
      if (evaluate and is_whole and intervals.eval_steps and step > start
          and step % intervals.eval_steps == 0):
        meter.settle()
        with meter.paused("eval"):
          values = evaluate(state, step)
        writers.write(step, "eval", values)
        progress.say(f"step {step}/{intervals.steps}  held-out  " + _held_out(values))
      stopping = is_whole and stop.reached(step)
      if stopping or (is_whole and step > start and step % intervals.checkpoint_steps == 0):
        save(step, is_last=stopping)
      if stopping:
        raise progress_lib.Stopped(f"stopped on a signal at step {step}; everything is saved.")
      profile.before(step, state)
      try:
        with meter.fetching() if data is not None else contextlib.nullcontext():
          batch = next_batch(state, step)
      except ValueError as error:
        # Other processes may have read no bad record, and saving needs all of them.
        if data is None or not is_whole or jax.process_count() > 1:
          raise
        save(step, is_last=True)
        raise ValueError(f"{error} Everything until step {step} is saved: correct the record, or "
                         "set data.on_error=skip, and run the same command again.") from error
      with profile.step(step):
        state, metrics = step_fn(state, batch, {} if frozen is None else frozen)
      meter.add(step, metrics, sharding.num_positions(batch))
      progress.update(step + 1)
    if start < intervals.steps:
      save(intervals.steps, is_last=True)
      if stop.reached(intervals.steps):
        raise progress_lib.Stopped("stopped on a signal after training; everything is saved.")
  except NonFinite:
    checkpoints.wait()  # the last sound state may still be on its way to the disk
    raise
  finally:
    profile.close()
    progress.close()
  return state, meter.tokens_per_second


def _held_out(values: dict[str, float]) -> str:
  """The figures of an evaluation that the console shows."""
  known = ("nats_per_token", "bits_per_char", *measures.MEASURES)
  shown = [k for k in known if k in values] or list(values)
  return "  ".join(
      f"{k} {values[k]:.4g}" + (f" +- {values[f'{k}_stderr']:.2g}" if f"{k}_stderr" in values
                                else "") for k in shown)
