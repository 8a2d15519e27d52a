"""Prompts of a task of `mdx.tasks` with their answers.

Contents: Task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mdx import tasks
from mdx.data import source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(source.Source):
  """Prompts of a task with a reference answer each, for supervised training.

  Attributes:
    task: `name` and fields of a task of `mdx.tasks`.
  """

  layout = "answered"
  in_memory = True
  task: Mapping[str, Any]

  def __post_init__(self):
    if not hasattr(tasks.build(self.task), "training_pairs"):
      raise ValueError(f"task {self.task['name']!r} has no answers to train on.")

  def records(self, split: str) -> Sequence:
    """Returns {"prompt", "answer", "blank"} of "train" or "validation"."""
    source.is_validation(split)
    task = tasks.build(self.task)
    return tuple({"prompt": prompt, "answer": answer, "blank": task.blank}
                 for prompt, answer in task.training_pairs(split))
