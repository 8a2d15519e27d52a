"""Reading answers out of model output, and exact arithmetic without `eval`.

Contents: final_answer, last_marked, last_boxed, last_tag, number, last_number, expression, value,
apply.

Convention: model output is hostile input. Nothing here raises for any string, runs it, or takes
time beyond linear in MAX_CHARS; only the last MAX_CHARS characters are looked at, since an answer
stands at the end. Values are fractions; one of more than MAX_BITS bits is not computed.
"""

from __future__ import annotations

import fractions
import math
import re

from mdx.tasks import surface

MAX_CHARS = 20_000
MAX_BITS = 2**18
_MAX_EXPRESSION_CHARS = 256
_MAX_FORMULA_CHARS = 512
_MAX_DEPTH = 32
_MAX_FACTORIAL = 20_000
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_POWER = r"\^(?:\{[-+]?[0-9]{1,4}\}|[-+]?[0-9]{1,4})"
_MIXED = r"\([0-9]+\+\\frac\{[0-9]+\}\{[0-9]+\}\)"
_FRACTION = rf"\\frac\{{[-+]?(?:{_DIGITS})\}}\{{(?:{_DIGITS})\}}"
# A literal is one number: digits, a fraction, a mixed number, a power, or one with *10^n behind.
_LITERAL = re.compile(
    rf"(?:{_MIXED}|{_FRACTION}|(?:{_DIGITS})(?:/(?:{_DIGITS})(?![/0-9]))?)"
    rf"(?:\*(?:10)(?:{_POWER})|(?:{_POWER})|[eE][-+]?[0-9]{{1,4}}(?![0-9a-zA-Z]))?")
_MINUS = re.compile(r"(?:-|(?<![a-z])(?:minus|negative) )[ (]*$", re.IGNORECASE)
_UNIT_POWERS = re.compile(rf"(?:[a-zA-Zµμ%]|\\text ?\{{[^{{}}]{{0,99}}\}})(?:{_POWER})"
                          r"|\^\\circ ")
_COMMAND_BEFORE = re.compile(r"\\(?!text|approx|circ)[a-zA-Z]+(?: ?\[[^\]]{0,9}\])? ?[{(]?$|\}\{$")
_COMMAND_BEHIND = re.compile(r" ?\\(?!text|approx|circ|[^a-zA-Z])")
_RELATION = re.compile(r"[<>]|\\(?:ne|le|ge|pm|mp|lnot|neg|[lc]?dots)(?![a-zA-Z])|\bnot\b|[0-9] ?i$"
                       r"|\\text ?\{i\}")  # what is no number
_SUBSCRIPT = re.compile(r"_\{?[0-9a-zA-Z]*\}?")
_TAIL_CHARS = 400  # of a text, where its last number is looked for first
_MAX_DIGITS = 40
_MAX_SIDES = 8  # of an equation, from its end
_TOKEN = re.compile(r"\s*(?:([0-9]{1,9})(?![0-9])|([-+*/()]))")
_FORMULA_TOKEN = re.compile(
    r"\s*(?:((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?)(?![0-9a-zA-Z.])"
    r"|([-+*/()^]|!(?!!)))")


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


def last_marked(text: str) -> str | None:
  r"""The content of the last \boxed{} or <answer>, whichever ends last, or None.

  Of a box in a tag it is that of the box.
  """
  text = text[-MAX_CHARS:]
  tag = last_tag(text)
  if tag is None:
    return last_boxed(text)
  later = last_boxed(text[text.rfind("</answer>"):])
  inner = last_boxed(tag) if later is None else later
  return tag if inner is None else inner


