"""The process that `algebra.Checker` runs: reads requests, writes true or false.

Contents: main. Run as a script, so that it imports neither mdx nor JAX.

Convention: a request is one line of JSON, [seconds, gold, answer]; answer null asks whether gold
can be read. Only math-verify's LaTeX reader is used: its reader of plain expressions ends in
Python's `eval`.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys

_MEMORY_BYTES = 4 * 2**30


def _limit_resources() -> None:
  """Bounds memory and forbids to write files, where the system lets us."""
  try:
    import resource
    for kind, bound in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0),
                        (resource.RLIMIT_CORE, 0)):
      hard = resource.getrlimit(kind)[1]
      bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
      resource.setrlimit(kind, (bound, bound))
  except (ImportError, OSError, ValueError):
    pass


def main() -> None:
  """Answers requests until standard input ends."""
  replies = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what a library prints is no reply
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
  signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends this process
  sys.dont_write_bytecode = True
  _limit_resources()
  import math_verify

  @functools.lru_cache(maxsize=1024)
  def parse(text):
    return math_verify.parse(
        f"\\boxed{{{text}}}", parsing_timeout=None, fallback_mode="no_fallback",
        extraction_config=[math_verify.LatexExtractionConfig(boxed_match_priority=0)])

  def answer(gold, text):
    if text is None:
      return bool(parse(gold))
    # The order matters to the library: the given answer comes first.
    return math_verify.verify(parse(gold), parse(text), timeout_seconds=None)

  answer("\\frac{1}{2}", "0.5")  # imports what is imported late
  replies.write("ready\n")
  replies.flush()
  for line in sys.stdin:
    seconds, gold, text = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      reply = bool(answer(gold, text))
    except BaseException:  # pylint: disable=broad-except
      reply = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    replies.write("true\n" if reply else "false\n")
    replies.flush()


if __name__ == "__main__":
  main()
