"""A toy grammar: documents with known structure, for claims that run in minutes.

Contents: Grammar, WORDS.

Documents have paragraphs of sentences `DET (ADJ) NOUN VERB DET (ADJ) NOUN (collocation) END`:

  topic        of a document, its label: with probability 0.8 a noun, verb or adjective is one of
               the topic's own, else any; a single word is weak evidence
  agreement    a determiner has the gender of the noun of its phrase, to its right
  selection    a verb takes objects of two of four classes; a quarter of the objects of
               half of the verbs are held out, and occur only with `held_out`
  discourse    a paragraph has a key noun, subject or object of a sentence with probability 0.3; a
               sentence has the subject of the one before it with probability 0.5
  collocation  one of 20 fixed units of two or three words follows with probability 0.2; their
               words occur in several of them

Convention: document i of a split is a function of (seed, split, i).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

NUM_TOPICS, NUM_CLASSES = 8, 4
OWN_RATE, ADJECTIVE_RATE, KEY_RATE, SAME_SUBJECT_RATE, COLLOCATION_RATE = 0.8, 0.5, 0.3, 0.5, 0.2
_SIZES = {"det": 4, "noun": 80, "verb": 40, "adj": 40, "part": 16, "end": 1}
WORDS = tuple(f"{kind}{i}" for kind, size in _SIZES.items() for i in range(size))
_FIRST = {kind: WORDS.index(f"{kind}0") for kind in _SIZES}
END = _FIRST["end"]


class Grammar:
  """Draws documents of ids into WORDS.

  Args:
    held_out: only pairs of verb and object that are otherwise held out, and verbs that have some.
  """

  def __init__(self, held_out: bool = False):
    self._held_out = held_out

  @staticmethod
  def topic(kind: str, number: np.ndarray | int) -> np.ndarray | int:
    """The topic that owns nouns, verbs or adjectives of these numbers."""
    return number * NUM_TOPICS // _SIZES[kind]

  @staticmethod
  def gender(noun: np.ndarray | int) -> np.ndarray | int:
    """Gender of a noun, 0 or 1; determiners 2 g and 2 g + 1 have it."""
    return noun % 2

  @staticmethod
  def takes(verb: np.ndarray | int, noun: np.ndarray | int) -> np.ndarray | bool:
    """Whether a verb takes an object, held-out pairs included."""
    return (noun // 2 - verb) % NUM_CLASSES < 2

  @staticmethod
  def is_held_out(verb: np.ndarray | int, noun: np.ndarray | int) -> np.ndarray | bool:
    """Whether a pair of verb and object is held out."""
    return (3 * verb + 5 * noun) % 8 == 0

  @functools.cached_property
  def collocations(self) -> tuple[tuple[int, ...], ...]:
    """The fixed units, as ids; the same for every seed."""
    draw, found = np.random.default_rng(0), set()
    while len(found) < 20:
      size = 2 + len(found) % 2
      found.add(tuple(_FIRST["part"] + draw.choice(_SIZES["part"], size, replace=False)))
    return tuple(tuple(int(i) for i in unit) for unit in sorted(found))

  def probs(self, kind: str, topic: int) -> np.ndarray:
    """Probabilities of the words of a kind in a document of a topic, float64."""
    size = _SIZES[kind]
    own = self.topic(kind, np.arange(size)) == topic
    return OWN_RATE * own / own.sum() + (1 - OWN_RATE) / size

  @functools.cache  # pylint: disable=method-cache-max-size-none  (8 x 40)
  def object_probs(self, topic: int, verb: int) -> np.ndarray:
    """Probabilities of the nouns as object of a verb."""
    nouns = np.arange(_SIZES["noun"])
    fits = self.takes(verb, nouns) & (self.is_held_out(verb, nouns) == self._held_out)
    probs = self.probs("noun", topic) * fits
    return probs / probs.sum()

  def document(self, seed: Sequence[int], num_paragraphs: int,
               num_sentences: int) -> tuple[int, list[list[np.ndarray]]]:
    """Topic, and paragraphs of sentences of ids, int32."""
    draw = np.random.default_rng(seed)
    topic = int(draw.integers(NUM_TOPICS))
    return topic, [self.paragraph(draw, topic, num_sentences) for _ in range(num_paragraphs)]

  def _verb_probs(self, topic: int) -> np.ndarray:
    probs = self.probs("verb", topic)
    if self._held_out:
      verbs, nouns = np.arange(len(probs))[:, None], np.arange(_SIZES["noun"])[None]
      probs = probs * (self.takes(verbs, nouns) & self.is_held_out(verbs, nouns)).any(axis=1)
    return probs / probs.sum()

  def paragraph(self, draw: np.random.Generator, topic: int, num_sentences: int,
                key: int | None = None) -> list[np.ndarray]:
    """Sentences of ids, int32, with a key noun that is given, or drawn (None)."""
    nouns = self.probs("noun", topic)
    drawn, subject, sentences = int(draw.choice(len(nouns), p=nouns)), None, []
    key = drawn if key is None else key
    for _ in range(num_sentences):
      has_key, same, as_subject = draw.random(3) < (KEY_RATE, SAME_SUBJECT_RATE, 0.5)
      verb = int(draw.choice(_SIZES["verb"], p=self._verb_probs(topic)))
      thing = int(draw.choice(len(nouns), p=self.object_probs(topic, verb)))
      if subject is None or not same:
        subject = int(draw.choice(len(nouns), p=nouns))
      if has_key and as_subject:
        subject = key
      elif has_key and self.object_probs(topic, verb)[key]:
        thing = key
      sentence = [*self._phrase(draw, topic, subject), _FIRST["verb"] + verb,
                  *self._phrase(draw, topic, thing)]
      if draw.random() < COLLOCATION_RATE:
        sentence += self.collocations[draw.integers(len(self.collocations))]
      sentences.append(np.array([*sentence, END], np.int32))
    return sentences

  def _phrase(self, draw, topic, noun):
    words = [_FIRST["det"] + 2 * self.gender(noun) + int(draw.integers(2))]
    if draw.random() < ADJECTIVE_RATE:
      words.append(_FIRST["adj"] + int(draw.choice(_SIZES["adj"], p=self.probs("adj", topic))))
    return [*words, _FIRST["noun"] + noun]
