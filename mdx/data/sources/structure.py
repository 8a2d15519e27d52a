"""Premises with candidates, drawn from documents with paragraphs.

Contents: Structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.sources import pairs
from mdx.data.sources import text
from mdx.data.toys import grammar_text
from mdx.utils import readers

_DOCUMENTS = {"text": text.Text, "grammar": grammar_text.GrammarText}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure(source.Source):
  """Premises with candidates from the documents of another source; see `sources.pairs`.

  Attributes:
    documents: `name` and fields of a source that has documents.
    task: "ssp", "sp" or "psd".
    size, validation_size: rows of the splits, which are drawn when they are read.
    seed: of the draws.
    num_candidates, right_min, right_max, hard_rate, premise_sentences, candidate_sentences: as
      `pairs.Pairs` takes them.
  """

  layout = "parts"
  has_questions = True
  documents: Mapping[str, Any]
  task: str = "ssp"
  size: int = 100_000
  validation_size: int = 1000
  seed: int = 0
  num_candidates: int = 1
  right_min: int = 1
  right_max: int = 2
  hard_rate: float = 0.5
  premise_sentences: int = 1
  candidate_sentences: int = 2

  def __post_init__(self):
    config_lib.check(
        self, "data.source", choices=dict(task=pairs.TASKS), between=dict(hard_rate="[0, 1]"),
        at_least=dict(size=1, validation_size=1, num_candidates=1, premise_sentences=1,
                      candidate_sentences=1))
    if self.num_candidates > 1 and not (
        0 <= self.right_min <= self.right_max <= self.num_candidates):
      raise ValueError("structure source: right_min and right_max must be ordered numbers of "
                       f"candidates, got {self.right_min} and {self.right_max} of "
                       f"{self.num_candidates}.")
    self._documents()

  def _documents(self):
    return source.build(_DOCUMENTS, self.documents, what="source of documents with paragraphs")

  def records(self, split: str) -> Sequence:
    """Returns {"parts", "labels"} of "train" or "validation"."""
    is_validation = source.is_validation(split)
    drawn = pairs.Pairs(
        self._documents().documents(split), self.task,
        self.validation_size if is_validation else self.size, (self.seed, int(is_validation)),
        self.num_candidates, (self.right_min, self.right_max), self.hard_rate,
        self.premise_sentences, self.candidate_sentences)
    return readers.Mapped(drawn, _parts_record, "structure source")

  def questions(self, split: str, number: int, *, num_words: int = 3,
                num_candidates: int = 5) -> list[dict[str, Any]]:
    """Answer selection: a sentence's rarest words, and sentences one of which is its neighbour.

    Returns:
      {"parts": [question, candidate, ...], "labels"}: one candidate is another span of the
      sentence's paragraph, the others are wrong ones as in training.
    """
    documents = self._documents().documents(split)
    drawn = pairs.Pairs(documents, "ssp", number, (self.seed, 2 + int(source.is_validation(split))),
                        num_candidates, (1, 1), self.hard_rate)
    counts = pairs.word_counts(documents)
    rows = []
    for row in drawn:
      words = pairs.rarest(row.parts[0], counts, num_words)
      rows.append(_parts_record(row._replace(parts=[[words], *row.parts[1:]])))
    return rows


def _parts_record(row: pairs.Row, where: str = "") -> dict[str, Any]:
  """Sentences joined: texts by a space, ids end to end."""
  del where
  join = lambda part: " ".join(part) if isinstance(part[0], str) else np.concatenate(part)
  return {"parts": [join(part) for part in row.parts], "labels": row.labels}
