"""Days, and the periods of a calendar that a document may be of.

Contents: GRANULARITIES, parse, Calendar.

Convention: a day is a number, 1 for the first of January of the year 1 (`datetime.date.toordinal`).
Periods are numbered from 0, the one of the calendar's first day; weeks are of seven days from it.
"""

from __future__ import annotations

import dataclasses
import datetime
import re

import numpy as np

GRANULARITIES = ("day", "week", "month", "year")
_PARTS = {"day": 3, "week": 3, "month": 2, "year": 1}  # of year-month-day that it takes


def parse(text: str, granularity: str, where: str) -> int:
  """The day of a date: YYYY-MM-DD, YYYY-MM or YYYY, the first one of a month or year.

  Raises:
    ValueError: another text, a date that there is not, or one that does not tell the period of
      this granularity; the message begins with `where`.
  """
  found = re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", text.strip())
  given = [int(part) for part in found.groups() if part] if found else []
  try:
    day = datetime.date(*given, *[1] * (3 - len(given)))
  except (TypeError, ValueError):
    given = []
  if not given:
    raise ValueError(f"{where}: {text!r:.40} is no date; write YYYY-MM-DD, YYYY-MM or YYYY.")
  if len(given) < _PARTS[granularity]:
    raise ValueError(f"{where}: the date {text!r} does not tell its {granularity}; give it, or use "
                     "a coarser granularity.")
  return day.toordinal()


@dataclasses.dataclass(frozen=True)
class Calendar:
  """The days from a first to a last one, as YYYY-MM-DD.

  Raises:
    ValueError: no dates, or the last one before the first.
  """
  first_date: str
  last_date: str

  def __post_init__(self):
    if not self.first <= self.last:
      raise ValueError(f"last_date {self.last_date} is before first_date {self.first_date}.")

  @property
  def first(self) -> int:
    """The first day."""
    return parse(self.first_date, "day", "first_date")

  @property
  def last(self) -> int:
    """The last day."""
    return parse(self.last_date, "day", "last_date")

  def check(self, day: int, where: str) -> None:
    """Raises ValueError, which begins with `where`, for a day outside."""
    if not self.first <= day <= self.last:
      date = datetime.date.fromordinal(day).isoformat()
      raise ValueError(f"{where}: the date {date} is outside of {self.first_date} .. "
                       f"{self.last_date}; change first_date and last_date, or leave it out.")

  def periods(self, granularity: str) -> np.ndarray:
    """The period of every day from the first to the last, int32 [days].

    Raises:
      ValueError: another granularity than GRANULARITIES.
    """
    if granularity not in GRANULARITIES:
      raise ValueError(f"granularity is {granularity!r}; choose from {', '.join(GRANULARITIES)}.")
    days = np.arange(self.last - self.first + 1, dtype=np.int32)
    if granularity in ("day", "week"):
      return days // (7 if granularity == "week" else 1)
    dates = (days + (self.first - datetime.date(1970, 1, 1).toordinal())).astype("datetime64[D]")
    found = dates.astype(f"datetime64[{granularity[0].upper()}]").astype(np.int32)
    return found - found[0]

  def num_periods(self, granularity: str) -> int:
    """Number of periods: the classes of dating."""
    return int(self.periods(granularity)[-1]) + 1

  def period(self, day: int, granularity: str) -> int:
    """The period of a day."""
    return int(self.periods(granularity)[day - self.first])
