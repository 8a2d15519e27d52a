"""Prompts of a task of `mdx.tasks` with their answers, or with several turns.

Contents: Task, Trajectories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mdx import tasks
from mdx import types
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectories(source.Source):
  """Conversations in which the problems of a task are solved with its tool.

  The model's turns are targets; prompts and what the tool says are not.

  Attributes:
    task: `name` and fields of a task that has `trajectories`.
    stage: of its training, as the task names it.
  """

  layout = "chat"
  in_memory = True
  task: Mapping[str, Any]
  stage: str

  def __post_init__(self):
    if not isinstance(tasks.build(self.task), types.Solved):
      raise ValueError(f"task {self.task['name']!r} solves no problem itself (trajectories); give "
                       "conversations of a model in a file, data.source.name chat.")
    self.records("validation")

  def records(self, split: str) -> Sequence:
    """Returns {"messages"} of "train" or "validation"."""
    source.is_validation(split)
    return tuple({"messages": messages}
                 for messages in tasks.build(self.task).trajectories(split, self.stage))
