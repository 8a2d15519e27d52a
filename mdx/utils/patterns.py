"""Regular expressions of others, matched in a process with bounds on memory and time.

Contents: full_matches, main.

Convention: names alone (letters, digits, `_`, `-` and `.`) need no process. Python's matcher can
take for ever on a hostile expression, and cannot be stopped from within.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

_MEMORY_BYTES, _SECONDS, _CLOCK_SECONDS, _MAX_CHARS = 2**29, 4, 20, 2**14
_NAME = re.compile(r"[\w.-]*", re.ASCII)


def full_matches(pattern: str, texts: Sequence[str]) -> list[bool]:
  """Returns whether an expression matches the whole of each text.

  Raises:
    ValueError: it is malformed, or takes too much time or memory.
  """
  if _NAME.fullmatch(pattern):
    return [bool(re.fullmatch(pattern, text)) for text in texts]
  if len(pattern) > _MAX_CHARS:
    raise ValueError(f"a regular expression of {len(pattern)} characters; expected at most "
                     f"{_MAX_CHARS}.")
  try:
    done = subprocess.run([sys.executable, "-I", __file__], text=True, capture_output=True,
                          input=json.dumps([pattern, list(texts)]), timeout=_CLOCK_SECONDS,
                          check=False)
    reply = json.loads(done.stdout) if not done.returncode else None
  except subprocess.TimeoutExpired:
    reply = None
  if reply is None:
    raise ValueError(f"the regular expression {pattern!r:.60} takes too much time or memory; give "
                     "a simpler one, or a list of names.")
  if isinstance(reply, str):
    raise ValueError(f"{pattern!r:.60} is no regular expression ({reply}); correct it.")
  return reply


def main() -> None:
  """Reads [pattern, texts] from standard input; writes whether each matches, or what is wrong."""
  pattern, texts = json.load(sys.stdin)
  try:
    import resource  # pylint: disable=g-import-not-at-top  (not on every system)
    for kind, bound in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _SECONDS),
                        (resource.RLIMIT_CORE, 0)):
      hard = resource.getrlimit(kind)[1]
      bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
      resource.setrlimit(kind, (bound, bound))
  except (ImportError, OSError, ValueError):
    pass
  reply: list[bool] | str
  try:
    reply = [bool(re.fullmatch(pattern, text)) for text in texts]
  except (re.error, OverflowError, RecursionError) as error:
    reply = " ".join(str(error).split())[:100]
  json.dump(reply, sys.stdout)


if __name__ == "__main__":
  main()
