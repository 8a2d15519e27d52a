"""Documents of the toy grammar.

Contents: GrammarText.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.toys import grammar
from mdx.data.toys import grammar_tags


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarText(source.Source):
  """Documents of the toy grammar, as ids of the tokenizer "grammar"; the label is the topic.

  Attributes:
    num_documents, num_validation: documents of the splits.
    num_paragraphs, num_sentences: of a document, and of a paragraph.
    seed: of the documents.
    held_out: only held-out pairs of verb and object, and verbs that have some.
    one_determiner: all determiners are written alike, and tell no gender.
  """

  layout = "text"
  in_memory = True
  num_documents: int = 4000
  num_validation: int = 400
  num_paragraphs: int = 1
  num_sentences: int = 6
  seed: int = 0
  held_out: bool = False
  one_determiner: bool = False

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(
        num_documents=1, num_validation=1, num_paragraphs=1, num_sentences=1))

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def _drawn(self, is_validation: bool):
    drawn, size = grammar.Grammar(self.held_out), (self.num_paragraphs, self.num_sentences)
    return [drawn.document([self.seed, int(is_validation), i], *size)
            for i in range(self.num_validation if is_validation else self.num_documents)]

  def records(self, split: str) -> Sequence:
    """Returns {"tokens", "label"} of "train" or "validation"."""
    write = grammar_tags.one_determiner if self.one_determiner else lambda ids: ids
    return tuple({"tokens": write(np.concatenate([s for part in paragraphs for s in part])),
                  "label": topic} for topic, paragraphs in self._drawn(source.is_validation(split)))

  def documents(self, split: str) -> list[list[list[np.ndarray]]]:
    """Paragraphs and sentences as they were drawn."""
    return [paragraphs for _, paragraphs in self._drawn(source.is_validation(split))]
