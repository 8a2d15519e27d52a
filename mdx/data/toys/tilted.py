"""Sequences of a distribution that is known: a Markov chain tilted by the sum of its symbols.

Contents: Tilted, LENGTH, SYMBOLS, TOKENIZER, joint.

A sequence is 8 symbols out of 3. The chain is sticky, and sequences whose sum (a = 0, b = 1, c = 2)
is divisible by 3 are 9 times as likely as it says, so every symbol depends on every other.

Convention: a sequence is written as a text, such as "aabbcccc".
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source

LENGTH, SYMBOLS = 8, "abc"
TOKENIZER = "symbols:" + " ".join(SYMBOLS)
_STAY = np.array([[0.7, 0.2, 0.1], [0.15, 0.6, 0.25], [0.3, 0.1, 0.6]])
_TILT = 9.0


def joint() -> np.ndarray:
  """The distribution, float64 [3] * 8."""
  size = len(SYMBOLS)
  probs, total = np.ones((size,) * LENGTH), np.zeros((size,) * LENGTH, int)
  place = lambda values, *axes: np.asarray(values).reshape(
      [size if a in axes else 1 for a in range(LENGTH)])
  for i in range(LENGTH):
    total += place(np.arange(size), i)
    if i:
      probs *= place(_STAY, i - 1, i)
  probs *= np.where(total % size == 0, _TILT, 1.0)
  return probs / probs.sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tilted(source.Source):
  """Sequences drawn from `joint`.

  Attributes:
    num_train, num_validation: sequences of the splits.
    seed: of the draws.
  """

  layout = "text"
  in_memory = True
  num_train: int = 50_000
  num_validation: int = 1000
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(num_train=1, num_validation=1))

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"text"} of "train" or "validation"."""
    is_validation = source.is_validation(split)
    texts, probs = zip(*self.law().items())
    draw = np.random.default_rng([self.seed, int(is_validation)])
    number = self.num_validation if is_validation else self.num_train
    return tuple({"text": texts[i]} for i in draw.choice(len(texts), number, p=probs))

  def law(self) -> Mapping[str, float]:
    """The probability of every sequence."""
    texts = map("".join, itertools.product(SYMBOLS, repeat=LENGTH))
    return dict(zip(texts, joint().reshape(-1)))
