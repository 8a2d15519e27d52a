"""Rows of several texts whose relation is to be found, drawn from documents with paragraphs.

Contents: TASKS, Row, Pairs, sentences_of, word_counts, rarest.

A row has a premise and one or more candidates; a candidate is right if

  ssp    it is another span of sentences of the premise's paragraph
  sp     it is the paragraph that the premise was taken out of, without it
  psd    it is another paragraph of the premise's document (so is the premise)

Wrong ones come from another paragraph of the same document (hard; not in psd) or from another
document (easy). Right spans do not overlap the premise.

Convention: a document is a list of paragraphs, each a list of sentences; a sentence is a text or
int32 ids. Row i of a split is a function of (seed, split, i).

Reference: Di Liello et al. 2022, arXiv:2205.10455 (structural objectives for answer selection) and
arXiv:2205.01228 (several candidates at once).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TASKS = ("ssp", "sp", "psd")
_SENTENCE = re.compile(r"(?<=[.!?][\"']) +|(?<=[.!?]) +")
Sentence = Any  # a text, or int32 ids
Document = list[list[Sentence]]


class Row(NamedTuple):
  """A premise with candidates.

  Attributes:
    parts: the premise, then the candidates; each a list of sentences.
    labels: whether each candidate is right.
    places: (document, paragraph, sentences) that each part was taken from.
  """
  parts: list[list[Sentence]]
  labels: list[bool]
  places: list[tuple[int, int, tuple[int, ...]]]


def sentences_of(paragraph: str, shortest: int = 20) -> list[str]:
  """Cuts a paragraph at ends of sentences; pieces shorter than `shortest` join the one before."""
  found = []
  for piece in _SENTENCE.split(paragraph.strip()):
    if found and (len(piece) < shortest or len(found[-1]) < shortest):
      found[-1] += " " + piece
    elif piece:
      found.append(piece)
  return found


def _words(sentence: Sentence) -> list:
  """The words of a text, or ids."""
  return re.findall(r"[\w'-]+", sentence) if isinstance(sentence, str) else sentence.tolist()


def word_counts(documents: Sequence[Document]) -> collections.Counter:
  """Counts of each word, or id."""
  return collections.Counter(word for document in documents for paragraph in document
                             for sentence in paragraph for word in _words(sentence))


def rarest(sentences: Sequence[Sentence], counts: Mapping, number: int) -> Sentence:
  """The rarest words of some sentences, in their order."""
  words = [word for sentence in sentences for word in _words(sentence)]
  rank = sorted(range(len(words)), key=lambda i: (counts[words[i]], i))[:number]
  found = [words[i] for i in sorted(rank)]
  return " ".join(found) if isinstance(sentences[0], str) else np.array(found, np.int32)


@dataclasses.dataclass(frozen=True)
class Pairs(Sequence):
  """Rows drawn from documents.

  Attributes:
    documents: the documents.
    task: "ssp", "sp" or "psd".
    size: number of rows.
    seed: of the draws, ints.
    num_candidates: candidates of a row. One is right with probability 1/2; of several,
      `right` = (fewest, most) are.
    hard_rate: share of the wrong candidates that come from the same document.
    premise_sentences, candidate_sentences: most sentences of a span.

  Raises:
    ValueError: documents without the structure that the task needs.
  """
  documents: Sequence[Document]
  task: str
  size: int
  seed: tuple[int, ...]
  num_candidates: int = 1
  right: tuple[int, int] = (1, 2)
  hard_rate: float = 0.5
  premise_sentences: int = 1
  candidate_sentences: int = 2

  def __len__(self) -> int:
    return self.size

  @functools.cached_property
  def _premises(self) -> list[tuple[int, int]]:
    """(document, paragraph) that a right candidate can be drawn for."""
    enough = 1 if self.task == "psd" else 2
    found = [(d, p) for d, document in enumerate(self.documents)
             for p, paragraph in enumerate(document) if len(paragraph) >= enough
             and len(document) > 1]
    if len({d for d, _ in found}) < 2:
      raise ValueError(f"{self.task} needs two documents or more that have several paragraphs with "
                       f"{enough} sentences or more; of {len(self.documents)} documents "
                       f"{len({d for d, _ in found})} have them.")
    return found

  def __getitem__(self, index: int) -> Row:
    if not 0 <= index < self.size:
      raise IndexError(index)
    draw = np.random.default_rng([*self.seed, index])
    document, paragraph = self._premises[draw.integers(len(self._premises))]
    if self.num_candidates == 1:
      labels = [bool(draw.integers(2))]
    else:
      num_right = int(draw.integers(self.right[0], self.right[1] + 1))
      labels = list(draw.permutation(self.num_candidates) < num_right)
    size = len(self.documents[document][paragraph])
    if self.task == "psd":
      premise = tuple(range(size))
    else:
      longest = min(self.premise_sentences, size - 1)
      premise = _span(draw, size, int(draw.integers(1, longest + 1)))
    places = [(document, paragraph, premise)]
    for is_right in labels:
      places.append(self._right(draw, *places[0]) if is_right else self._wrong(draw, *places[0]))
    parts = [[self.documents[d][p][s] for s in chosen] for d, p, chosen in places]
    return Row(parts, [bool(x) for x in labels], places)

  def _right(self, draw, document, paragraph, premise):
    size = len(self.documents[document][paragraph])
    if self.task == "psd":
      return self._other_paragraph(draw, document, paragraph)
    if self.task == "sp":
      return document, paragraph, tuple(s for s in range(size) if s not in premise)
    before, after = premise[0], size - 1 - premise[-1]
    is_before = draw.random() * (before + after) < before
    room = before if is_before else after
    span = _span(draw, room, int(draw.integers(1, min(self.candidate_sentences, room) + 1)))
    return document, paragraph, tuple(s + (0 if is_before else premise[-1] + 1) for s in span)

  def _wrong(self, draw, document, paragraph, premise):
    del premise
    if self.task != "psd" and draw.random() < self.hard_rate:
      return self._other_paragraph(draw, document, paragraph)
    other = document
    while other == document:
      other, chosen = self._premises[draw.integers(len(self._premises))]
    return other, chosen, self._like_candidate(draw, len(self.documents[other][chosen]))

  def _other_paragraph(self, draw, document, paragraph):
    others = [p for p in range(len(self.documents[document])) if p != paragraph]
    chosen = others[draw.integers(len(others))]
    return document, chosen, self._like_candidate(draw, len(self.documents[document][chosen]))

  def _like_candidate(self, draw, size):
    """Sentences of a paragraph, as many as a right candidate might have."""
    if self.task == "psd":
      return tuple(range(size))
    if self.task == "sp":  # as long as a paragraph without its premise
      return _span(draw, size, max(size - 1, 1))
    return _span(draw, size, int(draw.integers(1, min(self.candidate_sentences, size) + 1)))


def _span(draw, size, length):
  first = int(draw.integers(size - length + 1))
  return tuple(range(first, first + length))
