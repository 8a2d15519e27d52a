"""Who is mentioned in which month: the table that replaced persons are drawn from.

Contents: table.

Reference: Wang et al., BiTimeBERT 2.0, arXiv:2406.01863 (time-sensitive entity replacement).
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from mdx.corruption import temporal
from mdx.data import tokenizer as tokenizer_lib
from mdx.utils import dates


def table(records: Iterable[Mapping[str, Any]], tokenizer: tokenizer_lib.Tokenizer,
          calendar: dates.Calendar, longest: int) -> dict[str, Any]:
  """Names, their tokens, and the names of every month.

  A name has the ids that it is written with most often.

  Args:
    records: of `mdx.data.sources.dated`.
    tokenizer: makes the ids.
    calendar: of the months.
    longest: names of more tokens are left out.

  Returns:
    {"tokenizer", "first_date", "last_date", "names", "ids", "months": [[number of name]]}.

  Raises:
    ValueError: no person is mentioned.
  """
  forms, months = collections.defaultdict(collections.Counter), collections.defaultdict(set)
  periods = calendar.periods("month")
  for record in records:
    ids, offsets = tokenizer.encode(record["text"]), tokenizer.offsets(record["text"])
    for start, end, kind in record["spans"]:
      if temporal.is_person(kind):
        name = record["text"][start:end]
        inside = (offsets[:, 0] < end) & (offsets[:, 1] > start)
        forms[name][tuple(ids[inside].tolist())] += 1
        months[name].add(int(periods[record["day"] - calendar.first]))
  usual = {name: max(found, key=lambda form: (found[form], form)) for name, found in forms.items()}
  names = [name for name in sorted(usual) if len(usual[name]) <= longest]
  if not names:
    raise ValueError(f"no person of at most {longest} tokens is mentioned; look at the names and "
                     "at how the texts write them.")
  return {"tokenizer": tokenizer.fingerprint, "first_date": calendar.first_date,
          "last_date": calendar.last_date, "names": names, "ids": [list(usual[n]) for n in names],
          "months": [[i for i, name in enumerate(names) if month in months[name]]
                     for month in range(int(periods[-1]) + 1)]}
