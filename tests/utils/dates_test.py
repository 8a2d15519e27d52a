"""Periods of a calendar: how many there are, and which one a day is of."""

import datetime

import numpy as np
import pytest

from mdx.utils import dates

# The New York Times Annotated Corpus.
NYT = dates.Calendar("1987-01-01", "2007-06-19")


def test_the_news_of_the_paper_have_its_numbers_of_classes():
  # Wang et al. 2023, arXiv:2204.13032, of 21 years: about 1000 weeks, 7475 days.
  assert {g: NYT.num_periods(g) for g in dates.GRANULARITIES} == {
      "day": 7475, "week": 1068, "month": 246, "year": 21}


def test_every_day_is_of_the_period_that_its_date_says():
  found = {g: NYT.periods(g) for g in dates.GRANULARITIES}
  for i in range(0, 7475, 13):
    day = datetime.date(1987, 1, 1) + datetime.timedelta(i)
    assert found["day"][i] == i and found["week"][i] == i // 7
    assert found["month"][i] == 12 * (day.year - 1987) + day.month - 1
    assert found["year"][i] == day.year - 1987
  assert len(found) and all(x.dtype == np.int32 for x in found.values())
  # A first day within a month, and before the year 1970.
  early = dates.Calendar("1899-12-15", "1900-02-01")
  assert early.num_periods("month") == 3 and early.num_periods("year") == 2
  assert early.periods("month")[early.last - early.first] == 2


def test_dates_may_be_coarse_as_long_as_they_tell_the_period():
  assert dates.parse("2004-02-29", "day", "here") == datetime.date(2004, 2, 29).toordinal()
  assert dates.parse(" 2004-02 ", "month", "here") == datetime.date(2004, 2, 1).toordinal()
  assert dates.parse("2004", "year", "here") == datetime.date(2004, 1, 1).toordinal()


@pytest.mark.parametrize("text", ["2004-02-30", "2004-13", "4 July", "", "04-07-1976", "0000"])
def test_other_texts_are_no_dates(text):
  with pytest.raises(ValueError, match="x.jsonl, line 3: .* is no date; write YYYY-MM-DD") as error:
    dates.parse(text, "year", "x.jsonl, line 3")
  assert "\n" not in str(error.value)


def test_dates_that_are_too_coarse_or_outside_are_refused():
  with pytest.raises(ValueError, match="here: the date '2004' does not tell its month"):
    dates.parse("2004", "month", "here")
  with pytest.raises(ValueError, match="here: the date 1986-12-31 is outside of 1987-01-01"):
    NYT.check(NYT.first - 1, "here")
  NYT.check(NYT.last, "here")
  with pytest.raises(ValueError, match="last_date 2003-01-01 is before first_date 2004-01-01"):
    dates.Calendar("2004-01-01", "2003-01-01")
  with pytest.raises(ValueError, match="granularity is 'hour'; choose from day, week"):
    NYT.num_periods("hour")
