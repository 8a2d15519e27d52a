"""Toy news of 24 months: who is in them, and of what, tells when they are from.

Contents: News, NAMES, WORDS, FIRST_DATE, LAST_DATE, probs.

  persons   four at a time are in the news, each for four to six months; their names share first
            and last names
  nouns     of four topics; with probability 0.6 of the person's own, else of one of the month's,
            whose weights drift
  dates     a share of the sentences has one; "PERSON VERB the NOUN in MONTH YEAR.", of the month
            of the document with probability 0.8, else up to six months off; or, a third of them,
            "the EVENT came before MONTH YEAR.", also "after", which is true of the event's month

Convention: document i of a split is a function of (seed, split, i).

Reference: the setting of Wang et al., BiTimeBERT 2.0, arXiv:2406.01863, made small.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.prepared import tagger
from mdx.utils import dates

FIRST_DATE, LAST_DATE, NUM_MONTHS = "2004-01-01", "2005-12-31", 24
OWN_RATE, TRUE_RATE, EVENT_RATE, REACH, DRIFT = 0.6, 0.8, 1 / 3, 6, 2.5
_MONTHS = ("January February March April May June July August September October November "
           "December").split()
_TOPICS = tuple(tuple(words.split()) for words in (
    "bank budget fund loan market price share tax", "coach cup final goal league match race team",
    "actor album book film gallery novel opera stage",
    "bill court law mayor party poll senate vote"))
_VERBS = "praised saw wanted left liked doubted met named".split()
_EVENTS = "flood fire storm strike quake parade crash drought".split()
_FIRST, _LAST = "Ada Ben Cleo Dan Eva Finn".split(), "Abel Bond Carr Dunn Ewing Foss".split()
_PLAIN = ("the", "in", "came", "before", "after", *_VERBS, *(n for t in _TOPICS for n in t),
          *_EVENTS, *_FIRST, *_LAST, *_MONTHS, "2004", "2005")
WORDS = (*(f" {word}" for word in _PLAIN), ".")


def _persons():
  """(name, topic, first month, last month) of four rows of persons that follow one another."""
  draw = np.random.default_rng(1)
  names = draw.permutation(len(_FIRST) * len(_LAST)).tolist()
  found = []
  for begin in (0, -1, -2, -4):
    month = begin
    while month < NUM_MONTHS:
      last = month + int(draw.integers(4, 7)) - 1
      first_name, last_name = divmod(names[len(found)], len(_LAST))
      found.append((f"{_FIRST[first_name]} {_LAST[last_name]}", int(draw.integers(len(_TOPICS))),
                    max(month, 0), min(last, NUM_MONTHS - 1)))
      month = last + 1
  return tuple(found)


_PERSONS = _persons()
NAMES = tuple(name for name, *_ in _PERSONS)


@functools.cache
def active(month: int) -> list[int]:
  """The numbers in NAMES of those who are in the news of a month."""
  return [i for i, (_, _, first, last) in enumerate(_PERSONS) if first <= month <= last]


@functools.cache
def topic_probs(month: int) -> np.ndarray:
  """Weights of the topics of a month, float64 [topics]."""
  phase = 2 * np.pi * (month / NUM_MONTHS - np.arange(len(_TOPICS)) / len(_TOPICS))
  weights = np.exp(DRIFT * np.cos(phase))
  return weights / weights.sum()


def probs(person: int, noun: str) -> np.ndarray:
  """Probability of a person with a noun in a sentence without a date, float64 [months]."""
  topic = next(i for i, words in enumerate(_TOPICS) if noun in words)
  own = OWN_RATE * (_PERSONS[person][1] == topic)
  of_month = np.array([own + (1 - OWN_RATE) * topic_probs(m)[topic] for m in range(NUM_MONTHS)])
  is_active = np.array([(person in active(m)) / len(active(m)) for m in range(NUM_MONTHS)])
  return is_active * of_month / len(_TOPICS[topic])


def _date(month: int) -> str:
  return f" {_MONTHS[month % 12]} {2004 + month // 12}"


@functools.cache
def _event_months() -> tuple[int, ...]:
  return tuple(np.random.default_rng(1).integers(3, NUM_MONTHS - 3, len(_EVENTS)).tolist())


def _sentence(draw: np.random.Generator, month: int, date_rate: float) -> str:
  one = lambda items: items[int(draw.random() * len(items))]
  near = lambda month: one([m for m in range(max(month - REACH, 0),
                                             min(month + REACH + 1, NUM_MONTHS)) if m != month])
  has_date = draw.random() < date_rate
  if has_date and draw.random() < EVENT_RATE:
    event = one(range(len(_EVENTS)))
    other = near(_event_months()[event])
    relation = "before" if _event_months()[event] < other else "after"
    return f" the {_EVENTS[event]} came {relation}{_date(other)}."
  person, topic = one(active(month)), int(np.searchsorted(
      topic_probs(month).cumsum()[:-1], draw.random(), side="right"))
  if draw.random() < OWN_RATE:
    topic = _PERSONS[person][1]
  sentence = f" {NAMES[person]} {one(_VERBS)} the {one(_TOPICS[topic])}"
  if has_date:
    sentence += f" in{_date(month if draw.random() < TRUE_RATE else near(month))}"
  return sentence + "."


@dataclasses.dataclass(frozen=True, kw_only=True)
class News(source.Source):
  """Dated documents in the words of the tokenizer "news"; the label is the month, from 0.

  Attributes:
    num_documents, num_validation: documents of the splits.
    num_sentences: of a document.
    date_rate: share of the sentences that have a date.
    seed: of the documents.
  """

  layout = "dated"
  in_memory = True
  num_documents: int = 4000
  num_validation: int = 400
  num_sentences: int = 3
  date_rate: float = 0.5
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", between=dict(date_rate="[0, 1]"),
                     at_least=dict(num_documents=1, num_validation=1, num_sentences=1))

  def dates(self):
    """The range."""
    return {"first_date": FIRST_DATE, "last_date": LAST_DATE}

  def probed(self):
    """The source whose documents are to be dated: none of its sentences has a date."""
    return dataclasses.replace(self, date_rate=0.0)

  @functools.lru_cache(maxsize=8)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records (see `mdx.data.sources.dated`) of "train" or "validation"."""
    is_validation = source.is_validation(split)
    calendar, names = dates.Calendar(FIRST_DATE, LAST_DATE), tagger.Gazetteer(NAMES)
    firsts = np.searchsorted(calendar.periods("month"), np.arange(NUM_MONTHS)) + calendar.first
    found = []
    for i in range(self.num_validation if is_validation else self.num_documents):
      draw = np.random.default_rng([self.seed, int(is_validation), i])
      month = int(draw.integers(NUM_MONTHS))
      text = "".join(_sentence(draw, month, self.date_rate) for _ in range(self.num_sentences))
      found.append(tagger.record(text, int(firsts[month]), month, names))
    return tuple(found)
