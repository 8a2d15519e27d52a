"""The process that `algebra.Checker` runs: reads requests, writes true or false.

Contents: main. Run as a script, so that it imports neither mdx nor JAX.

Convention: a request is one line of JSON, [seconds, gold, answer]; answer null asks whether gold
can be read. A child of this process answers, so that after one that hangs or dies, whose verdict
is false, the next one is there at once. Only math-verify's LaTeX reader is used: its reader of
plain expressions ends in Python's `eval`.

Its comparison of numbers is not used. It rounds to six decimals (1e-7 = 2e-7) and drops small
differences; `_are_equal` stands in its place: decimals are exact, except beside an irrational
number, which a decimal of at least seven digits may round.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys

_MEMORY_BYTES = 4 * 2**30
_DIGITS = 60  # of an evaluation
_SAME = 1e-30  # relative difference of two evaluations of one number
_ROUNDED = 5e-7  # relative difference of a number and its decimal
_FIRST = (("\\frac{x}{2}", "0.5x"), ("\\sqrt{2}", "1.414214"), ("2x<4", "x<2"), ("\\sin^2 x", "x"),
          ("(0,1)\\cup(1,2)", "(0,2)"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "1"))
_POINTS = ((7, 5), (-13, 9), (29, 31))  # where formulas with variables are tried


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


def _are_equal(a, b, *_):
  """Whether two numbers of the library are equal; False for what is no number."""
  import sympy
  if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
    return a.shape == b.shape and all(_are_equal(x, y) for x, y in zip(a.flat(), b.flat()))
  if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):
    return False
  is_decimal = isinstance(a, sympy.Float) != isinstance(b, sympy.Float)
  decimal = _exact(a if isinstance(a, sympy.Float) else b)
  a, b = _exact(a), _exact(b)
  if a == b:
    return True
  if a.free_symbols or b.free_symbols or a.is_Rational and b.is_Rational:
    return False
  distance = _relative_difference(a, b)
  if distance is None or not is_decimal:
    return distance is not None and distance <= _SAME
  unit = sympy.Rational(1, 10 ** next(k for k in range(_DIGITS) if 10**k % decimal.q == 0))
  return bool(distance <= _ROUNDED and abs(sympy.N(a - b, _DIGITS)) <= unit / 2)


def _exact(a):
  """An expression with its decimals as fractions, evaluated."""
  import sympy
  a = a.doit()
  return a.xreplace({f: sympy.Rational(str(f)) for f in a.atoms(sympy.Float)}).doit()


def _relative_difference(a, b):
  """|a - b| over the larger of |a| and |b|; None if they have no values."""
  import sympy
  x, y = (sympy.N(z, _DIGITS) for z in (a, b))
  scale = max(abs(x), abs(y))
  return float(abs(x - y) / scale) if scale.is_finite and scale > 0 else None


def _differ_somewhere(a, b):
  """Whether two formulas differ at one of the points; quick, where to simplify can take long."""
  import sympy
  if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):
    return False
  symbols = sorted(a.free_symbols | b.free_symbols, key=str)
  for shift in range(len(_POINTS)):
    at = {s: sympy.Rational(*_POINTS[(i + shift) % len(_POINTS)]) + i // len(_POINTS)
          for i, s in enumerate(symbols)}
    try:
      distance = _relative_difference(_exact(a).xreplace(at), _exact(b).xreplace(at))
      if distance is not None and distance > _SAME:
        return True
    except (TypeError, ValueError, ArithmeticError, AttributeError):
      continue
  return False


def _answerer():
  """The library's comparison of two formulas, with the comparison of numbers of this file."""
  import math_verify
  from math_verify import grader
  by_algebra = grader.sympy_symbolic_eq
  grader.sympy_numeric_eq = _are_equal
  grader.sympy_symbolic_eq = lambda a, b: not _differ_somewhere(a, b) and by_algebra(a, b)

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

  for gold, text in _FIRST:  # imports what is imported late
    answer(gold, text)
  return answer


def _serve(answer, replies):
  """Answers requests until standard input ends."""
  for line in iter(functools.partial(_line, 0), b""):
    seconds, gold, text = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      reply = bool(answer(gold, text))
    except BaseException:  # pylint: disable=broad-except
      reply = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    os.write(replies, b"true\n" if reply else b"false\n")


def _line(stream):
  """The next line, unbuffered: what a child has read is lost with it."""
  line = b""
  while not line.endswith(b"\n") and (part := os.read(stream, 2**16)):
    line += part
  return line


def main() -> None:
  """Answers requests until standard input ends."""
  replies = os.dup(1)
  os.dup2(2, 1)  # what a library prints is no reply
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
  signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends a child
  sys.dont_write_bytecode = True
  _limit_resources()
  answer = _answerer()
  os.write(replies, b"ready\n")
  while (child := os.fork()) and os.waitpid(child, 0)[1]:
    os.write(replies, b"false\n")  # it died over the request
  if not child:
    _serve(answer, replies)
    os._exit(0)


if __name__ == "__main__":
  main()
