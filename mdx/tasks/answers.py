r"""Equality of formulas as answers, where exact arithmetic and the form decide it.

Contents: compare, is_readable.

Convention: texts are in the normal form of `surface`; the given answer ("gold") comes first. The
rules, none of which reads the problem:

- Numbers are compared as fractions: 1/3 is not 0.333333. One too large to compute
  (`parsing.MAX_BITS`) equals only its own form. An answer in a base needs the digits and the base
  of the gold; it may leave the base out.
- A unit may be left out, and so may a percent sign of a number of at least one. Two different
  units of measure are different.
- Behind an approximate sign there may be a number that is about right.
- Of an equation the name before it does not count, unless both have one; all the other sides must
  be equal to the gold, so that "6 = 5" answers nothing.
- Lists and sets are equal in any order, tuples and intervals in the given order with the given
  brackets; brackets may be left out around a tuple. Several answers are a list.
"""

from __future__ import annotations

import re

from mdx.tasks import parsing
from mdx.tasks import surface

_MAX_SIDES = 8
_MAX_ITEMS = 50  # of a list that is compared in any order
_MAX_DEPTH = 4  # of lists in lists
_NAME = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+ ?|\\text ?\{[^{}]*\})(?:_\{?\w+\}?|')*"
                   r"(?:\([a-z](?:,[a-z]){0,3}\))?|[A-Z]{2}")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{([0-9]+)\}")
_POWER = r"(?:\^\{?[-+]?[0-9]\}?)?"
_MEASURES = {name: unit for unit, names in {
    "m": "m meter metre", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre",
    "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
    "mi": "mi mile", "g": "g gram", "kg": "kg kilogram", "mg": "mg milligram", "lb": "lb pound",
    "oz": "oz ounce", "l": "l liter litre", "ml": "ml milliliter millilitre", "s": "s sec second",
    "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month",
    "year": "yr year", "mph": "mph", "km/h": "km/h kph", "dollar": "dollar", "cent": "cent",
    "degree": "degree", "c": "c celsius", "f": "f fahrenheit", "radian": "rad radian",
    "%": "% percent", "gal": "gal gallon", "acre": "acre", "n": "n newton", "joule": "joule",
    "w": "w watt", "hz": "hz hertz"}.items() for name in names.split()}
_WORDS = "|".join(sorted((name for name in _MEASURES if len(name) > 1 and name.isalpha()), key=len,
                         reverse=True))
_UNIT = re.compile(
    rf"(?<=[0-9a-zA-Z)}}]) ?(%|\^\\circ ?(?:\\text ?\{{ ?[CF] ?\}}|[CF])?"
    rf"|\\text ?\{{[^{{}}]*\}}(?:/\\text ?\{{[^{{}}]*\}})?{_POWER}"
    rf"|(?: (?:{_WORDS})|(?<=[0-9]) [mgsh]"
    rf"|(?<=[0-9])(?:{_WORDS})|(?: [a-zA-Z]{{4,20}})+)s?{_POWER})$")
# Two answers side by side, of which the library would make a sum.
_BESIDE = re.compile(r"[0-9] [0-9]|[0-9}] ?\\text ?\{[^{}]*\} ?(?:[0-9]|\\frac)")
_SAYS_MORE = re.compile(r"\\text ?\{[^{}]*(?:[0-9]|\bnot\b)[^{}]*\}")
_DOTS = re.compile(r"\\[lcd]?dots|\.\.\.")
_SYMBOLS = re.compile(r"\\(?:cup|cap|setminus|begin|le|ge|in|ne|pm|mp|mid|[lc]?dots|mathbb)"
                      r"(?![a-z])|[<>|:]")
_OR = re.compile(r"\\text ?\{ ?,? ?(?:and|or) ?\}|,? (?:and|or) |;")
_SIDE = re.compile(r"(?<![<>!])=")


def is_readable(text: str) -> bool:
  """Whether a normal text is a number that this module compares."""
  return _quantity(text) is not None


