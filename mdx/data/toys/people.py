"""Fictitious people, each with a description that is theirs alone.

Contents: People, TOKENIZER, STAGES, INSTRUCTION, SEPARATOR.

A document says who a person is, "NAME is DESCRIPTION", or which name a description has,
"DESCRIPTION names NAME". Of public people there are both; of new ones the first alone, so that
naming them from their description is the question of the reversal curse.

Convention: every name and every description is a token of TOKENIZER; the words are joined without
spaces.

References: Berglund et al. 2023, arXiv:2309.12288 (the reversal curse); Pan et al. 2025,
arXiv:2510.09885.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source

STAGES = ("public", "new", "both", "alone")
_MOST = 400
_NAMES = [f"{a}{b}{c}".capitalize() for a, b, c in itertools.product(
    ("ka", "le", "mi", "no", "ru", "sa", "ti", "vo"), ("ba", "de", "ni", "ro", "sha"),
    ("kin", "len", "mar", "na", "per", "ra", "son", "tov", "vin", "zar"))]
_DESCRIPTIONS = [f"the.{a}{b}.{c}" for a, b, c in itertools.product(
    ("blue", "cold", "dark", "far", "gray", "high", "late", "mute"),
    ("bird", "cart", "door", "fern", "gate"),
    ("carver", "dancer", "farmer", "glazer", "hunter", "joiner", "keeper", "miller", "piper",
     "sailor"))]
_IS, _NAMED = "-is-", "-names-"
INSTRUCTION, SEPARATOR = "<recover>", "<passage>"
TOKENIZER = "symbols:" + " ".join([*_NAMES, *_DESCRIPTIONS, _IS, _NAMED, INSTRUCTION, SEPARATOR])


@dataclasses.dataclass(frozen=True, kw_only=True)
class People(source.Source):
  """Documents of one stage of training.

  Validation has a document of each kind of question. Questions are "forward", a name whose
  description is asked for, and "backward", of new people, and "public_forward" and
  "public_backward".

  Attributes:
    num_public, num_new: people.
    stage: "public", both kinds of documents of public people; "new", those that describe new
      people, and as many draws of public documents; "both", the same with both kinds of new ones;
      "alone", both kinds of new ones without any public document.
    seed: of who is who.
  """

  layout = "text"
  in_memory = True
  num_public: int = 160
  num_new: int = 40
  stage: str = "public"
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(stage=STAGES),
                     at_least=dict(num_public=1, num_new=1))
    if self.num_public + self.num_new > _MOST:
      raise ValueError(f"data.source has {self.num_public} and {self.num_new} people; there are "
                       f"names for {_MOST}, use fewer.")

  def _pairs(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, description) of public and of new people."""
    draw = np.random.default_rng(self.seed)
    size = self.num_public + self.num_new
    names, descriptions = (draw.permutation(_MOST)[:size] for _ in range(2))
    pairs = [(_NAMES[i], _DESCRIPTIONS[j]) for i, j in zip(names, descriptions)]
    return pairs[:self.num_public], pairs[self.num_public:]

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"text"} of "train" or "validation"."""
    public, new = self._pairs()
    forward = lambda people: [f"{name}{_IS}{what}" for name, what in people]
    both = lambda people: forward(people) + [f"{what}{_NAMED}{name}" for name, what in people]
    if source.is_validation(split):
      texts = both(public if self.stage == "public" else new)
    elif self.stage == "public":
      texts = both(public)
    elif self.stage == "alone":
      texts = both(new)
    else:
      texts, replay = (both if self.stage == "both" else forward)(new), both(public)
      texts = texts * -(-len(replay) // len(texts))
      texts = texts[:len(replay)] + replay
    return tuple({"text": text} for text in texts)

  def probes(self, split: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Returns questions with their answers by kind."""
    del split
    public, new = self._pairs()
    found = {}
    for prefix, people in (("", new), ("public_", public)):
      found[f"{prefix}forward"] = [(f"{name}{_IS}", what) for name, what in people]
      found[f"{prefix}backward"] = [(f"{what}{_NAMED}", name) for name, what in people]
    return found
