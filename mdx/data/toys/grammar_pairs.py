"""Pairs of passages of the toy grammar whose similarity is known.

Contents: GrammarPairs.

  2  both passages are of one topic and have one key noun, which returns in their sentences
  1  they are of one topic, with key nouns of their own
  0  they are of different topics

Convention: pair i of a split is a function of (seed, split, i), and has the score i % 3.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.toys import grammar


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarPairs(source.Source):
  """Pairs of passages, as texts of the tokenizer "grammar", with a score of 0, 1 or 2.

  Attributes:
    num_pairs: of each split.
    num_sentences: of a passage.
    seed: of the pairs.
  """

  layout = "labelled"
  in_memory = True
  splits = source.LABELLED_SPLITS
  kind = "text"
  num_pairs: int = 600
  num_sentences: int = 3
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(num_pairs=3, num_sentences=1))

  @functools.cache  # pylint: disable=method-cache-max-size-none  (three splits)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"texts": [passage, passage], "label": "0", "1" or "2"} of a split."""
    source.check_split(split)
    number, drawn = self.splits.index(split), grammar.Grammar()
    return tuple(self._pair(np.random.default_rng([self.seed, 7 + number, i]), drawn, i % 3)
                 for i in range(self.num_pairs))

  def _pair(self, draw, drawn, score):
    first = int(draw.integers(grammar.NUM_TOPICS))
    second = first if score else (first + int(draw.integers(1, grammar.NUM_TOPICS))) % (
        grammar.NUM_TOPICS)
    nouns = drawn.probs("noun", first)
    key = int(draw.choice(len(nouns), p=nouns))
    other = key if score == 2 else None
    passages = [drawn.paragraph(draw, first, self.num_sentences, key),
                drawn.paragraph(draw, second, self.num_sentences, other)]
    write = lambda passage: "".join(grammar.WORDS[i] for sentence in passage for i in sentence)
    return {"texts": [write(passage) for passage in passages], "label": str(score)}
