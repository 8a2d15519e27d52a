"""Passages of the toy grammar whose similarity is known: pairs, and queries with two of them.

Contents: GrammarPairs, GrammarTriplets.

  2  both passages are of one topic and have one key noun, which returns in their sentences
  1  they are of one topic, with key nouns of their own
  0  they are of different topics

A query is the key noun of a passage and two of its words; the wrong passage is of the same topic,
with another key noun.

Convention: record i of a split is a function of (seed, split, i); pair i has the score i % 3.
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
    return {"texts": [_text(passage) for passage in passages], "label": str(score)}


def _text(passage) -> str:
  return "".join(grammar.WORDS[i] for sentence in passage for i in sentence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarTriplets(source.Source):
  """Queries with a right and a wrong passage, as texts of the tokenizer "grammar".

  Attributes:
    num_train, num_validation: triplets of the splits.
    num_sentences: of a passage.
    seed: of the triplets.
  """

  layout = "triplets"
  in_memory = True
  num_train: int = 512
  num_validation: int = 200
  num_sentences: int = 2
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(num_train=1, num_validation=1,
                                                        num_sentences=1))

  @functools.cache  # pylint: disable=method-cache-max-size-none  (two splits)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"texts": [query, right passage, wrong passage]} of "train" or "validation"."""
    is_validation = source.is_validation(split)
    return tuple(self._triplet(np.random.default_rng([self.seed, 11 + is_validation, i]))
                 for i in range(self.num_validation if is_validation else self.num_train))

  def _triplet(self, draw):
    drawn, topic = grammar.Grammar(), int(draw.integers(grammar.NUM_TOPICS))
    nouns = drawn.probs("noun", topic)
    key, other = (int(i) for i in draw.choice(len(nouns), 2, replace=False, p=nouns))
    right, wrong = (drawn.paragraph(draw, topic, self.num_sentences, i) for i in (key, other))
    words = np.unique(np.concatenate(right))
    words = draw.choice(words[words != grammar.END], 2, replace=False)
    query = f"noun{key}" + "".join(grammar.WORDS[i] for i in words)
    return {"texts": [query, _text(right), _text(wrong)]}
