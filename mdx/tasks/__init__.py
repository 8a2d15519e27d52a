"""Tasks: problem sets with an exact checker, for RL and evaluation.

Contents: TASKS, build.

Convention: a task is a frozen dataclass with `examples(split)`, `prompt(example)`,
`score(examples, completions)` and `training_pairs(split)`; the splits are "train", "validation"
and "test". Sudoku and Countdown also say which `symbols` they are written with, one token each,
and how many (`prompt_length`, `answer_length`). An answer follows its prompt, unless the task has
`blank`, a text of one token: then it is the prompt with its blanks filled in. `noun`, `rules` and
`render` are for people (`types.Shown`). A name that ends in ".py" is a file with a task
(`tasks.own`).
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx import config as config_lib
from mdx import types
from mdx.tasks import countdown
from mdx.tasks import gsm8k
from mdx.tasks import math_task
from mdx.tasks import own
from mdx.tasks import relations
from mdx.tasks import search_task
from mdx.tasks import sudoku
from mdx.tasks import translation

TASKS = {"countdown": countdown.Countdown, "gsm8k": gsm8k.Gsm8k, "math": math_task.Math,
         "relations": relations.Relations, "search": search_task.Search, "sudoku": sudoku.Sudoku,
         "translation": translation.Translation}


def build(cfg: Mapping[str, Any]) -> types.Task:
  """Builds a task of `name`, or of the file of that name, and its fields; ValueError if it is none.
  """
  name = cfg.get("name")
  if isinstance(name, str) and name.endswith(".py"):
    return config_lib.construct(own.load(name), cfg, what="task")
  return config_lib.build(TASKS, cfg, what="task")
