"""Base of the tasks that a search agent answers.

Contents: Answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import types
from mdx.tasks.search import agent as agent_lib


class Answered:
  """Questions with gold answers, `examples` with "prompt", "answer" and "golds".

  A subclass has `examples` and `agent`, whose tool has its corpus.
  """
  blank: ClassVar[str] = ""
  stops: ClassVar[tuple[str, ...]] = agent_lib.STOPS

  @property
  def agent(self) -> agent_lib.Agent:
    """Returns what replies and scores."""
    raise TypeError("a task of a search agent defines agent")

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns the questions of a split."""
    raise TypeError("a task of a search agent defines examples")

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text that is followed by the first turn."""
    return example["prompt"]

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> types.Drawing | None:
    """Returns None: an answer is running text."""
    del self, example, tokens

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, answer without a search)."""
    return [(e["prompt"], f"<answer>{e['answer']}</answer>") for e in self.examples(split)]

  def reply(self, examples: Sequence[dict[str, Any]], transcripts: Sequence[str]
            ) -> list[str | None]:
    """Returns what the search finds; None where a transcript ends with no query."""
    del examples
    return self.agent.reply(transcripts)

  def spaced(self, transcripts: Sequence[str]) -> Sequence[str]:
    """Returns transcripts whose words are apart, as they are scored."""
    return transcripts

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
    return self.agent.score([e["golds"] for e in examples], self.spaced(completions))

  def measures(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]
               ) -> Mapping[str, np.ndarray]:
    """Returns float32 [N] of each measure of `tasks.search.agent.Agent`."""
    return self.agent.measures([e["golds"] for e in examples], self.spaced(completions))
