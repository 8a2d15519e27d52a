"""Tasks as rows of tokens: the tokenizer and the lengths that a task needs.

Contents: Sizes, of_task, measured.

Convention: a task says so itself (`symbols`, `prompt_length`, `answer_length`), or is measured. A
row is a prompt and its answer, or the prompt alone where its blanks are filled in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import text as text_layout
from mdx.tasks import problems

_NUM_SCORED = 64  # answers of the training split that the checker must accept


class Sizes(NamedTuple):
  """Rows of a task.

  Attributes:
    tokenizer: as `data.tokenizer.build` takes it.
    prompt_length: most tokens of a prompt; 0 where it is filled in.
    answer_length: most tokens of an answer, or of the prompt that is filled in.
  """
  tokenizer: str
  prompt_length: int
  answer_length: int

  @property
  def length(self) -> int:
    """Tokens of a row."""
    return self.prompt_length + self.answer_length


def of_task(task: Any) -> Sizes:
  """Sizes that a task states; its problems are not read."""
  return Sizes("symbols:" + " ".join(task.symbols), task.prompt_length, task.answer_length)


def measured(task: Any) -> Sizes:
  """Sizes of a task, all of whose problems are read and checked.

  A task without `symbols` is written in its own characters, one token each.

  Raises:
    ValueError: a split without problems, a problem of two splits, no answers to train on, an answer
      that the checker refuses, or a text that is not written in the symbols or lengths stated.
  """
  name = type(task).__name__
  prompts = {split: _prompts(task, split, name) for split in problems.SPLITS}
  for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
    if shared := sorted(set(prompts[first]) & set(prompts[second])):
      raise ValueError(f"task {name}: the problem {shared[0]!r:.60} is in {first} and in {second}; "
                       "let the split depend on the problem alone (tasks.problems.split_of).")
  if not hasattr(task, "training_pairs"):
    raise ValueError(f"task {name} has no training_pairs(split), so that no base model can be "
                     "trained; add it, or give a model with configs/mdpo.py:llada_8b,task=FILE.")
  pairs = [pair for split in ("train", "validation") for pair in task.training_pairs(split)]
  _check_scores(task, name)
  texts = [x for one in prompts.values() for x in one] + [x for pair in pairs for x in pair]
  stated = hasattr(task, "symbols")
  spec = "symbols:" + " ".join(task.symbols) if stated else _alphabet(texts)
  try:
    lengths = _lengths(task.blank, prompts, pairs, tokenizer_lib.build(spec))
  except ValueError as error:
    raise ValueError(f"task {name}: {error} Correct the task, or its symbols.") from None
  found = Sizes(spec, *lengths)
  if not stated:
    return found
  for field in ("prompt_length", "answer_length"):
    if getattr(found, field) > getattr(task, field):
      raise ValueError(f"task {name}: {field} is {getattr(task, field)}, and the longest has "
                       f"{getattr(found, field)} tokens; raise it, or leave symbols out.")
  return of_task(task)


def _prompts(task: Any, split: str, name: str) -> list[str]:
  examples = task.examples(split)
  if not examples:
    raise ValueError(f"task {name}: the {split} split has no examples; expected one or more.")
  found = [task.prompt(example) for example in examples]
  wrong = [x for x in found if not isinstance(x, str) or not x]
  if wrong:
    raise ValueError(f"task {name}: a prompt is {wrong[0]!r:.60}; expected a text.")
  return found


def _check_scores(task: Any, name: str) -> None:
  """Raises ValueError unless the checker accepts the answers of training."""
  by_prompt = {task.prompt(example): example for example in task.examples("train")}
  pairs = [pair for pair in task.training_pairs("train") if pair[0] in by_prompt][:_NUM_SCORED]
  if not pairs:
    raise ValueError(f"task {name}: training_pairs('train') has no prompt of examples('train'); "
                     "expected (prompt, answer) pairs of them.")
  scores = task.score([by_prompt[prompt] for prompt, _ in pairs], [answer for _, answer in pairs])
  for key in ("reward", "correct"):
    if key not in scores or np.shape(scores[key]) != (len(pairs),):
      raise ValueError(f"task {name}: score must give {key!r} for each of {len(pairs)} answers, "
                       f"got {scores.get(key)!r:.60}.")
  wrong = np.flatnonzero(~np.asarray(scores["correct"], bool))
  if wrong.size:
    prompt, answer = pairs[wrong[0]]
    raise ValueError(f"task {name}: score calls the answer {answer!r:.60} of {prompt!r:.60} wrong, "
                     "on which the base model would be trained; correct one of them.")


def _alphabet(texts: Iterable[str]) -> str:
  """The smallest tokenizer that writes texts a character, or a byte, a token."""
  alphabet = set().union(*texts)
  if not any(character.isspace() for character in alphabet):
    return "symbols:" + " ".join(sorted(alphabet))
  return "char" if alphabet <= set(tokenizer_lib.PRINTABLE) else "byte"


def _lengths(blank: str, prompts: dict[str, list[str]], pairs: list[tuple[str, str]],
             tokenizer: tokenizer_lib.Tokenizer) -> tuple[int, int]:
  """Most tokens of a prompt and of an answer; ValueError for a text that cannot be written."""
  most = lambda texts: max(len(tokenizer.encode(text)) for text in dict.fromkeys(texts))
  before = most(x for one in prompts.values() for x in one)
  if not blank:
    return max(before, most(prompt for prompt, _ in pairs)), most(answer for _, answer in pairs)
  for prompt, answer in pairs:
    text_layout.encode_pair({"prompt": prompt, "answer": answer, "blank": blank}, tokenizer)
  return 0, before
