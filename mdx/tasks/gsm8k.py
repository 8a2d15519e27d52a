r"""GSM8K: word problems whose answer is a number.

Contents: Gsm8k.

Convention: the answer of a completion is the number in its last \boxed{}, else in its last
<answer>, else its last number. Numbers are compared as values: 1,000 and $1000.00 are equal.

Reference: Cobbe et al. 2021, arXiv:2110.14168; prompts as in He et al. 2025, arXiv:2508.13148:
the problem, a newline, one sentence of instruction, no system role.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import types
from mdx.tasks import parsing
from mdx.tasks import problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gsm8k:
  """GSM8K as a task; the reward is 1 if the number is right.

  Attributes:
    path: .jsonl file (.xz and .gz too) with fields question and answer, which ends in "#### 42".
    test_path: file of the test split; "" takes it from `path`. Whether a problem of `path` is for
      training or validation depends on its text.
    instruction: sentence after the problem.
  """

  path: str
  test_path: str = ""
  instruction: str = problems.INSTRUCTION

  blank: ClassVar[str] = ""
  noun: ClassVar[str] = "GSM8K problems"
  rules: ClassVar[str] = "An answer is right if its last number has the value of the reference."

  def __post_init__(self):
    problems.check_files(self, "{\"question\": ..., \"answer\": \"... #### 42\"}")

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "key", "gold"}]; gold is the number as it stands."""
    return problems.cached(self, split, functools.partial(problems.read, self, self._read_file))

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text to complete."""
    return example["prompt"]

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> types.Drawing | None:
    """Returns None: an answer is running text."""
    del self, example, tokens

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, worked solution that ends in a boxed number)."""
    return [(e["prompt"], e["answer"]) for e in self.examples(split)]

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
    problems.same_length(examples, completions)
    correct = np.array([_is_right(e["gold"], c) for e, c in zip(examples, completions)], bool)
    return {"reward": correct.astype(np.float32), "correct": correct}

  def _read_file(self, path: str) -> list[dict[str, Any]]:
    examples, dropped = [], 0
    for where, row in problems.read_rows(path):
      question = problems.field(where, row, "question").strip()
      working, _, gold = problems.field(where, row, "answer").rpartition("####")
      gold = gold.strip()
      if not question or parsing.number(gold) is None:
        dropped += 1
        continue
      working = re.sub("<<[^<>]*>>", "", working).strip()  # notes for a calculator
      answer = f"{working}\nThe answer is \\boxed{{{gold}}}.".strip()
      examples.append({"prompt": f"{question}\n{self.instruction}", "answer": answer,
                       "key": " ".join(question.split()), "gold": gold})
    if dropped:
      warnings.warn(f"{path}: {dropped} problems dropped, whose answer does not end in a number; "
                    "correct them if they matter.", stacklevel=2)
    return examples


def _is_right(gold: str, completion: str) -> bool:
  answer = parsing.final_answer(completion)
  value = parsing.last_number(completion) if answer is None else parsing.number(answer)
  return value == parsing.number(gold)