def number(text: str) -> fractions.Fraction | None:
  r"""The only number in a short answer such as "$1,000.00", "x = 5", "15 m^2" or "42 apples".

  Fractions, also those of LaTeX, mixed numbers (2 1/2), powers and n * 10^k are numbers; sums
  are not. The last side of an equation counts ("3 + 4 = 7"), and a number that differs ("6 = 5")
  contradicts it. Then, and for two numbers ("10 or 20"), it is None.
  """
  text = surface.normal(text[-MAX_CHARS:]).replace("\\approx ", "=")
  if _RELATION.search(text):
    return None
  if text.startswith("(") and text.endswith(")") and _LITERAL.fullmatch(text) is None:
    text = text[1:-1]
  sides = [_literals(side, is_short=True) for side in text.rsplit("=", _MAX_SIDES)]
  found = sides[-1][0] if len(sides[-1]) == 1 else None
  contradicts = any(len(side) == 1 and None not in side and side[0] != found for side in sides)
  return None if contradicts else found


def last_number(text: str) -> fractions.Fraction | None:
  """The last number in the text, or None; a minus between two numbers is no sign."""
  for num_chars, least in ((_TAIL_CHARS, 2), (MAX_CHARS, 1)):  # the first may be cut in two
    found = _literals(surface.normal(text[-num_chars:]), is_short=False)
    if len(found) >= least:
      return found[-1]
  return None


def _literals(text: str, is_short: bool) -> list[fractions.Fraction | None]:
  """Values of the numbers in normal text; a short answer may have blanks behind a sign."""
  text = _UNIT_POWERS.sub(lambda m: m[0].partition("^")[0] + " ", text)
  text = _SUBSCRIPT.sub(" ", text) if is_short else text
  found = []
  for match in _LITERAL.finditer(text):
    before = text[max(match.start() - 16, 0):match.start()]
    if before[-1:].isalpha():  # a name, or a unit such as m2
      continue
    sign = _MINUS.search(before)
    is_minus = sign is not None and (is_short or not sign[0].startswith("- ")) and not re.search(
        r"[0-9)}!%]\s*$|[a-zA-Z]$" if sign[0][0] == "-" else r"[0-9]\s*$", before[:sign.start()])
    is_sum = re.search(r"[0-9)}!%] ?[-+/^]$", before) is not None
    is_part = (_COMMAND_BEFORE.search(before) or _COMMAND_BEHIND.match(text, match.end())
               or is_short and (is_sum or text.startswith("!", match.end())))
    if len(match[0]) > _MAX_DIGITS or is_part:  # of \sqrt{36}, 5\pi or 3-5
      found.append(None)
      continue
    read = value(surface.ascii_formula(match[0].replace(",", "")))
    read = read if isinstance(read, fractions.Fraction) else None
    found.append(-read if is_minus and read is not None else read)
  return found


def expression(text: str) -> tuple[fractions.Fraction | None, list[int]] | None:
  """Evaluates + - * / and parentheses over non-negative integers, exactly.

  Returns:
    (value, or None where it divides by zero; the integers in order), or None if the text is no
    expression, or one of more than 256 characters, 9 digits a number or 32 levels.
  """
  tokens = _tokens(text, _TOKEN, int) if len(text) <= _MAX_EXPRESSION_CHARS else None
  try:
    found = None if tokens is None else _whole(tokens)
  except (_NotAnExpressionError, _TooLargeError):
    return None
  return found and (found[0], [token for token in tokens if isinstance(token, int)])


def value(text: str) -> fractions.Fraction | float | None:
  """Evaluates + - * / ^ ! and parentheses over decimal numbers, exactly.

  Returns:
    the value; nan, which equals nothing, where it divides by zero or has more than MAX_BITS bits;
    None if the text is no such formula, or has more than 512 characters or 32 levels.
  """
  tokens = (_tokens(text, _FORMULA_TOKEN, _decimal) if len(text) <= _MAX_FORMULA_CHARS else None)
  try:
    found = None if tokens is None else _whole(tokens)
  except _NotAnExpressionError:
    return None
  except _TooLargeError:
    return math.nan
  return found and (math.nan if found[0] is None else found[0])


