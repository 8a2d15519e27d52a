"""A tagger of time in English texts: dates, months and years; signals before them; persons.

Contents: Expression, expressions, signals, Gazetteer, spans.

  day    July 4, 1976; 4th of July; 4 July 1976; 11-Aug-2017; 1976-07-04; 7/4/1976
  month  July 1976; July; but May and March alone only behind a word such as "in", "since", "last"
  year   1976; 1976-77; mid-1976; from 1500 to 2099

Decades (the 1970s), centuries, durations (several weeks) and numbers of four digits that count
something (1500 people, $1,976) are none. Expressions do not overlap; the first, then the longest,
is taken.

Reference: Wang et al., BiTimeBERT 2.0, arXiv:2406.01863 (granularities, signals).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mdx.corruption import temporal
from mdx.data import source
from mdx.utils import readers

_REACH = 10  # characters between a signal and the date that it is of
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")
_FULL = "|".join(name for month in _MONTHS for name in (month, month.upper()))
_MONTH = rf"\b(?:{_FULL}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th|ST|ND|RD|TH)?\b"
_YEAR = r"(?:1[5-9]\d\d|20\d\d)"
_ALONE = "|".join(m for m in _MONTHS if m not in ("March", "May"))
_COUNTED = ("people|men|women|persons|children|dollars|pounds|cents|miles|feet|yards|meters|metres|"
            "km|kg|mm|tons|acres|square|percent|per|million|billion|thousand|hours?|days?|weeks?|"
            "months?|years?|votes|units|points|copies|troops|soldiers|jobs|members|workers|"
            "students|bytes|bits|characters|words|lines|times|calories|degrees|rpm")
_YEAR_ALONE = (rf"(?:\b[Mm]id-|(?<![\w$£€#.,/:%+*=-])){_YEAR}(?:\s?[-–/]\s?(?:{_YEAR}|\d\d))?"
               rf"(?!['’]?s\b|\w|[.,:/]\d|[-–]\w|\s?%|\s+(?:{_COUNTED})\b)")
_PATTERNS = tuple((re.compile(pattern), granularity) for pattern, granularity in (
    (rf"{_MONTH}\s+(?:the\s+)?{_DAY}(?:,\s*|\s+)(?:in\s+)?{_YEAR}\b(?!['’]?s\b)", "day"),
    (rf"{_MONTH}\s+(?:the\s+)?{_DAY}", "day"),
    (rf"\b{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR}\b(?!['’]?s\b))?", "day"),
    (rf"\b(?:3[01]|[12]\d|0?[1-9])-{_MONTH}-{_YEAR}\b", "day"),
    (rf"(?<![\w-]){_YEAR}-(?:1[0-2]|0[1-9])-(?:3[01]|[12]\d|0[1-9])(?![\w-])", "day"),
    (rf"(?<![\w/])(?:3[01]|[12]\d|0?[1-9])/(?:3[01]|[12]\d|0?[1-9])/{_YEAR}(?![\w/])", "day"),
    (rf"{_MONTH}(?:,\s*|\s+(?:of\s+)?){_YEAR}\b(?!['’]?s\b)", "month"),
    (rf"(?<![\w/])(?<!\d-)(?:{_ALONE})\b", "month"),
    (r"\b(?:[Ii]n|[Ss]ince|of|[Bb]y|until|till|through|[Dd]uring|from|[Ll]ast|[Nn]ext|[Tt]his|"
     r"early|late|[Bb]efore|[Aa]fter|and|to) (?P<month>March|May)\b(?! [a-z]+ing\b)", "month"),
    (rf"\b[Mm]id-(?P<month>{_FULL})\b", "month"),
    (_YEAR_ALONE, "year")))
_CLASS = {word: i for i, words in enumerate(temporal.SIGNALS) for word in words}
_SIGNAL = re.compile(rf"\b(?:{'|'.join((*_CLASS, *map(str.capitalize, _CLASS)))})\b")
_LETTERS = re.compile(r"(?<!\w)[^\W\d_]+")
_NAME = re.compile(r"[^\W\d_][^\W\d_.'’ -]*(?:[.'’ -]+[^\W\d_]+)*\.?")


class Expression(NamedTuple):
  """A temporal expression: its characters, and "day", "month" or "year"."""
  start: int
  end: int
  granularity: str


def expressions(text: str) -> list[Expression]:
  """The temporal expressions of a text, in order."""
  found = []
  for pattern, granularity in _PATTERNS:
    group = "month" if "month" in pattern.groupindex else 0
    found += [Expression(*match.span(group), granularity) for match in pattern.finditer(text)]
  return _apart(sorted(found, key=lambda e: (e.start, -e.end)))


def signals(text: str, dates: Sequence[Expression]) -> list[tuple[int, int, int]]:
  """Words that say how a date is related to what happens: (start, end, class of SIGNALS).

  Of each of `dates` the one before it, with at most 10 characters in between.
  """
  words, found = list(_SIGNAL.finditer(text)), {}
  for date in dates:
    near = [match for match in words if 0 <= date.start - match.end() <= _REACH]
    if near:
      found[near[-1].span()] = _CLASS[near[-1].group().lower()]
  return [(*span, number) for span, number in sorted(found.items())]


def _apart(found):
  """Spans, in order of preference at each position, without those that overlap an earlier one."""
  kept, end = [], 0
  for span in found:
    if span[0] >= end:
      kept.append(span)
      end = span[1]
  return kept


class Gazetteer:
  """Names of persons, as they are written in texts.

  Args:
    names: two that are one text are one name.
  """

  def __init__(self, names: Iterable[str]):
    self.names = tuple(dict.fromkeys(names))
    self._by_word = {}
    for name in sorted(self.names, key=len, reverse=True):
      self._by_word.setdefault(_LETTERS.match(name).group(), []).append(name)

  @classmethod
  def of_files(cls, path: str | os.PathLike | Sequence[str]) -> Gazetteer:
    """From files (also "asset:NAME", globs, .xz, .gz) with one name a line.

    Raises:
      ValueError: a line that is no name, with file and line.
    """
    names = []
    for file in source.find(path):
      for number, line in enumerate(readers.lines(readers.read_text(file)), 1):
        if not _NAME.fullmatch(line.strip()):
          raise ValueError(f"{file}, line {number}: {line!r:.40} is no name; write one a line, of "
                           "letters, spaces, points, apostrophes and hyphens.")
        names.append(line.strip())
    if not names:
      raise ValueError(f"{path}: there is no name; write one a line.")
    return cls(names)

  def persons(self, text: str) -> list[tuple[int, int, str]]:
    """Mentions (start, end, name), the longest name at each position."""
    found = []
    for match in _LETTERS.finditer(text):
      for name in self._by_word.get(match.group(), ()):
        end = match.start() + len(name)
        if text.startswith(name, match.start()) and not re.match(r"\w|-\w", text[end:end + 2]):
          found.append((match.start(), end, name))
          break
    return _apart(found)


def spans(text: str, gazetteer: Gazetteer | None = None) -> list[tuple[int, int, int]]:
  """Everything tagged: (start, end, kind of `mdx.corruption.temporal`), without overlaps.

  Of spans that overlap the longest is kept, of equally long ones the date.
  """
  dates = expressions(text)
  found = [(date.start, date.end, temporal.TEMPORAL) for date in dates]
  found += [(start, end, temporal.SIGNAL + i) for start, end, i in signals(text, dates)]
  if gazetteer is not None:
    found += [(start, end, temporal.person_kind(name))
              for start, end, name in gazetteer.persons(text)]
  kept = []
  for span in sorted(found, key=lambda s: s[0] - s[1]):
    if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
      kept.append(span)
  return sorted(kept)


def record(text: str, day: int, label: int, names: Gazetteer | None) -> dict[str, Any]:
  """A record of the layout "dated": a tagged text, its day and its period."""
  return {"text": text, "spans": spans(text, names), "day": day, "label": int(label)}
