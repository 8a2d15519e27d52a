"""Key retrieval: filler with a few pairs of a key and a value, and the query of one key.

Contents: Recall, TOKENIZER.

A text is `num_pairs` pairs (a key, then its value) at random places of a filler, then "?", one of
the keys, and its value. The filler is a Markov chain, so that there is something else to learn. In
training every token is a target; in validation the last value alone.

Convention: text i of a split is a function of (seed, split, i). Keys are written A, B, ..., values
a, b, ..., filler 0, 1, ...; each is a token of TOKENIZER.
"""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source

_KEYS, _VALUES, _FILLER = string.ascii_uppercase[:16], string.ascii_lowercase[:16], "01234567"
_STAY = 0.7  # probability that the filler goes on as its most likely successor
TOKENIZER = "symbols:" + " ".join(_KEYS + _VALUES + _FILLER + "?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(source.Source):
  """Texts of one length.

  Attributes:
    length: tokens of a text.
    num_pairs: pairs in it.
    num_train, num_validation: texts of the splits.
    seed: of the texts.
  """

  layout = "answered"
  in_memory = True
  length: int = 48
  num_pairs: int = 6
  num_train: int = 20_000
  num_validation: int = 500
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(num_train=1, num_validation=1),
                     between=dict(num_pairs=f"[1, {len(_KEYS)}]"))
    if self.length < 2 * self.num_pairs + 4:
      raise ValueError(f"data.source.length {self.length} has no room for {self.num_pairs} pairs "
                       f"and a query; use {2 * self.num_pairs + 4} or more.")

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns records of which "train" has no prompt, and "validation" one that is all but last."""
    is_validation = source.is_validation(split)
    texts = [self._text(np.random.default_rng([self.seed, int(is_validation), i]))
             for i in range(self.num_validation if is_validation else self.num_train)]
    if is_validation:
      return tuple({"prompt": text[:-1], "answer": text[-1], "blank": ""} for text in texts)
    return tuple({"prompt": "", "answer": text, "blank": ""} for text in texts)

  def _text(self, draw: np.random.Generator) -> str:
    num_filler = self.length - 3 - 2 * self.num_pairs
    keys = draw.permutation(list(_KEYS))[:self.num_pairs]
    values = draw.choice(list(_VALUES), self.num_pairs)
    steps = np.where(draw.random(num_filler) < _STAY, 1, draw.integers(0, len(_FILLER), num_filler))
    state = np.cumsum(steps) % len(_FILLER)
    pieces = [_FILLER[i] for i in state]
    for place, pair in zip(sorted(draw.integers(0, num_filler + 1, self.num_pairs), reverse=True),
                           zip(keys, values)):
      pieces.insert(place, "".join(pair))
    asked = int(draw.integers(self.num_pairs))
    return "".join(pieces) + "?" + str(keys[asked]) + str(values[asked])
