"""Questions over a synthetic knowledge base, which only a search can answer.

Contents: Relations.

Each of 256 entities has four facts: two name another entity, two a value. A question asks for the
value or the entity behind two of them, "?Kaba.mother.[mask].city.[mask]", of which the last mask is
the answer; the first stage of training (RAMP) restores all masks of paragraphs. Entities of a split
know only one another, and no text of training names those of the others, so that what is right on
them is searched and not remembered. A name has two syllables, a token each, all of which occur in
training.

Convention: a document is a fact, "Kaba.mother.Leno". Which split an entity belongs to depends on
its name alone.

Reference: MaskSearch (2025, arXiv:2505.20285); the knowledge base is ours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx.tasks import problems
from mdx.tasks.search import agent as agent_lib
from mdx.tasks.search import answered
from mdx.tasks.search import bm25
from mdx.tasks.search import documents as documents_lib

STAGES = ("ramp", "questions")
_FIRST = ("Ba", "De", "Fi", "Go", "Hu", "Ka", "Le", "Mi", "No", "Pu", "Ra", "Se", "Ti", "Vo", "Wu",
          "Za")
_SECOND = ("ban", "den", "fil", "gor", "hul", "kan", "lem", "mir", "nok", "pur", "ras", "sel",
           "tin", "vor", "wud", "zan")
_LINKS = (".mother.", ".rival.")  # to entities
_VALUES = {".city.": "Aalen Bergen Cadiz Delft Essen Fano Gent Havre".split(),
           ".job.": "baker carver dyer farmer glazer hunter joiner miller".split()}
_RELATIONS = (*_LINKS, *_VALUES)
_MASK, _AND = "[mask]", ","
_TAGS = ("<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relations(answered.Answered):
  """Two-hop questions about entities that are divided by split; see `tasks.search.agent`.

  Attributes:
    num_train: questions of training, drawn; 0 = all.
    num_ramp: paragraphs of the first stage.
    max_masks: most masks of a paragraph.
    min_masks: least of one; a curriculum trains on few masks first.
    last_rate: share of paragraphs that are answered by their last masked value alone; 0 leaves RL
      after this stage without another answer than that of all masks, and so without a signal.
    reward: recall, penalised, f1 or exact.
    format_weight, answer_weight: of the two parts of the reward.
    seed: of the facts and of what is drawn.
  """
  num_train: int = 0
  num_ramp: int = 4000
  min_masks: int = 1
  max_masks: int = 3
  last_rate: float = 0.125
  reward: str = "penalised"
  format_weight: float = 0.1
  answer_weight: float = 0.9
  seed: int = 0

  noun: ClassVar[str] = "two-hop questions"
  rules: ClassVar[str] = ("An agent may search twice before it answers; an answer is right if it "
                          "is what the second fact names.")
  prompt_length: ClassVar[int] = 7
  turn_length: ClassVar[int] = 6  # of a query, or of the answer of a question
  reply_length: ClassVar[int] = 7

  def __post_init__(self):
    problems.check_at_least(self, num_train=0, num_ramp=1, min_masks=1)
    config_lib.check(self, "task", between=dict(max_masks=f"[{self.min_masks}, 3]",
                                                   last_rate="[0, 1]"))
    self.agent  # pylint: disable=pointless-statement  (its fields are checked)

  @property
  def symbols(self) -> tuple[str, ...]:
    """Tokens of prompts, turns and replies."""
    values = (value for own in _VALUES.values() for value in own)
    return (*_FIRST, *_SECOND, *_RELATIONS, *values, _MASK, _AND, ";", "?", *_TAGS)

  @property
  def answer_length(self) -> int:
    """Most tokens of an answer without a search."""
    return 4

  @functools.cached_property
  def _names(self) -> Mapping[str, list[str]]:
    """Entities of every split."""
    found: dict[str, list[str]] = {split: [] for split in problems.SPLITS}
    for name in map("".join, itertools.product(_FIRST, _SECOND)):
      found[problems.split_of(name)].append(name)
    return found

  @functools.cached_property
  def _facts(self) -> Mapping[tuple[str, str], str]:
    """(entity, relation) -> what it names."""
    draw, found = np.random.default_rng([self.seed, 0]), {}
    for names in self._names.values():
      for i, name in enumerate(names):
        for relation in _LINKS:  # never the entity itself
          found[name, relation] = names[(i + int(draw.integers(1, len(names)))) % len(names)]
        for relation, values in _VALUES.items():
          found[name, relation] = values[int(draw.integers(len(values)))]
    return found

  @functools.cached_property
  def agent(self) -> agent_lib.Agent:
    """The agent, with all facts to search."""
    tool = bm25.BM25()
    tool.build(self.documents())
    return agent_lib.Agent(
        tool=tool, count=1, max_chars=200, seconds=60.0, reward=self.reward,
        format_weight=self.format_weight, answer_weight=self.answer_weight)

  def documents(self) -> list[documents_lib.Document]:
    """Returns the corpus: a fact each, its subject as the title."""
    return [documents_lib.Document(name + relation, name + relation, name + relation + value)
            for (name, relation), value in self._facts.items()]

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "golds", "path"}], `path` the entity and two relations."""
    return problems.cached(self, split, self._questions)

  def _questions(self, split: str) -> list[dict[str, Any]]:
    found = []
    for name, link, last in itertools.product(self._names[split], _LINKS, _RELATIONS):
      answer = self._facts[self._facts[name, link], last]
      found.append({"prompt": f"?{name}{link}{_MASK}{last}{_MASK}", "answer": answer,
                    "golds": [answer], "path": (name, link, last)})
    order = np.random.default_rng([self.seed, 1]).permutation(len(found))
    limit = self.num_train if split == "train" else 0
    return [found[i] for i in order][:limit or None]

  def trajectories(self, split: str, stage: str) -> list[list[dict[str, str]]]:
    """Returns conversations in which what is asked is searched and answered.

    Args:
      split: one of `problems.SPLITS`.
      stage: "ramp", masked paragraphs; "questions", those of `examples`.
    """
    problems.check_split(split)
    if stage not in STAGES:
      raise ValueError(f"data.source.stage is {stage!r}; choose from {', '.join(STAGES)}.")
    if stage == "questions":
      return [self._solved(e["prompt"], (e["path"][:2], (self._facts[e["path"][:2]], e["path"][2])),
                           [e["answer"]]) for e in self.examples(split)]
    draw = np.random.default_rng([self.seed, 2, problems.SPLITS.index(split)])
    number = self.num_ramp if split == "train" else max(1, self.num_ramp // 20)
    return [self._paragraph(draw, self._names[split]) for _ in range(number)]

  def _paragraph(self, draw: np.random.Generator, names: Sequence[str]) -> list[dict[str, str]]:
    """A paragraph: a chain of two facts, and in two of three another fact, on either side of it.

    Some of the values are masked, as many as there may be at most.
    """
    pick = lambda items: items[int(draw.integers(len(items)))]
    name, link, last = pick(names), pick(_LINKS), pick(_RELATIONS)
    chain = (name, link), (self._facts[name, link], last)
    other = ((pick(names), pick(_RELATIONS)),)
    number = int(draw.integers(self.min_masks, self.max_masks + 1))
    side = 1 + int(draw.integers(2)) if number == 3 else int(draw.integers(3))
    queries = (chain, chain + other, other + chain)[side]
    hidden = sorted(draw.permutation(len(queries))[:number].tolist())
    value = [_MASK if i in hidden else self._facts[query] for i, query in enumerate(queries)]
    first = int(side == 2)  # of the chain
    parts = [f"{name}{link}{value[first]}{last}{value[first + 1]}"]
    parts += [f"{query[0]}{query[1]}{value[i]}" for i, query in enumerate(queries)
              if i not in (first, first + 1)]
    asked = [queries[i] for i in hidden]
    answered = asked[-1:] if draw.random() < self.last_rate else asked
    return self._solved(";".join(parts[::-1] if first else parts), asked,
                        [self._facts[query] for query in answered])

  def _solved(self, text, queries, answers) -> list[dict[str, str]]:
    """A conversation: a search a query, then the answers."""
    turns = [("user", text)]
    for name, relation in queries:
      turns += [("assistant", f"<search>{name}{relation}</search>"),
                ("tool", f"<information>{name}{relation}{self._facts[name, relation]}"
                         "</information>")]
    turns.append(("assistant", f"<answer>{_AND.join(answers)}</answer>"))
    return [{"role": role, "content": content} for role, content in turns]

  def spaced(self, transcripts: Sequence[str]) -> list[str]:
    """Returns transcripts whose several answers are words of their own."""
    return [text.replace(_AND, " ") for text in transcripts]
