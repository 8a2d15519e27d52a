"""Transcripts of a search agent: queries, replies, the answer, and what they are worth.

Contents: STOPS, REWARDS, Agent, clean, query_of, answer_of, is_well_formed, recall, f1, exact.

A turn is a query or the answer, each behind an optional thought; the tool replies to a query:
  <think>...</think><search>QUERY</search><information>FOUND</information><answer>ANSWER</answer>
What a tool finds is data: tags of this protocol in it become spaces, so that it can neither end its
own segment nor answer. A turn ends at a closing tag (STOPS); a turn that is neither query nor
answer ends the episode.

The reward is w_f format + w_a answer, format 1 of a transcript of this form, 0 else. Of the words
of the answer and of the gold one, as multisets: recall, the share of gold words that are there;
penalised, recall min(1, gold words / words), which a verbose answer does not game; f1; exact. The
best of several gold answers counts. Words are those of SQuAD: lower case, no punctuation, no
articles.

Reference: MaskSearch (2025, arXiv:2505.20285); the weights of the reward are ours. Measures: Yang
et al. 2018, arXiv:1809.09600 (HotpotQA).
"""

from __future__ import annotations

import collections
import dataclasses
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.tasks import problems
from mdx.tasks.search import tools

STOPS = ("</search>", "</answer>")
_TAG = re.compile(r"<\s*/?\s*(?:think|search|information|answer)\s*/?\s*>", re.I)
_THINK = r"(?:<think>[^<>]*</think>\s*)?"
_FORM = re.compile(
    rf"\s*(?:{_THINK}<search>[^<>]*</search>\s*<information>(?:(?!{_TAG.pattern}).)*"
    rf"(?:</information>)?\s*)*{_THINK}<answer>[^<>]*</answer>\s*", re.S | re.I)
_QUERY = re.compile(r"<search>([^<>]*)</search>\s*\Z")
_SEARCHED = re.compile(r"<search>[^<>]*</search>\s*<information>")
_ANSWER = re.compile(r"<answer>([^<>]*)</answer>\s*\Z")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")  # answers that share no word with another, as HotpotQA's


def clean(text: str) -> str:
  """A text of a tool without tags of the protocol."""
  return _TAG.sub(" ", text)


def query_of(transcript: str) -> str | None:
  """The query that a transcript ends with; None: there is none."""
  match = _QUERY.search(transcript)
  return match and match.group(1).strip()


def answer_of(transcript: str) -> str | None:
  """The answer that a transcript ends with; None: there is none."""
  match = _ANSWER.search(transcript)
  return match and match.group(1).strip()


def is_well_formed(transcript: str) -> bool:
  """Whether a transcript is of the protocol, up to an answer."""
  return _FORM.fullmatch(transcript) is not None


def _normal(text: str) -> list[str]:
  kept = text.lower().translate(_PUNCTUATION)
  return re.sub(r"\b(?:a|an|the)\b", " ", kept).split()


def _shared(found: str, gold: str) -> tuple[int, int, int]:
  """Numbers of words: shared, found, gold."""
  own, wanted = collections.Counter(_normal(found)), collections.Counter(_normal(gold))
  return (own & wanted).total(), own.total(), wanted.total()


def recall(found: str, gold: str) -> float:
  """Share of the gold words that were found."""
  shared, _, wanted = _shared(found, gold)
  return shared / wanted if wanted else 0.0


def penalised(found: str, gold: str) -> float:
  """Recall, times gold words over words where there are more."""
  _, own, wanted = _shared(found, gold)
  return recall(found, gold) * min(1.0, wanted / own) if own else 0.0


def f1(found: str, gold: str) -> float:
  """Harmonic mean of precision and recall; 0 for a yes or no that is another."""
  shared, own, wanted = _shared(found, gold)
  texts = {" ".join(_normal(found)), " ".join(_normal(gold))}
  if not shared or (len(texts) > 1 and texts & set(_CLOSED)):
    return 0.0
  return 2 * shared / (own + wanted)


def exact(found: str, gold: str) -> float:
  """1 if both are the same words, else 0."""
  return float(_normal(found) == _normal(gold))


REWARDS: Mapping[str, Callable[[str, str], float]] = {
    "recall": recall, "penalised": penalised, "f1": f1, "exact": exact}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agent:
  """Replies to transcripts and scores them.

  Attributes:
    tool: built.
    count: documents of a reply.
    max_chars: of a reply; the rest of the documents is cut.
    seconds: that the tool may take for the queries of a turn.
    reward: one of REWARDS.
    format_weight, answer_weight: w_f and w_a.
  """
  tool: tools.Tool
  count: int
  max_chars: int
  seconds: float
  reward: str
  format_weight: float
  answer_weight: float

  def __post_init__(self):
    config_lib.check(self, "task", choices=dict(reward=tuple(REWARDS)),
                     at_least=dict(count=1, max_chars=1, format_weight=0, answer_weight=0))
    if not self.seconds > 0:
      raise ValueError(f"task.seconds must be positive, got {self.seconds}.")

  def reply(self, transcripts: Sequence[str]) -> list[str | None]:
    """Returns what follows each transcript; None: it is over."""
    queries = [query_of(text) for text in transcripts]
    asked = [query for query in queries if query is not None]
    found = iter(tools.call(self.tool, asked, self.count, self.seconds))
    return [None if query is None else self._information(next(found)) for query in queries]

  def _information(self, found) -> str:
    text = clean("\n".join(document.shown for document in found))[:self.max_chars]
    return f"<information>{text}</information>"

  def score(self, golds: Sequence[Sequence[str]], transcripts: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N], exactly right}."""
    problems.same_length(golds, transcripts)
    value = self._best(REWARDS[self.reward], golds, transcripts)
    formed = np.array([is_well_formed(text) for text in transcripts], np.float32)
    return {"reward": (self.format_weight * formed + self.answer_weight * value).astype(np.float32),
            "correct": self._best(exact, golds, transcripts) > 0}

  def measures(self, golds: Sequence[Sequence[str]], transcripts: Sequence[str]
               ) -> dict[str, np.ndarray]:
    """Returns float32 [N] of each: exact_match, f1, recall, well_formed and searches."""
    best = lambda one: self._best(one, golds, transcripts)
    return {"exact_match": best(exact), "f1": best(f1), "recall": best(recall),
            "well_formed": np.array([is_well_formed(t) for t in transcripts], np.float32),
            "searches": np.array([len(_SEARCHED.findall(t)) for t in transcripts], np.float32)}

  def _best(self, one, golds, transcripts) -> np.ndarray:
    answers = [answer_of(text) for text in transcripts]
    return np.array([0.0 if answer is None else max(one(answer, gold) for gold in own)
                     for answer, own in zip(answers, golds)], np.float32)
