"""Progress on the console and stopping on signals.

Contents: Progress, bar, counted, StopSignal, Stopped.

Convention: a bar where the console is a terminal, one line per log interval
elsewhere; nothing on other processes than the first.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Mapping

import jax


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
  """Shows step, metrics, rate and time left."""

  def __init__(self, total: int, *, start: int = 0, enabled: bool = True, what: str = "training"):
    """Starts the clock at step `start` of `total`; `what` is written before the bar."""
    self._total, self._first, self._start = total, start, time.monotonic()
    self._enabled, self._what, self._compiles = enabled, what, False
    self._bar = self._task = None
    if enabled and sys.stdout.isatty():
      from rich import progress as rich_progress, table  # pylint: disable=g-import-not-at-top
      # The text has what the other columns leave, and ends in an ellipsis where it is longer.
      words = table.Column(ratio=1, no_wrap=True, overflow="ellipsis")
      self._bar = rich_progress.Progress(
          rich_progress.TextColumn("{task.description}", markup=False, table_column=words),
          rich_progress.BarColumn(bar_width=12), rich_progress.MofNCompleteColumn(),
          rich_progress.TimeRemainingColumn(), expand=True)
      self._task = self._bar.add_task(what, total=total, completed=start)
      self._bar.start()
      atexit.register(self._bar.stop)  # after an error too, or the terminal has no cursor

  def compiling(self) -> None:
    """Says that the first step is compiled; the next `update` ends it and restarts the clock."""
    self._compiles = True
    if self._bar is not None:
      self._bar.update(self._task, description="compiling")
    elif self._enabled:
      print("compiling ...", flush=True)

  def update(self, step: int) -> None:
    """Moves the bar."""
    if self._compiles:
      self._compiles, self._first, self._start = False, step, time.monotonic()
      if self._bar is not None:
        self._bar.update(self._task, description=self._what)
    if self._bar is not None:
      self._bar.update(self._task, completed=step)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Shows a log interval's numbers."""
    if not self._enabled:
      return
    done = max(step - self._first, 1)
    left = (time.monotonic() - self._start) / done * (self._total - step)
    text = "  ".join(f"{k} {v:,.0f}" if abs(v) >= 1000 else f"{k} {v:.4g}"
                     for k, v in values.items())
    if self._bar is not None:
      self._bar.update(self._task, completed=step, description=text)
    else:
      print(f"step {step}/{self._total}  {text}  left {_clock(left)}", flush=True)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if self._enabled:
      if self._bar is None:
        print(text, flush=True)
      else:
        self._bar.console.print(text, markup=False, highlight=False)

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      self._bar.stop()
      atexit.unregister(self._bar.stop)


@contextlib.contextmanager
def bar(total: int, what: str, *, enabled: bool) -> Iterator[Callable[[int], None]]:
  """Gives a function that is told how many of `total` are done; in a terminal it moves a bar."""
  shown = Progress(total, enabled=enabled, what=what)
  try:
    yield shown.update
  finally:
    shown.close()


def counted(batches: Iterable[Any], size: int, told: Callable[[int], None]) -> Iterator[Any]:
  """Yields batches of `size` rows, and tells how many rows have been taken."""
  for number, batch in enumerate(batches):
    told(number * size)
    yield batch


class Stopped(Exception):
  """The run was asked to stop, and everything is saved."""


class StopSignal:
  """Notes SIGTERM and Ctrl-C; all processes agree on the step to stop at.

  Attributes:
    saved: set when nothing is left to save: a signal then stops at once.
  """

  def __init__(self):
    """Installs the handlers (main thread only)."""
    self._received = self.saved = False
    self._old = {}
    if threading.current_thread() is threading.main_thread():
      # With several processes jax's own SIGTERM handler tells the others.
      wanted = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
      for number in wanted:
        self._old[number] = signal.signal(number, self._note)

  def _note(self, number, frame):
    del frame
    if self.saved:
      raise Stopped("stopped on a signal after training; everything is saved.")
    if self._received and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C does not wait
    self._received = True

  def reached(self, step: int) -> bool:
    """True if the run must save and stop before this step."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils  # pylint: disable=g-import-not-at-top
      return multihost_utils.reached_preemption_sync_point(step)
    return self._received

  def close(self) -> None:
    """Restores the handlers."""
    for number, handler in self._old.items():
      signal.signal(number, handler)