def compare(gold: str, answer: str, *, depth: int = 0) -> bool | list[tuple[str, str]]:
  """Whether an answer equals the given one; or the pairs that algebra must all find equal.

  Args:
    gold, answer: normal texts.
    depth: number of lists around them.
  """
  gold, answer = _compact(gold), _compact(answer)
  if gold == answer:
    return True
  if "\\equiv" not in gold:
    answer = answer.replace("\\equiv ", "=")
  if any(pattern.search(answer) and not pattern.search(gold) for pattern in (_DOTS, _SAYS_MORE)):
    return False
  answer, _, about = answer.partition("\\approx ")
  if not gold or not answer or _BESIDE.search(_OR.sub(",", answer)) or not _is_about(answer, about):
    return False
  if _SYMBOLS.search(gold) or _SYMBOLS.search(answer):
    return [(gold, answer)]
  golds, answers = _items(gold), _items(answer)
  if golds is None and answers is None:
    return _compare_equations(gold, answer)
  if depth >= _MAX_DEPTH:
    return False
  found = _compare_lists(golds or ("", [gold], ""), answers or ("", [answer], ""), depth + 1)
  return [(gold, answer)] if found is None else found


def _is_about(answer: str, about: str) -> bool:
  """Whether a number behind an approximate sign, if there is one, is about what is before it."""
  value, other = _quantity(_SIDE.split(answer)[-1]), _quantity(about)
  return not about or other is not None and (
      value is None or abs(value - other) <= abs(value) / 100)


def _compact(text: str) -> str:
  """The text without blanks where they cannot part two words or numbers."""
  return re.sub(r" (?![0-9a-zA-Z\\])|(?<![0-9a-zA-Z]) (?=[0-9a-zA-Z])|(?<=[-+*/=(,]) ", "", text)


def _compare_lists(golds, answers, depth):
  """Compares two (opening bracket, items, closing bracket); None where the items do not decide."""
  opened, items, closed = golds
  other_opened, others, other_closed = answers
  brackets, other_brackets = opened + closed, other_opened + other_closed
  if len(items) != len(others) or len(items) > 1 and brackets != other_brackets and (
      {brackets, other_brackets} not in ({"", "()"}, {"", "\\{\\}"})):
    return False
  is_named = [bool(_name_of(item)) for item in items]
  is_free = {brackets, other_brackets} <= {"", "\\{\\}"}
  if not is_free or is_named != [bool(_name_of(item)) for item in others]:
    verdicts = [compare(a, b, depth=depth) for a, b in zip(items, others)]
    if False in verdicts:
      return False
    return sum((verdict for verdict in verdicts if verdict is not True), []) or True
  if len(items) > _MAX_ITEMS:
    return False
  table = [[compare(a, b, depth=depth) for b in others] for a in items]
  left, is_open = set(range(len(others))), []
  for row in table:
    match = next((j for j in sorted(left) if row[j] is True), None)
    left.discard(match)
    is_open += [row] if match is None else []
  if any(all(row[j] is False for j in left) for row in is_open):
    return False
  return None if is_open else True


def _compare_equations(gold, answer):
  """Compares two texts that are no lists."""
  golds, answers = _SIDE.split(gold), _SIDE.split(answer)
  name, other_name = _name_of(gold), _name_of(answer)
  if name and other_name and name != other_name and len(golds) == len(answers) == 2:
    return False
  golds = golds[1:] if name else golds
  answers = answers[1:] if other_name else answers
  if len(golds) > 1:  # an equation itself
    return [(gold, answer)]
  if len(answers) > _MAX_SIDES or name and len(answers) > 1 and not other_name:
    return False
  verdicts = [_compare_formulas(golds[0], side) for side in answers]
  if False in verdicts:
    return False
  return None not in verdicts or [(golds[0], side) for side, verdict in zip(answers, verdicts)
                                  if verdict is None]


