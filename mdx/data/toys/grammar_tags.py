"""Words of the toy grammar with tags that need the right context, or do not.

Contents: GrammarTags, TAGS.

  agreement  a determiner has the gender of the noun to its right; all determiners are written
             alike, so that only the noun tells
  subject    a verb has the gender of its subject, the noun to its left

Convention: tags are entities of one word, B-G0 or B-G1, so that entity F1 is the share of right
genders once it is known which words have one.
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

_KINDS = np.array([word.rstrip("0123456789") for word in grammar.WORDS])
_NOUNS = np.flatnonzero(_KINDS == "noun")
_DETERMINER = int(np.flatnonzero(_KINDS == "det")[0])


def one_determiner(ids: np.ndarray) -> np.ndarray:
  """Ids with all determiners written as the first, int32."""
  return np.where(_KINDS[ids] == "det", _DETERMINER, ids).astype(np.int32)


def _genders(ids: np.ndarray, kind: str, step: int) -> list[str]:
  """Tags of the words of a kind: the gender of the next noun (step 1) or the last one (-1)."""
  tags, gender = ["O"] * len(ids), None
  for i in range(len(ids))[::-step]:
    if _KINDS[ids[i]] == "noun":
      gender = int(grammar.Grammar.gender(int(ids[i] - _NOUNS[0])))
    elif _KINDS[ids[i]] == kind and gender is not None:
      tags[i] = f"B-G{gender}"
  return tags


TAGS = {"agreement": ("det", 1), "subject": ("verb", -1)}  # kind of word, way to its noun


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarTags(source.Source):
  """Tagged documents of the tokenizer "grammar".

  Attributes:
    task: of TAGS.
    num_train, num_held_out: documents of training, and of validation and test each.
    num_sentences: of a document.
  """

  layout = "labelled"
  in_memory = True
  splits = source.LABELLED_SPLITS
  kind = "words"
  task: str = "agreement"
  num_train: int = 200
  num_held_out: int = 200
  num_sentences: int = 2

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(task=TAGS),
                     at_least=dict(num_train=1, num_held_out=1, num_sentences=1))

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train", "validation" or "test"."""
    source.check_split(split)
    return self._drawn(split)

  @functools.lru_cache(maxsize=8)  # pylint: disable=method-cache-max-size-none  (few sources)
  def _drawn(self, split):
    # Documents of their own: those of pre-training have the first numbers 0 and 1.
    number = 10 + source.LABELLED_SPLITS.index(split)
    drawn, found = grammar.Grammar(), []
    for i in range(self.num_train if split == "train" else self.num_held_out):
      _, (sentences,) = drawn.document([0, number, i], 1, self.num_sentences)
      tags = [tag for ids in sentences for tag in _genders(ids, *TAGS[self.task])]
      ids = one_determiner(np.concatenate(sentences))
      found.append({"words": [grammar.WORDS[j] for j in ids], "tags": tags,
                    "where": f"grammar {self.task}, {split} document {i}"})
    return tuple(found)
