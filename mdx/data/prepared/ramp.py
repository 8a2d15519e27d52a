"""Retrieval-augmented mask prediction: paragraphs whose salient spans are masked.

Contents: MASK, INSTRUCTION, Question, salient, paragraphs, make, questions.

A question is a paragraph in which one to four spans (numbers, dates, names, or spans that a
document lists itself) are [mask], and its answer is the whole paragraph, which an agent restores by
searching. Spans are drawn with replacement, weighted by their words (numbers as the longest one),
so that a question may have fewer masks than draws.

Reference: MaskSearch (2025, arXiv:2505.20285), as its published generator does it; there a language
model names the spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdx.data.prepared import tagger

MASK = "[mask]"
INSTRUCTION = (f"Replace every {MASK} of the text by what it stands for, with the help of the "
               "search, and write the whole text as the answer.")
MOST_MASKS = 4
_NUMBER = re.compile(r"(?<![\w.,])\d[\d.,]*\d(?!\w)|(?<![\w.,])\d(?!\w)")
_PRONOUN = re.compile(r"\b(?:He|She|It|They|he|she|it|they)\b")
_LIST = re.compile(r"^\s*(?:[*#|!{-]|\d+[.)]\s)", re.M)


class Question(NamedTuple):
  """A masked paragraph.

  Attributes:
    text: the paragraph with its masks.
    answer: the paragraph, with the title that was put in.
    spans: texts of the masks, in the order of the text.
  """
  text: str
  answer: str
  spans: tuple[str, ...]


def salient(text: str, names: tagger.Gazetteer | None = None, own: Sequence[str] = ()
            ) -> list[str]:
  """Spans of a text that are worth a mask, in its order.

  Spans that occur more than once are left out, as are those within a longer one.

  Args:
    text: a paragraph.
    names: persons, places or anything else that has a name; None: numbers and dates alone.
    own: spans that the document lists, such as those that a language model has found.
  """
  found = {match.group() for match in _NUMBER.finditer(text)} | {x for x in own if x.strip()}
  found |= {text[date.start:date.end] for date in tagger.expressions(text)}
  if names is not None:
    found |= {name for _, _, name in names.persons(text)}
  once = [span for span in found if text.count(span) == 1]
  kept = [span for span in once if not any(span != other and _lies_in(text, span, other)
                                           for other in once)]
  return sorted(kept, key=text.index)


def _lies_in(text: str, span: str, other: str) -> bool:
  """Whether a span that occurs once overlaps another one that is longer, or before it."""
  first, second = text.index(span), text.index(other)
  overlap = first < second + len(other) and second < first + len(span)
  return overlap and (len(span), -first) < (len(other), -second)


def paragraphs(text: str) -> list[str]:
  """The paragraphs of a document that are running text: no lists, no tables, no more than a slash.
  """
  parts = (re.sub(r"[ \t]*\n[ \t]*", " ", part.strip()) if not _LIST.search(part) else ""
           for part in re.split(r"\n\s*\n", text))
  return [part for part in parts if part and part.count("/") < 2 and MASK not in part]


def make(draw: np.random.Generator, text: str, spans: Sequence[str], *, title: str = "",
         most: int = MOST_MASKS, is_weighted: bool = True) -> Question | None:
  """Returns a question about a paragraph; None: it gives none.

  Args:
    draw: consumed.
    text: the paragraph.
    spans: candidates, each of which occurs once.
    title: of its document; if it is not in the paragraph it takes the place of a pronoun, or stands
      in front, and spans of it are left out.
    most: masks.
    is_weighted: whether spans are drawn by their number of words; False: uniformly.
  """
  if title and title not in text:
    text, count = _PRONOUN.subn(lambda _: title, text, count=1)
    text = text if count else f"{title}: {text}"
  spans = [span for span in spans if text.count(span) == 1 and span not in title]
  if not spans:
    return None
  number = min(most, {1: 1, 2: int(draw.integers(1, 3))}.get(len(spans), len(spans)))
  words = np.array([len(span.split()) for span in spans], float)
  is_number = np.array([bool(_NUMBER.fullmatch(span)) for span in spans])
  weight = np.where(is_number, words.max(), words) if is_weighted else np.ones(len(spans))
  drawn = draw.choice(len(spans), size=number, p=weight / weight.sum())
  chosen = sorted({spans[i] for i in drawn.tolist()}, key=text.index)
  masked = text
  for span in chosen:
    masked = masked.replace(span, MASK, 1)
  if masked.startswith(MASK):
    return None
  return Question(masked, text, tuple(chosen))


def questions(documents: Iterable[tuple[str, dict[str, Any]]], *, field: str, title_field: str,
              spans_field: str, names: tagger.Gazetteer | None, most: int, is_weighted: bool,
              seed: int) -> Iterator[dict[str, Any]]:
  """Returns rows {"question", "answer", "spans", "num_masks"} of documents.

  Args:
    documents: (where it stands, object) each.
    field, title_field, spans_field: keys of its text, and of its title and list of spans, which are
      read where an object has them ("" = never).
    names, most, is_weighted: of `salient` and `make`.
    seed: of the draws, which depend on it and on the number of the paragraph.

  Raises:
    ValueError: a text or a title that is none, or spans that are no list of texts.
  """
  number = 0
  for where, row in documents:
    text, title, own = row.get(field), row.get(title_field, ""), row.get(spans_field, [])
    if not isinstance(text, str) or not isinstance(title, str):
      raise ValueError(f"{where}: expected texts in {field!r} and {title_field!r}, got "
                       f"{text!r:.40} and {title!r:.40}; name the fields of the file.")
    if not isinstance(own, list) or not all(isinstance(span, str) for span in own):
      raise ValueError(f"{where}: {spans_field!r} must be a list of texts, got {own!r:.60}.")
    for paragraph in paragraphs(text):
      draw = np.random.default_rng([seed, number])
      number += 1
      made = make(draw, paragraph, salient(paragraph, names, own), title=title, most=most,
                  is_weighted=is_weighted)
      if made is not None:
        yield {"question": f"{INSTRUCTION}\n{made.text}", "answer": made.answer,
               "spans": list(made.spans), "num_masks": len(made.spans)}
