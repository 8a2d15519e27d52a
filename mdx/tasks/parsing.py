"""Reading answers out of model output, and arithmetic without `eval`.

Contents: final_answer, last_boxed, last_tag, number, last_number, expression, apply.

Convention: model output is hostile input. Nothing here raises for any string, runs it, or takes
time beyond linear in MAX_CHARS; only the last MAX_CHARS characters are looked at, since an answer
stands at the end.
"""

from __future__ import annotations

import fractions
import re

MAX_CHARS = 20_000
_MAX_EXPRESSION_CHARS = 256
_MAX_DEPTH = 32
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_SIGNED = re.compile(rf"(?<![0-9.])(-?)(?:\\?\$)?({_NUMBER})")
_MAX_DIGITS = 40
_TOKEN = re.compile(r"\s*(?:([0-9]{1,9})(?![0-9])|([-+*/()]))")


def last_boxed(text: str) -> str | None:
  r"""The content of the last \boxed{...} (or \fbox) whose braces are balanced, or None."""
  text = text[-MAX_CHARS:]
  stack, best = [], (-1, -1)
  for match in _BRACES.finditer(text):
    token = match[0]
    if token == "}":
      if stack:
        best = max(best, (stack.pop(), match.start()))
    elif token == "{":
      stack.append(-1)
    elif token[-1] == "{" and len(token) > 2:
      stack.append(match.end())
  return None if best[0] < 0 else text[best[0]:best[1]]


def last_tag(text: str) -> str | None:
  """The content of the last <answer>...</answer>, or None."""
  text = text[-MAX_CHARS:]
  end = text.rfind("</answer>")
  start = text.rfind("<answer>", 0, max(end, 0))
  return None if start < 0 else text[start + len("<answer>"):end]


def final_answer(text: str) -> str | None:
  r"""Answer of a model: the last \boxed{}, else the last <answer>, else None."""
  boxed = last_boxed(text)
  return last_tag(text) if boxed is None else boxed


def _value(sign: str, digits: str) -> fractions.Fraction | None:
  if len(digits) > _MAX_DIGITS:
    return None
  return fractions.Fraction(sign + digits.replace(",", ""))


def number(text: str) -> fractions.Fraction | None:
  """The only number in a short answer such as "$1,000.00", "x = 5" or "42 apples", or None.

  What stands before the last "=" does not count. Two numbers ("10 or 20", "1/2") are no answer.
  """
  text = text[-MAX_CHARS:].rpartition("=")[2]
  text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", "")
  found = _SIGNED.findall(text)
  return _value(*found[0]) if len(found) == 1 else None


def last_number(text: str) -> fractions.Fraction | None:
  """The last number in the text, or None."""
  found = _SIGNED.findall(text[-MAX_CHARS:])
  return _value(*found[-1]) if found else None


def expression(text: str) -> tuple[fractions.Fraction | None, list[int]] | None:
  """Evaluates + - * / and parentheses over non-negative integers, exactly.

  Returns:
    (value, or None where it divides by zero; the integers in order), or None if the text is no
    expression, or one of more than 256 characters, 9 digits a number or 32 levels.
  """
  if len(text) > _MAX_EXPRESSION_CHARS:
    return None
  text, position, tokens = text.rstrip(), 0, []
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      return None
    tokens.append(int(match[1]) if match[1] else match[2])
    position = match.end()
  try:
    value, rest = _sum(tokens, 0, 0)
  except _NotAnExpression:
    return None
  if rest != len(tokens):
    return None
  return value, [token for token in tokens if isinstance(token, int)]


class _NotAnExpression(Exception):
  """The tokens do not parse."""


def _peek(tokens, i):
  return tokens[i] if i < len(tokens) else None


def _sum(tokens, i, depth):
  """sum := product (("+" | "-") product)*; returns (value or None, next index)."""
  value, i = _product(tokens, i, depth)
  while (operator := _peek(tokens, i)) in ("+", "-"):
    other, i = _product(tokens, i + 1, depth)
    value = apply(operator, value, other)
  return value, i


def _product(tokens, i, depth):
  """product := factor (("*" | "/") factor)*."""
  value, i = _factor(tokens, i, depth)
  while (operator := _peek(tokens, i)) in ("*", "/"):
    other, i = _factor(tokens, i + 1, depth)
    value = apply(operator, value, other)
  return value, i


def _factor(tokens, i, depth):
  """factor := integer | "(" sum ")" | ("+" | "-") factor."""
  token = _peek(tokens, i)
  if depth > _MAX_DEPTH:
    raise _NotAnExpression
  if isinstance(token, int):
    return fractions.Fraction(token), i + 1
  if token == "(":
    value, i = _sum(tokens, i + 1, depth + 1)
    if _peek(tokens, i) != ")":
      raise _NotAnExpression
    return value, i + 1
  if token in ("+", "-"):
    value, i = _factor(tokens, i + 1, depth + 1)
    return value if token == "+" else apply("-", fractions.Fraction(0), value), i
  raise _NotAnExpression


def apply(operator: str, a: fractions.Fraction | None, b: fractions.Fraction | None):
  """a operator b, exact; None if either is None or it divides by zero."""
  if a is None or b is None or operator == "/" and b == 0:
    return None
  if operator == "+":
    return a + b
  if operator == "-":
    return a - b
  return a * b if operator == "*" else a / b
