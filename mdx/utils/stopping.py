"""A signal that comes while a program is compiled, when Python hears nothing.

Contents: watch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PATIENCE_SECONDS = 5  # that one compilation may go on for after the signal
_POLL_SECONDS = 0.2
_COMPILER = os.path.join("jax", "_src", "compiler.py")


def watch(stop: Callable[[], None]) -> None:
  """Ends compilations that a signal would wait for; called in the main thread, once a process.

  A handler runs between two steps of the interpreter, and a compilation is one step, of minutes. A
  training step is one too, but it ends soon and the run is saved behind it: it is waited for.

  Args:
    stop: ends the process; called in another thread.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  main = threading.main_thread().ident

  def compiles() -> bool:
    frames = sys._current_frames()  # pylint: disable=protected-access
    frame = None if main is None else frames.get(main)
    while frame is not None:
      if frame.f_code.co_filename.endswith(_COMPILER):
        return True
      frame = frame.f_back
    return False

  def wait() -> None:
    while number := os.read(read, 1):
      if number[0] not in (signal.SIGTERM, signal.SIGINT):
        continue
      begin = time.monotonic()
      while time.monotonic() - begin < _PATIENCE_SECONDS:
        time.sleep(_POLL_SECONDS)
        if not compiles():
          begin = time.monotonic()
      stop()

  threading.Thread(target=wait, daemon=True, name="signals").start()
