"""Symbolic equality of LaTeX answers, in a process of its own under a time limit.

Contents: check_installed, checker, Checker.

Computer algebra can hang, use up memory or crash on a short formula. So it runs in a worker
(`algebra_worker.py`), one request at a time. The kernel ends the worker when it has used the time
limit, in processor time, so that a verdict does not depend on how busy the machine is. From here
it is killed after some more by the clock. Then the answer counts as wrong, and the next request
starts another worker. Verdicts are remembered.

Reference: the comparison is that of the library math-verify, Kydlicek and Gandenberger 2024.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref

_WORKER = os.path.join(os.path.dirname(__file__), "algebra_worker.py")
_START_SECONDS = 120.0
_CLOCK_RATE = 4.0  # seconds by the clock, for each of the limit,
_GRACE_SECONDS = 2.0  # and some more, until the worker is killed from here
_MAX_CHARS = 500
_MAX_REMEMBERED = 2**17
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\s|\$")


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
    self._lock = threading.Lock()
    self._process = None
    self._verdicts: dict[tuple[str, str | None], bool] = {}

  def is_readable(self, gold: str) -> bool:
    """Whether a given answer can be compared with anything."""
    return _INTEGER.fullmatch(_plain(gold)) is not None or self._verdict(gold, None)

  def equal(self, gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`; False also for one that cannot be read or takes too long."""
    if len(answer) > _MAX_CHARS or not answer.strip():
      return False
    a, b = _plain(gold), _plain(answer)
    if a == b:
      return True
    if _INTEGER.fullmatch(a) and _INTEGER.fullmatch(b):
      return int(a) == int(b)
    return self._verdict(gold, answer)

  def _verdict(self, gold: str, answer: str | None) -> bool:
    with self._lock:
      request = (gold, answer)
      if request not in self._verdicts:
        if len(self._verdicts) >= _MAX_REMEMBERED:
          self._verdicts.clear()
        self._verdicts[request] = self._ask(request)
      return self._verdicts[request]

  def _ask(self, request: tuple[str, str | None]) -> bool:
    line = json.dumps([self._time_limit, *request]).encode() + b"\n"
    try:
      self._running().stdin.write(line)
    except OSError:  # it died between two requests
      self._stop()
      self._running().stdin.write(line)
    reply = b""
    try:
      reply = self._reply(self._time_limit * _CLOCK_RATE + _GRACE_SECONDS)
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
          stderr=subprocess.DEVNULL, bufsize=0)
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
  process.kill()
  process.wait()
  process.stdin.close()
  process.stdout.close()


def _plain(text: str) -> str:
  """An answer without spacing and in one way of writing fractions."""
  text = _SPACING.sub("", text)
  return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").rstrip(".")