def _decimal(digits: str) -> fractions.Fraction:
  mantissa, _, exponent = digits.lower().partition("e")
  if exponent and abs(int(exponent)) * 4 > MAX_BITS:
    raise _TooLargeError
  return fractions.Fraction(mantissa) * fractions.Fraction(10) ** int(exponent or 0)


def _tokens(text, pattern, read):
  """Numbers, read by `read`, and operators of the text; None if it has anything else."""
  text, position, tokens = text.rstrip(), 0, []
  while position < len(text):
    match = pattern.match(text, position)
    if match is None:
      return None
    try:
      tokens.append(read(match[1]) if match[1] else match[2])
    except _TooLargeError:
      return [math.nan]
    position = match.end()
  return tokens


def _whole(tokens):
  """(value,) of all the tokens, or None if some are left over."""
  if tokens == [math.nan]:
    raise _TooLargeError
  found, rest = _sum(tokens, 0, 0)
  return (found,) if rest == len(tokens) else None


class _NotAnExpressionError(Exception):
  """The tokens do not parse."""


class _TooLargeError(Exception):
  """A value has more than MAX_BITS bits."""


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
  """product := signed (("*" | "/") signed)*."""
  value, i = _signed(tokens, i, depth)
  while (operator := _peek(tokens, i)) in ("*", "/"):
    other, i = _signed(tokens, i + 1, depth)
    value = apply(operator, value, other)
  return value, i


def _signed(tokens, i, depth):
  """signed := ("+" | "-") signed | power."""
  if depth > _MAX_DEPTH:
    raise _NotAnExpressionError
  if (sign := _peek(tokens, i)) in ("+", "-"):
    value, i = _signed(tokens, i + 1, depth + 1)
    return value if sign == "+" else apply("-", fractions.Fraction(0), value), i
  return _power(tokens, i, depth)


def _power(tokens, i, depth):
  """power := factorial ["^" signed]."""
  value, i = _factorial(tokens, i, depth)
  if _peek(tokens, i) != "^":
    return value, i
  exponent, i = _signed(tokens, i + 1, depth + 1)
  return apply("^", value, exponent), i


def _factorial(tokens, i, depth):
  """factorial := (number | "(" sum ")") "!"*."""
  token = _peek(tokens, i)
  if token == "(":
    value, i = _sum(tokens, i + 1, depth + 1)
    if _peek(tokens, i) != ")":
      raise _NotAnExpressionError
  elif token is None or isinstance(token, str):
    raise _NotAnExpressionError
  else:
    value = fractions.Fraction(token)
  i += 1
  while _peek(tokens, i) == "!":
    if value is not None and (value.denominator != 1 or value < 0):
      raise _NotAnExpressionError
    if value is not None and value > _MAX_FACTORIAL:
      raise _TooLargeError
    value, i = None if value is None else fractions.Fraction(math.factorial(int(value))), i + 1
  return value, i


def apply(operator: str, a: fractions.Fraction | None, b: fractions.Fraction | None):
  """a operator b, exact; None if either is None or it divides by zero."""
  if a is None or b is None or operator == "/" and b == 0:
    return None
  if operator == "^":
    return _raise(fractions.Fraction(a), fractions.Fraction(b))
  if _bits(a) + _bits(b) > MAX_BITS:
    raise _TooLargeError
  if operator == "+":
    return a + b
  if operator == "-":
    return a - b
  return a * b if operator == "*" else a / b


def _bits(a: fractions.Fraction) -> int:
  return a.numerator.bit_length() + a.denominator.bit_length()


def _raise(base: fractions.Fraction, exponent: fractions.Fraction) -> fractions.Fraction | None:
  """A power with a whole exponent; roots are no arithmetic of fractions."""
  if exponent.denominator != 1:
    raise _NotAnExpressionError
  if base == 0 and exponent <= 0:
    return None
  if abs(base) in (0, 1):
    return abs(base) if exponent % 2 == 0 else base
  if _bits(base) * abs(exponent) > MAX_BITS:
    raise _TooLargeError
  return base ** int(exponent)
