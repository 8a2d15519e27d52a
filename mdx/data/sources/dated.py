"""Dated documents: texts with a date, and what a tagger finds in them.

Contents: Dated, pieces.

Convention: a record is {"text", "spans", "day", "label"}: `spans` as `prepared.tagger` gives them,
the day as `mdx.utils.dates` counts, the label is the period that it is in.

Reference: Wang et al., BiTimeBERT 2.0, arXiv:2406.01863.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from mdx import config as config_lib
from mdx.data import source
from mdx.data.prepared import tagger
from mdx.data.sources import files
from mdx.data.sources import labelled
from mdx.data.sources import pairs
from mdx.utils import dates
from mdx.utils import readers

KEEP = ("all", "temporal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dated(files.Files):
  """Documents with a date, of .jsonl, .tsv or .csv files (also .xz, .gz).

  A document is read as pieces of whole sentences, each with its date; all of them are in one split.
  The texts are kept in memory.

  Attributes:
    field, date_field: what holds the text, and the date: YYYY-MM-DD, YYYY-MM or YYYY.
    first_date, last_date: between which all dates must lie, YYYY-MM-DD.
    granularity: of the labels, of `dates.GRANULARITIES`.
    persons: files of names, one a line; None = no persons are tagged.
    keep: "all" sentences, or those with a "temporal" expression and the first one (the title).
    document_chars: most characters of a piece, unless a sentence has more.
  """

  layout = "dated"
  in_memory = True
  first_date: str
  last_date: str
  field: str = "text"
  date_field: str = "date"
  granularity: str = "month"
  persons: str | Sequence[str] | None = None
  keep: str = "all"
  document_chars: int = 2000

  def __post_init__(self):
    super().__post_init__()
    if self.persons is not None:
      object.__setattr__(self, "persons", source.find(self.persons))
    config_lib.check(self, "data.source", choices=dict(keep=KEEP), at_least=dict(document_chars=1))
    self.calendar.periods(self.granularity)

  @property
  def calendar(self) -> dates.Calendar:
    """From the first to the last date."""
    return dates.Calendar(self.first_date, self.last_date)

  def dates(self):
    """The range."""
    return {"first_date": self.first_date, "last_date": self.last_date}

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train" or "validation"; each is tagged when it is read.

    Raises:
      ValueError: no date, one that is too coarse, or outside; with file and line.
    """
    names = tagger.Gazetteer.of_files(self.persons) if self.persons else None
    periods = self.calendar.periods(self.granularity)
    found = tuple((text, document["day"], periods[document["day"] - self.calendar.first])
                  for document in super().records(split)
                  for text in pieces(document["text"], self.keep, self.document_chars))
    return readers.Mapped(found, functools.partial(_tagged, names=names), ", ".join(self.path))

  def _read(self, paths):
    read = functools.partial(labelled.table_records, fields=(self.field,), label=self.date_field)
    return tuple(self._document(row) for path in paths for row in read(path))

  def _document(self, row):
    day = dates.parse(row["label"], self.granularity, row["where"])
    self.calendar.check(day, row["where"])
    return {"text": row["texts"][0], "day": day}


def _tagged(item, where, names):
  del where
  return tagger.record(*item, names)


def pieces(text: str, keep: str, document_chars: int) -> list[str]:
  """Sentences joined; with `keep` "temporal" the first one and those with a date alone."""
  sentences = [s for line in text.splitlines() for s in pairs.sentences_of(line)]
  found = []
  for i, sentence in enumerate(sentences):
    if i and keep == "temporal" and not tagger.expressions(sentence):
      continue
    if found and len(found[-1]) + 1 + len(sentence) <= document_chars:
      found[-1] += " " + sentence
    else:
      found.append(sentence)
  return found
