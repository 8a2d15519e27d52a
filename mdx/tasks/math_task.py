r"""MATH: competition problems whose answer is a formula.

Contents: Math.

Convention: the answer of a completion is its last \boxed{}, else its last <answer>; without
either it is wrong. Equality is exact where arithmetic decides it (`mdx.tasks.answers`, with the
rules for several answers), else symbolic (`mdx.tasks.algebra`), with the given answer first.

Reference: Hendrycks et al. 2021, arXiv:2103.03874; prompts as in He et al. 2025, arXiv:2508.13148.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.tasks import algebra
from mdx.tasks import parsing
from mdx.tasks import problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Math:
  r"""MATH as a task; the reward is 1 if the answer is equal to the given one.

  Needs the extra `math`. A problem whose given answer cannot be read is dropped, with a warning,
  since every completion of it would be wrong.

  Attributes:
    path: .jsonl file (.xz and .gz too) with fields problem and answer, or problem and solution,
      whose last \boxed{} is the answer then.
    test_path: file of the test split; "" takes it from `path`. Whether a problem of `path` is for
      training or validation depends on its text.
    instruction: sentence after the problem.
    time_limit: seconds of processor time for one comparison; an answer that takes more is wrong.
  """

  path: str
  test_path: str = ""
  instruction: str = problems.INSTRUCTION
  time_limit: float = 2.0

  blank: ClassVar[str] = ""
  noun: ClassVar[str] = "MATH problems"
  rules: ClassVar[str] = "An answer is right if its last formula is equal to the reference."

  def __post_init__(self):
    problems.check_files(self, "{\"problem\": ..., \"answer\": ...}")
    config_lib.check(self, "task", between=dict(time_limit="(0, inf)"))
    algebra.check_installed()

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "key", "gold"}]; gold is the given answer, LaTeX."""
    return problems.cached(self, split, self._read)

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text to complete."""
    return example["prompt"]

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> types.Drawing | None:
    """Returns None: an answer is running text."""
    del self, example, tokens

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, solution if the file has it, else the boxed answer)."""
    return [(e["prompt"], e["answer"]) for e in self.examples(split)]

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
    problems.same_length(examples, completions)
    answers = [parsing.final_answer(completion) or "" for completion in completions]
    correct = np.array(algebra.checker(self.time_limit).are_equal(
        [(e["gold"], answer) for e, answer in zip(examples, answers)]), bool)
    return {"reward": correct.astype(np.float32), "correct": correct}

  def _read(self, split: str) -> list[dict[str, Any]]:
    examples = problems.read(self, self._read_file, split)
    readable = algebra.checker(self.time_limit).are_readable([e["gold"] for e in examples])
    kept = [e for e, is_readable in zip(examples, readable) if is_readable]
    if len(kept) < len(examples):
      path = self.test_path if split == "test" and self.test_path else self.path
      warnings.warn(f"{path}: {len(examples) - len(kept)} of {len(examples)} problems of the "
                    f"{split} split dropped, whose answer is missing or cannot be read; correct "
                    "them if they matter.", stacklevel=2)
    return kept

  def _read_file(self, path: str) -> list[dict[str, Any]]:
    examples = []
    for where, row in problems.read_rows(path):
      row = {name: value for name, value in row.items() if value is not None}
      problem = problems.field(where, row, "problem").strip()
      solution = problems.field(where, row, "solution") if "solution" in row else ""
      gold = problems.field(where, row, "answer") if "answer" in row else None
      gold = parsing.last_boxed(solution) if gold is None else gold
      gold = (gold or "").strip()
      examples.append({"prompt": f"{problem}\n{self.instruction}",
                       "answer": solution.strip() or f"\\boxed{{{gold}}}",
                       "key": " ".join(problem.split()), "gold": gold})
    return examples
