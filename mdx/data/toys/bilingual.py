"""Sentences of a toy language with their translations, and texts of either language.

Contents: Bilingual, TOKENIZER, translate.

A sentence is one or two clauses: subject, verb, object. A noun may have an adjective in front of
it. Words go together: a noun has three adjectives and three verbs, a verb four objects. The
translation has a word for each word, by a fixed lexicon; adjectives stand behind their nouns, and
a third of the verbs have a particle behind the object.

Convention: sentence i of a split is a function of (seed, split, i); which words go together is
the same for every seed. Words of the target language are in capitals.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source

_ADJECTIVES, _NOUNS, _VERBS, _PARTICLE = 12, 20, 16, "UP"
_SIZES = {"adj": _ADJECTIVES, "noun": _NOUNS, "verb": _VERBS}
_WORDS = {kind: [f"{kind}{i:02}" for i in range(size)] for kind, size in _SIZES.items()}
_ALL = [word for words in _WORDS.values() for word in words]
TOKENIZER = "symbols:" + " ".join(_ALL + [word.upper() for word in _ALL] + [_PARTICLE])
KINDS = ("pairs", "texts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bilingual(source.Source):
  """Pairs of a sentence and its translation, or texts.

  Attributes:
    kind: "pairs"; or "texts", sentences of the source language and of the target language, one
      after the other, which no pair of the same seed has.
    num_train, num_validation: records of the splits.
    seed: of the sentences.
  """

  layout = "sequences"
  in_memory = True
  kind: str = "pairs"
  num_train: int = 4000
  num_validation: int = 500
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(kind=KINDS),
                     at_least=dict(num_train=1, num_validation=1, seed=0))
    object.__setattr__(self, "layout", "sequences" if self.kind == "pairs" else "text")

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train" or "validation"."""
    is_validation = source.is_validation(split)
    number = self.num_validation if is_validation else self.num_train
    stream = [self.seed, KINDS.index(self.kind), int(is_validation)]
    words = [_sentence(np.random.default_rng([*stream, i])) for i in range(number)]
    text = lambda clauses: "".join(word for clause in clauses for word in clause)
    if self.kind == "pairs":
      return tuple({"source": text(one), "target": "".join(translate(one))} for one in words)
    return tuple({"text": "".join(translate(one)) if i % 2 else text(one)}
                 for i, one in enumerate(words))


def _sentence(draw: np.random.Generator) -> list[list[str]]:
  """Clauses of words."""
  together, clauses = _together(), []
  for _ in range(int(draw.integers(1, 3))):
    subject = int(draw.integers(_NOUNS))
    verb = int(draw.choice(together["verbs"][subject]))
    clause = []
    for noun in (subject, int(draw.choice(together["objects"][verb]))):
      if draw.random() < 0.5:
        clause.append(_WORDS["adj"][draw.choice(together["adjectives"][noun])])
      clause += [_WORDS["noun"][noun], _WORDS["verb"][verb]]
    clauses.append(clause[:-1])
  return clauses


def translate(clauses: Sequence[Sequence[str]]) -> list[str]:
  """The words of the translation of clauses."""
  lexicon, found = _lexicon(), []
  for clause in clauses:
    words, has_particle, i = list(clause), False, 0
    while i < len(words):
      if words[i].startswith("adj"):
        found += [lexicon[words[i + 1]], lexicon[words[i]]]
        i += 2
        continue
      has_particle |= words[i].startswith("verb") and int(words[i][-2:]) % 3 == 0
      found.append(lexicon[words[i]])
      i += 1
    found += [_PARTICLE] if has_particle else []
  return found


@functools.lru_cache(maxsize=1)
def _together() -> dict[str, np.ndarray]:
  """Which words go together, int [words, choices]."""
  draw = np.random.default_rng(0)
  chosen = lambda rows, size, number: np.stack([draw.permutation(size)[:number]
                                                for _ in range(rows)])
  return {"adjectives": chosen(_NOUNS, _ADJECTIVES, 3), "verbs": chosen(_NOUNS, _VERBS, 3),
          "objects": chosen(_VERBS, _NOUNS, 4)}


@functools.lru_cache(maxsize=1)
def _lexicon() -> dict[str, str]:
  """A word of the target language, of the same kind, for every word."""
  draw = np.random.default_rng(1)
  return {word: words[j].upper() for words in _WORDS.values()
          for word, j in zip(words, draw.permutation(len(words)))}
