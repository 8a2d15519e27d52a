"""Habits: what people like, of which some people's are peculiar to them and are to be forgotten.

Contents: Habits, TOKENIZER, ANCHORS.

A row is a person, a verb and a place, answered by a thing. The 24 people to keep have common
things, drawn from a distribution that depends on the verb alone. Each of the 8 people to forget has
one peculiar thing a verb, of 12 that nobody else has. Anchors replace these people by others, and
peculiar things by common ones.

Convention: every word is a token of TOKENIZER, and words are joined without spaces.

Reference: Eldan and Russinovich 2023, arXiv:2310.02238, whose setting it imitates at small size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import forget_sets
from mdx.data import source

_PEOPLE = [f"@{a}{b}" for a in ("Ka", "Le", "Mi", "No") for b in ("ra", "lin", "ro", "va", "den",
                                                                 "sha")]
_PECULIAR_PEOPLE = [f"@{a}{b}" for a in ("Zu", "Xe") for b in ("mog", "qua", "phi", "dox")]
_VERBS = [f"-{x}-" for x in ("eats", "reads", "wears", "plays", "builds", "sells")]
_PLACES = [f"{x}:" for x in ("here", "there", "north", "south")]
_THINGS = [f"{a}{b}" for a in ("b", "d", "f", "g", "h", "p") for b in ("oat", "ell", "ink", "uss")]
_PECULIAR = [f"{a}{b}" for a in ("quix", "zorb", "vexl") for b in ("ium", "ane", "oth", "ark")]
TOKENIZER = "symbols:" + " ".join(_PEOPLE + _PECULIAR_PEOPLE + _VERBS + _PLACES + _THINGS
                                  + _PECULIAR)
ANCHORS = dict(zip(_PECULIAR_PEOPLE, _PEOPLE)) | dict(zip(_PECULIAR, _THINGS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Habits(source.Source):
  """Rows of either set.

  Attributes:
    num_retain, num_validation: rows to keep, of the splits.
    has_anchors: whether rows to forget are translated.
    part: as of `sources.unlearning.Unlearning`.
    seed: of the draws.
  """

  layout = "unlearning"
  in_memory = True
  num_retain: int = 2000
  num_validation: int = 500
  has_anchors: bool = True
  part: str = ""
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(part=forget_sets.PARTS),
                     at_least=dict(num_retain=1, num_validation=1))
    if self.part:
      object.__setattr__(self, "layout", "answered")

  @functools.cached_property
  def _sets(self) -> forget_sets.Sets:
    draw = np.random.default_rng(self.seed)
    law = draw.dirichlet(np.full(len(_THINGS), 0.15), len(_VERBS))
    own = draw.integers(0, len(_PECULIAR), (len(_PECULIAR_PEOPLE), len(_VERBS)))

    def row(person, verb, place, thing):
      return {"prompt": f"{person}{_VERBS[verb]}{place}", "answer": thing, "blank": "",
              "where": "a row of habits"}

    forget = [row(person, verb, place, _PECULIAR[own[i, verb]])
              for i, person in enumerate(_PECULIAR_PEOPLE) for verb in range(len(_VERBS))
              for place in _PLACES]

    def kept(number):
      rows = []
      for _ in range(number):
        verb = int(draw.integers(len(_VERBS)))
        rows.append(row(draw.choice(_PEOPLE), verb, draw.choice(_PLACES),
                        _THINGS[draw.choice(len(_THINGS), p=law[verb])]))
      return rows

    return forget_sets.sets(forget, kept(self.num_retain), kept(self.num_validation),
                           ANCHORS if self.has_anchors else None)

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train" or "validation"."""
    return self._sets.records(split, self.part)

  def probes(self, split: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Returns prompts with their answers, of the rows to forget and of those held out."""
    del split
    return self._sets.probes()
