"""Translation of symbols with three choices each, trained on data of which some is broken.

Contents: Translation.

A source symbol, A to H, has three translations of quality 0, 1/2 and 1, which data have equally
often, so that each of the 3^n translations of n symbols has the probability 3^-n. An answer is the
translations in their order and ".". Of the answers to train on a share is empty, and another ends
early, as in text that was collected badly (Yoshida et al. 2023, arXiv:2311.08817): the most
likely answer of a perfect model is the empty one as soon as its share exceeds 3^-n of the others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx.tasks import problems

_SOURCES, _TARGETS, _CHOICES = "ABCDEFGH", "abcdefghijklmnopqrstuvwx", 3
_ROUND = 2048  # sources drawn at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
  """Sources to translate; right is every whole translation, its reward the mean quality.

  Attributes:
    min_length, max_length: symbols of a source, uniform on this range.
    empty_rate, cut_rate: shares of the answers to train on that are empty, and that are cut at a
      random place after the first symbol; a perfect model has them too.
    num_answers: answers of each problem to train on.
    num_train, num_validation, num_test: number of problems.
    seed: of the drawing.
  """

  min_length: int = 3
  max_length: int = 6
  empty_rate: float = 0.0
  cut_rate: float = 0.0
  num_answers: int = 4
  num_train: int = 4000
  num_validation: int = 256
  num_test: int = 256
  seed: int = 0

  blank: ClassVar[str] = ""
  noun: ClassVar[str] = "translations"
  rules: ClassVar[str] = ("An answer is right if each symbol has one of its three translations, in "
                          "their order, and a full stop ends it.")

  def __post_init__(self):
    problems.check_at_least(self, min_length=1, max_length=self.min_length, num_answers=1,
                            num_train=0, num_validation=0, num_test=0, seed=0)
    config_lib.check(self, "task", between=dict(empty_rate="[0, 1)", cut_rate="[0, 1)"))
    if self.empty_rate + self.cut_rate >= 1:
      raise ValueError(f"task.empty_rate {self.empty_rate} and cut_rate {self.cut_rate} leave no "
                       "whole answer; their sum must be below 1.")

  @property
  def symbols(self) -> tuple[str, ...]:
    """The vocabulary."""
    return (*_SOURCES, *_TARGETS, "=", ".")

  @property
  def prompt_length(self) -> int:
    """Most tokens of a prompt."""
    return self.max_length + 1

  @property
  def answer_length(self) -> int:
    """Most tokens of an answer, with its full stop and an end of text."""
    return self.max_length + 2

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer"}]; drawn once."""
    return problems.cached(self, split, self._draw)

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the source and "="."""
    return example["prompt"]

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, answer), `num_answers` of each problem, broken ones among them."""
    rng = np.random.default_rng([self.seed, problems.SPLITS.index(split), 1])
    found = []
    for example in self.examples(split):
      for _ in range(self.num_answers):
        answer = _translated(rng, example["prompt"])
        kind = rng.uniform()
        if kind < self.empty_rate:
          answer = ""
        elif kind < self.empty_rate + self.cut_rate:
          answer = answer[:rng.integers(1, len(answer))]
        found.append((example["prompt"], answer))
    return found

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
    problems.same_length(examples, completions)
    quality = [_quality(e["prompt"][:-1], "".join(c.split()))
               for e, c in zip(examples, completions)]
    return {"reward": np.array([0 if q is None else q for q in quality], np.float32),
            "correct": np.array([q is not None for q in quality], bool)}

  def _draw(self, split: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng([self.seed, problems.SPLITS.index(split)])
    draws = problems.Draws(split, getattr(self, f"num_{split}"))
    while draws.missing():
      for length in rng.integers(self.min_length, self.max_length + 1, size=_ROUND):
        source = "".join(_SOURCES[i] for i in rng.integers(len(_SOURCES), size=length))
        prompt = source + "="
        draws.offer(source, prompt, {"prompt": prompt, "answer": _translated(rng, prompt)})
    return list(draws.found.values())


def _translated(rng: np.random.Generator, prompt: str) -> str:
  """A translation of a prompt, each choice equally likely."""
  choices = rng.integers(_CHOICES, size=len(prompt) - 1)
  return "".join(_TARGETS[_CHOICES * _SOURCES.index(x) + c] for x, c in zip(prompt, choices)) + "."


@functools.cache
def _quality(source: str, answer: str) -> float | None:
  """Mean quality of a whole translation in [0, 1], None of anything else."""
  if len(answer) != len(source) + 1 or answer[-1] != ".":
    return None
  found = [_TARGETS.find(y) - _CHOICES * _SOURCES.index(x) for x, y in zip(source, answer)]
  if not all(0 <= choice < _CHOICES for choice in found):
    return None
  return sum(found) / (len(found) * (_CHOICES - 1))
