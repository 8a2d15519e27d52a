"""Equality of LaTeX answers; computer algebra in processes of its own under a time limit.

Contents: check_installed, checker, Checker.

What `answers.compare` leaves open is asked of computer algebra, which can hang, use up memory or
crash on a short formula. So it runs in workers (`algebra_worker.py`), one request at a time each,
at most MAX_WORKERS at once. The kernel ends a request that has used the time limit, in processor
time, so that a verdict does not depend on how busy the machine is. From here it is killed after
some more by the clock. Then the answer counts as wrong, and the others of a batch go on. Verdicts
are remembered.

Reference: the comparison is that of the library math-verify, Kydlicek and Gandenberger 2024.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.util
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence

from mdx.tasks import answers as answers_lib
from mdx.tasks import surface

MAX_WORKERS = 4
_WORKER = os.path.join(os.path.dirname(__file__), "algebra_worker.py")
_START_SECONDS = 120.0
_CLOCK_RATE = 4.0  # seconds by the clock, for each of the limit,
_GRACE_SECONDS = 2.0  # and some more, until the worker is killed from here
_MAX_CHARS = 500
_MAX_REMEMBERED = 2**17
_Question = tuple[str, str | None]


def check_installed() -> None:
  """Raises ValueError if math-verify is missing."""
  if importlib.util.find_spec("math_verify") is None:
    raise ValueError("comparing formulas needs math-verify, which is not installed; run pip "
                     "install -e '.[math]'.")


@functools.cache
def checker(time_limit: float) -> Checker:
  """The checker with this time limit; one a process."""
  return Checker(time_limit)


class Checker:
  """Compares answers.

  Args:
    time_limit: seconds of processor time for one comparison.
  """

  def __init__(self, time_limit: float):
    self._time_limit = time_limit
    self._verdicts: dict[_Question, bool] = {}
    self._idle = queue.LifoQueue()  # the worker that was used last comes first
    for _ in range(min(MAX_WORKERS, os.cpu_count() or 1)):
      self._idle.put(_Worker())

  def are_readable(self, golds: Sequence[str]) -> list[bool]:
    """Whether given answers can be compared with anything."""
    texts = [surface.normal(gold) for gold in golds]
    questions = [True if answers_lib.is_readable(text) else [(text, None)] for text in texts]
    return self._decided(questions)

  def equal(self, gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`; False also for one that cannot be read or takes too long."""
    return self.are_equal([(gold, answer)])[0]

  def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the second of each (gold, answer) equals the first; as many at once as workers."""
    return self._decided([_compare(gold, answer) for gold, answer in pairs])

  def _decided(self, found: Sequence[bool | list[_Question]]) -> list[bool]:
    """Verdicts of what is decided, or needs all of its questions answered with yes."""
    if len(self._verdicts) >= _MAX_REMEMBERED:
      self._verdicts.clear()
    new = list(dict.fromkeys(question for verdict in found if isinstance(verdict, list)
                             for question in verdict if question not in self._verdicts))
    if len(new) == 1:
      self._verdicts[new[0]] = self._ask(new[0])
    elif new:
      pool = concurrent.futures.ThreadPoolExecutor(MAX_WORKERS)
      try:
        self._verdicts.update(zip(new, pool.map(self._ask, new)))
      finally:
        pool.shutdown(cancel_futures=True)
    return [verdict if isinstance(verdict, bool) else all(self._verdicts[q] for q in verdict)
            for verdict in found]

  def _ask(self, question: _Question) -> bool:
    worker = self._idle.get()
    try:
      return worker.ask(self._time_limit, question)
    finally:
      self._idle.put(worker)


def _compare(gold: str, answer: str) -> bool | list[_Question]:
  if len(answer) > _MAX_CHARS or not answer.strip():
    return False
  return answers_lib.compare(surface.normal(gold), surface.normal(answer))


class _Worker:
  """A process that answers one question at a time; it starts with the first."""

  def __init__(self):
    self._process = None

  def ask(self, time_limit: float, question: _Question) -> bool:
    """The verdict, False also if there is none in time."""
    line = json.dumps([time_limit, *question]).encode() + b"\n"
    if self._process is not None and self._process.poll() is not None:
      self._stop()  # it died between two requests
    process = self._running()
    reply = b""
    try:
      process.stdin.write(line)
      reply = self._reply(time_limit * _CLOCK_RATE + _GRACE_SECONDS)
    except OSError:
      pass
    finally:
      # Also if Ctrl-C came in between: the next request must not read this one's reply.
      if reply not in (b"true\n", b"false\n"):
        self._stop()
    return reply == b"true\n"

  def _running(self) -> subprocess.Popen:
    """The worker, started if there is none."""
    if self._process is None:
      # -P: the folder of the script is no place to import from.
      self._process = subprocess.Popen(
          [sys.executable, "-P", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True)
      self._finalizer = weakref.finalize(self, _kill, self._process)
      if self._reply(_START_SECONDS) != b"ready\n":
        self._stop()
        raise RuntimeError("the algebra worker did not start; see what python -c 'import "
                           "math_verify' says.")
    return self._process

  def _reply(self, seconds: float) -> bytes:
    """The worker's next line; b"" if it died or did not answer in time."""
    deadline, line = time.monotonic() + seconds, b""
    pipe, poll = self._process.stdout.fileno(), select.poll()
    poll.register(pipe, select.POLLIN)
    while not line.endswith(b"\n") and len(line) < 16:
      left = max(deadline - time.monotonic(), 0)
      part = os.read(pipe, 16) if poll.poll(1000 * left) else b""
      if not part:
        return b""
      line += part
    return line

  def _stop(self) -> None:
    self._finalizer()
    self._process = None


def _kill(process: subprocess.Popen) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)  # and its child
  process.wait()
  process.stdin.close()
  process.stdout.close()
