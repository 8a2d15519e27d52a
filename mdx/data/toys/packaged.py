"""Labelled tasks made from the packaged texts, so that fine-tuning runs without a download.

Contents: Packaged, TASKS.

Every label is a fact about the books that their form does not give away; but people labelled the
requests of the last:

  book      which of the four books a paragraph is from
  next      whether the second paragraph follows the first, or stands elsewhere in the story
  overlap   of two versions of a sentence, 0 .. 5: how much of the first the second kept
  speech    which words stand in quotation marks, these taken away: entities of one type
  reply     which of five paragraphs follows a question: answer selection
  intent    what a request to a voice assistant wants, one of seven (snips.txt.xz)

Convention: examples of the books are drawn by a fixed seed from stretches of the text that the
splits do not share: of every ten stretches of 40 paragraphs one is validation and one is test; so
is one request of every ten. A source "text" with `holdout_every=10` and `document_chars=1` holds
out the requests of test.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Sequence
from typing import Any

from mdx import assets
from mdx import config as config_lib
from mdx.data import source
from mdx.utils import readers

_TEXT, _REQUESTS = "asset:holmes.txt.xz", "asset:snips.txt.xz"
_TITLE = re.compile(r"THE (ADVENTURES|MEMOIRS|RETURN|HOUND) OF")
_STRETCH, _OF = 40, 10  # paragraphs of a stretch; of so many one is validation and one test
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*|[0-9]+|[^\sA-Za-z0-9]")
_CHARS = 240  # of a text, at most


def _stretches(split: str) -> list[list[tuple[str, str]]]:
  """(book, paragraph) of each stretch of a split."""
  book, paragraphs = "", []
  for line in readers.lines(readers.read_text(assets.resolve(_TEXT))):
    found = _TITLE.match(line)
    if found:
      book = found[1].lower()
    if len(line) >= 20:
      paragraphs.append((book, line))
  stretches = [paragraphs[i:i + _STRETCH] for i in range(0, len(paragraphs), _STRETCH)]
  return [x for x in _of_split(stretches, split, 3, 8) if len(x) == _STRETCH]


def _of_split(found, split, validation, test):
  """Of every ten things one is validation's and one is test's."""
  names = {validation: "validation", test: "test"}
  return [x for i, x in enumerate(found) if names.get(i % _OF, "train") == split]


def _short(text: str) -> str:
  """The beginning of a text, up to a space."""
  return text if len(text) <= _CHARS else text[:_CHARS].rsplit(" ", 1)[0]


def _book(draw, stretches):
  del draw
  for stretch in stretches:
    for book, text in stretch:
      if len(text) >= 80 and not _TITLE.match(text):
        yield {"texts": [_short(text)], "label": book}


def _next(draw, stretches):
  for stretch in stretches:
    for i in range(len(stretch) - 1):
      follows = draw.random() < 0.5
      others = [j for j in range(len(stretch)) if j not in (i, i + 1)]
      second = stretch[i + 1 if follows else draw.choice(others)][1]
      yield {"texts": [_short(stretch[i][1])[-_CHARS // 2:], _short(second)[:_CHARS // 2]],
             "label": "follows" if follows else "elsewhere"}


def _overlap(draw, stretches):
  words = sorted({w for stretch in stretches for _, text in stretch for w in text.split()})
  for stretch in stretches:
    for _, text in stretch:
      first = text.split()[:14]
      if len(first) < 6:
        continue
      rate = draw.random()
      second = [draw.choice(words) if draw.random() < rate else w for w in first]
      kept = sum(a == b for a, b in zip(first, second)) / len(first)
      yield {"texts": [" ".join(first), " ".join(second)], "label": f"{5 * kept:.2f}"}


def _speech(draw, stretches):
  del draw
  for stretch in stretches:
    for _, text in stretch:
      if text.count('"') % 2 or text.count('"') == 0:
        continue
      words, tags = [], []
      for i, part in enumerate(text.split('"')):
        found = _WORD.findall(part)
        words += found
        if i % 2:
          tags += ["B-SPEECH", *["I-SPEECH"] * (len(found) - 1)][:len(found)]
        else:
          tags += ["O"] * len(found)
      if words:
        yield {"words": words[:40], "tags": tags[:40]}


def _reply(draw, stretches):
  for number, stretch in enumerate(stretches):
    for i in range(len(stretch) - 1):
      question = stretch[i][1]
      if not question.rstrip('"').endswith("?"):
        continue
      others = [j for j in range(len(stretch)) if j not in (i, i + 1)]
      candidates = [(i + 1, "1"), *((j, "0") for j in draw.sample(others, 4))]
      draw.shuffle(candidates)
      for j, label in candidates:
        yield {"texts": [question[-_CHARS // 2:], stretch[j][1][:_CHARS // 2]], "label": label,
               "group": f"{number}.{i}"}


def _intent(draw, split):
  intent, requests = "", []
  for line in readers.lines(readers.read_text(assets.resolve(_REQUESTS))):
    intent = intent if line.islower() else line
    requests.append((intent, line))
  found = [{"texts": [text], "label": intent}
           for intent, text in _of_split(requests, split, 4, 9) if text != intent]
  draw.shuffle(found)
  return found


def _of_books(examples):
  return lambda draw, split: examples(draw, _stretches(split))


TASKS = {"book": _of_books(_book), "next": _of_books(_next), "overlap": _of_books(_overlap),
         "speech": _of_books(_speech), "reply": _of_books(_reply), "intent": _intent}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packaged(source.Source):
  """A task of TASKS.

  Attributes:
    task: its name.
    num_train: so many training examples, evenly spread; 0 = all.
  """

  layout = "labelled"
  in_memory = True
  splits = source.LABELLED_SPLITS
  task: str = "book"
  num_train: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(task=TASKS), at_least=dict(num_train=0))

  def paths(self, split):
    """The file that it reads."""
    del split
    return (_REQUESTS if self.task == "intent" else _TEXT,)

  @property
  def kind(self) -> str:
    """Of its labels."""
    return "words" if self.task == "speech" else "text"

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train", "validation" or "test"."""
    source.check_split(split)
    records, wanted = _drawn(self.task, split), self.num_train
    if split == "train" and 0 < wanted < len(records):
      return tuple(records[i * len(records) // wanted] for i in range(wanted))
    return records


@functools.cache
def _drawn(task: str, split: str) -> tuple[dict[str, Any], ...]:
  """All examples of a split."""
  drawn = TASKS[task](random.Random(f"{task} {split}"), split)
  return tuple({**record, "where": f"task {task}, {split} example {i}"}
               for i, record in enumerate(drawn))