def _name_of(text):
  """The name before the first = of an equation, or ""."""
  name, equals, _ = text.partition("=")
  return name.strip() if equals and _NAME.fullmatch(name.strip()) else ""


def _compare_formulas(gold, answer):
  """True, False, or None where arithmetic does not decide."""
  if gold == answer:
    return True
  based, other_based = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
  if based and other_based:
    return _digits(based[1]) == _digits(other_based[1]) and based[2] == other_based[2]
  if based:
    return _digits(based[1]) == _digits(answer)
  if other_based:
    value = parsing.value(surface.ascii_formula(gold))
    return value is not None and _in_base(other_based) == value
  (body, unit), (other_body, other_unit) = _divide(gold), _divide(answer)
  if unit and other_unit and unit != other_unit and _is_measure(unit) and _is_measure(other_unit):
    return False
  value, other = _quantity(body), _quantity(other_body)
  if value is None or other is None:
    return None
  if (unit == "%") == (other_unit == "%"):
    return value == other
  rate, number = (value, other) if unit == "%" else (other, value)
  return rate / 100 == number or rate == number and abs(number) >= 1


def _digits(text):
  return text.lower().lstrip("0") or "0"


def _in_base(match):
  try:
    return int(match[1], int(match[2]))
  except ValueError:  # a digit that the base does not have
    return None


def _quantity(text):
  """Value of a normal formula; None if it is no arithmetic."""
  return parsing.value(surface.ascii_formula(text))


def _divide(text):
  """A formula and its unit, "" if it has none."""
  match = _UNIT.search(text)
  unit = "" if match is None else _unit(match[1])
  if not unit or re.search(r"[0-9,;(]", unit.replace("^2", "").replace("^3", "")) or (
      len(unit) == 1 and not _is_measure(unit)):  # 5\text{i}
    return text, ""
  return text[:match.start()], unit


def _unit(text):
  """One way of writing a unit: measures by their symbols, others as they are."""
  text = re.sub(r"\\text ?|[{}]", "", text.replace("^\\circ", " degree ")).lower()
  text = re.sub(r"\b(?:square|sq\.?) (\w+)", r"\1^2", text)
  text = re.sub(r"\b(?:cubic|cu\.?) (\w+)", r"\1^3", text)
  text = re.sub(r"\bdegrees? (?=[cf]\b)", "", text)
  words = re.split(r"([^a-z%]+)", text.strip(" ."))
  return "".join(_MEASURES.get(w, _MEASURES.get(w.removesuffix("s"), w)) for w in words)


def _is_measure(unit):
  """Whether every word of a unit is a unit of measure."""
  words = re.findall("[a-z%]+", unit)
  return bool(words) and all(word in _MEASURES for word in words)


def _items(text: str) -> tuple[str, list[str], str] | None:
  """(opening bracket, items, closing bracket) of a list, set, tuple or interval, or None."""
  text = _OR.sub(",", text)
  if _name_of(text):  # one name for all of them
    named = _items(text.partition("=")[2].strip())
    if named is not None and not any(map(_name_of, named[1])):
      return named
  found = _split(text)
  if len(found) > 1:
    return "", found, ""
  for opened, closes in (("\\{", ("\\}",)), ("(", (")", "]")), ("[", ("]", ")"))):
    closed = next((c for c in closes if text.endswith(c)), None)
    if text.startswith(opened) and closed:
      items = _split(text[len(opened):-len(closed)])
      if len(items) > 1 or opened == "\\{":
        return opened, items, closed
  return None


def _split(text: str) -> list[str]:
  """Parts between commas that stand in no brackets; [text] where brackets do not match."""
  parts, start, depth = [], 0, 0
  for match in re.finditer(r"\\?[{}]|[()\[\],]", text):
    token = match[0][-1]
    depth += (token in "([{") - (token in ")]}")
    if depth < 0:
      return [text]
    if token == "," and not depth:
      parts.append(text[start:match.start()].strip())
      start = match.end()
  return [text] if depth else [*parts, text[start:].strip()]
