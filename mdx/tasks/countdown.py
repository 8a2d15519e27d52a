r"""Countdown: combine numbers with + - * / to reach a target.

Contents: Countdown.

Convention: each given number is used exactly once. format "steps" writes one equation a step over
a small vocabulary, "12*5=60,60-3=57"; all results are positive integers. format "expression" is
text for a real model, with the answer in the last \boxed{} or <answer>, in any of the forms that
`surface.normal` knows; values are exact fractions.

Reference: He et al. 2025 (MDPO), arXiv:2508.13148, and Zhao et al. 2025 (d1), arXiv:2504.12216,
whose reward for the right numbers with a wrong value is `number_reward=0.1`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.tasks import parsing
from mdx.tasks import problems
from mdx.tasks import surface

FORMATS = ("steps", "expression")
_ROUND = 4096  # problems drawn at a time
_OPERATORS = "+-*/"
_STEP = re.compile(r"([1-9][0-9]{0,5})([-+*/])([1-9][0-9]{0,5})=([1-9][0-9]{0,5})")
_MAX_ANSWER_CHARS = 256
_NUMBERS, _RIGHT = 1, 2  # grades; 0 is wrong
_RESULT = re.compile(r"\s*-?[0-9]{1,9}(?:\.[0-9]{1,9})?\s*")
_TEXT = re.compile(r"\\(?:text|mathrm) ?\{([^{}]*)\}")
_TIMES = re.compile(r"(?<=[0-9)}]) ?[xX] ?(?=[0-9({\\])")
_BRACKETS = str.maketrans("[]", "()")
_PROMPT = ("Combine the numbers {numbers} with +, -, * and / to get {target}. Use each number "
           "exactly once; parentheses are allowed. Think step by step and put the expression in "
           "\\boxed{{}}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Countdown:
  """Countdown as a task.

  Problems are drawn by taking random steps from random numbers; the last result is the target.
  They are divided among the splits by (sorted numbers, target).

  Attributes:
    num_numbers: given numbers of a drawn problem, 2 to 6.
    min_number, max_number: range of the given numbers.
    max_value: no target or intermediate result of a drawn problem is larger; the vocabulary of
      format "steps" has the integers from 1 to here.
    format: "steps" or "expression".
    number_reward: reward of an answer that uses the right numbers for a wrong value.
    num_train, num_validation, num_test: number of problems (at most, if they are read).
    seed: of the drawing.
    path: .jsonl file instead of drawing: fields nums (or numbers) and target.
    test_path: file of the test split; "" takes it from `path`.
  """

  num_numbers: int = 3
  min_number: int = 1
  max_number: int = 20
  max_value: int = 100
  format: str = "steps"
  number_reward: float = 0.0
  num_train: int = 12000
  num_validation: int = 512
  num_test: int = 1024
  seed: int = 0
  path: str = ""
  test_path: str = ""

  blank: ClassVar[str] = ""
  noun: ClassVar[str] = "Countdown problems"
  rules: ClassVar[str] = ("An answer is right if it combines the given numbers, each used once, "
                          "with + - * / to the target.")

  def __post_init__(self):
    config_lib.check(self, "task", choices=dict(format=FORMATS),
                     between=dict(number_reward="[0, 1)"))
    problems.check_at_least(self, num_numbers=2, min_number=1, max_number=self.min_number,
                            max_value=self.max_number, num_train=0, num_validation=0, num_test=0,
                            seed=0)
    if self.num_numbers > 6 or self.max_value > 999_999:
      raise ValueError(f"Countdown takes at most 6 numbers and a max_value below a million, got "
                       f"{self.num_numbers} and {self.max_value}.")
    if self.path or self.test_path:
      problems.check_files(self, "{\"nums\": [3, 5, 7], \"target\": 56}")

  @property
  def symbols(self) -> tuple[str, ...]:
    """The vocabulary of format "steps": each integer, and + - * / = , >."""
    self._need_steps("symbols")
    return (*(str(n) for n in range(1, self.max_value + 1)), *_OPERATORS, "=", ",", ">")

  @property
  def prompt_length(self) -> int:
    """Symbols of a prompt in format "steps"."""
    self._need_steps("prompt_length")
    return 2 * self.num_numbers + 2

  @property
  def answer_length(self) -> int:
    """Symbols of an answer in format "steps"."""
    self._need_steps("answer_length")
    return 6 * (self.num_numbers - 1) - 1

  def _need_steps(self, name: str) -> None:
    if self.format != "steps":
      raise ValueError(f"Countdown has {name} for format=\"steps\" only; with format="
                       f"{self.format!r} use the tokenizer of the model.")

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "answers", "key", "numbers", "target"}]."""
    make = functools.partial(problems.read, self, self._read_file) if self.path else self._draw
    return problems.cached(self, split, make)

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text to complete."""
    return example["prompt"]

  def training_pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns (prompt, answer), one row for each solution that was drawn of a problem.

    Raises:
      ValueError: problems of a file, which have no solutions.
    """
    rows = [(e["prompt"], answer) for e in self.examples(split) for answer in e["answers"]]
    if not rows:
      raise ValueError(f"{self.path} gives no solutions to train on; leave out path to draw "
                       "problems with solutions.")
    return rows

  def score(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
    problems.same_length(examples, completions)
    extract, grade = _CHECKS[self.format]
    grades = np.array([grade(e["numbers"], e["target"], extract(c))
                       for e, c in zip(examples, completions)], int)
    reward = np.array([0, self.number_reward, 1], np.float32)[grades]
    return {"reward": reward, "correct": grades == _RIGHT}

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> types.Drawing | None:
    """Returns one equation a line; wrong are those that no right answer has in their place.

    An equation with masks in it is not judged; of one that follows such an equation it is not
    known which numbers are left.
    """
    if self.format != "steps":
      return None
    ends = [i + 1 for i, token in enumerate(tokens) if token == ","]
    lines = [tuple(range(a, b)) for a, b in zip([0, *ends], [*ends, len(tokens)])]
    pool: list[int] | None = list(example["numbers"])
    is_wrong = np.zeros(len(tokens), bool)
    for number, line in enumerate(lines):
      texts = [tokens[i] for i in line]
      if None in texts:
        pool = None
        continue
      step = "".join(texts).removesuffix(",")
      left = pool and _after(pool, step)
      is_last = number == len(example["numbers"]) - 2
      missed = is_last and not step.endswith(f"={example['target']}")
      is_wrong[list(line)] = not _is_true(step) or missed or (pool is not None and left is None)
      pool = left
    return types.Drawing(tuple(lines), is_wrong)

  def _draw(self, split: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng([self.seed, problems.SPLITS.index(split)])
    draws = problems.Draws(split, getattr(self, f"num_{split}"))
    while draws.missing():
      numbers = rng.integers(self.min_number, self.max_number + 1, (_ROUND, self.num_numbers))
      choices = rng.integers(0, 2**30, (_ROUND, self.num_numbers - 1, 3)).tolist()
      for row, choice in zip(np.sort(numbers, axis=1).tolist(), choices):
        drawn = _random_steps(row, choice, self.max_value)
        if drawn is None:
          continue
        target, steps, expression = drawn
        example = self._example(row, target)
        draws.offer(example["key"], example["key"], example)
        if (kept := draws.found.get(example["key"])) is not None:
          answer = steps if self.format == "steps" else f"\\boxed{{{expression}}}"
          if answer not in kept["answers"]:
            kept["answers"].append(answer)
    for example in draws.found.values():
      example["answer"] = example["answers"][0]
    return list(draws.found.values())

  def _example(self, numbers: list[int], target: int) -> dict[str, Any]:
    listed = ",".join(map(str, numbers))
    key = ",".join(map(str, sorted(numbers))) + f">{target}"
    prompt = (f"{listed}>{target}=" if self.format == "steps" else
              _PROMPT.format(numbers=listed.replace(",", ", "), target=target))
    return {"prompt": prompt, "answer": "", "answers": [], "key": key, "numbers": tuple(numbers),
            "target": target}

  def _read_file(self, path: str) -> list[dict[str, Any]]:
    examples = []
    for where, row in problems.read_rows(path):
      numbers = problems.field(where, row, "nums", "numbers", kind=list)
      target = problems.field(where, row, "target", kind=int)
      whole = [n for n in [*numbers, target] if type(n) is int and 0 < n < 10**9]
      if len(whole) < len(numbers) + 1 or not 2 <= len(numbers) <= 6:
        raise ValueError(f"{where}: expected 2 to 6 positive integers and a positive target, got "
                         f"{numbers!r:.60} and {target!r:.20}.")
      if self.format == "steps" and (max(whole) > self.max_value or
                                     len(numbers) != self.num_numbers):
        raise ValueError(f"{where}: format=\"steps\" needs {self.num_numbers} numbers and no value "
                         f"above max_value={self.max_value}, got {numbers} and {target}; set "
                         "num_numbers and max_value, or format=\"expression\".")
      examples.append(self._example(numbers, target))
    return examples


def _random_steps(numbers: list[int], choices: list[list[int]], max_value: int):
  """Combines two random values at a time; returns (target, steps, expression) or None.

  Args:
    numbers: given numbers.
    choices: one triple of random integers a step: which values, and which operator.
    max_value: bound of all results; None is returned where a step cannot keep to it.
  """
  pool = [(n, str(n)) for n in numbers]
  steps = []
  for first, second, which in choices:
    a, a_text = pool.pop(first % len(pool))
    b, b_text = pool.pop(second % len(pool))
    if a < b:
      a, a_text, b, b_text = b, b_text, a, a_text
    operator = _OPERATORS[which % 4]
    if operator == "+":
      value = a + b
    elif operator == "-":
      value = a - b
    elif operator == "*":
      value = a * b
    else:
      value = 0 if a % b else a // b
    if not 0 < value <= max_value:
      return None
    steps.append(f"{a}{operator}{b}={value}")
    pool.append((value, f"({a_text}{operator}{b_text})"))
  target, text = pool[0]
  return target, ",".join(steps), text[1:-1]


def _answer_in_steps(text: str) -> str:
  return text if len(text) <= _MAX_ANSWER_CHARS else ""


def _answer_in_text(text: str) -> str:
  r"""The last \boxed{} or <answer>, or the whole text, in ASCII."""
  answer = parsing.final_answer(text)
  answer = text if answer is None else answer
  if len(answer) > _MAX_ANSWER_CHARS:
    return ""
  answer = surface.normal(_TEXT.sub(r"\1", surface.normal(answer)))
  answer = answer.replace("\\{", "(").replace("\\}", ")").translate(_BRACKETS)
  return surface.ascii_formula(_TIMES.sub("*", answer))


def _is_true(step: str) -> bool:
  """Whether a step is an equation, and holds."""
  match = _STEP.fullmatch(step)
  if match is None:
    return False
  a, operator, b, value = int(match[1]), match[2], int(match[3]), int(match[4])
  return a == value * b if operator == "/" else parsing.apply(operator, a, b) == value


def _after(pool: Sequence[int], step: str) -> list[int] | None:
  """Numbers that are left after a step; None: it is no equation, or uses others."""
  match = _STEP.fullmatch(step)
  left = list(pool)
  if match is None:
    return None
  for used in (int(match[1]), int(match[3])):
    if used not in left:
      return None
    left.remove(used)
  return [*left, int(match[4])]


@functools.lru_cache(maxsize=2**15)
def _grade_steps(numbers: tuple[int, ...], target: int, answer: str) -> int:
  """Returns _RIGHT; _NUMBERS if the numbers are used as they should but a value is wrong; or 0."""
  steps = answer.split(",")
  if len(steps) != len(numbers) - 1:
    return 0
  pool: list[int] | None = list(numbers)
  for step in steps:
    pool = _after(pool, step)
    if pool is None:
      return 0
  return _RIGHT if all(map(_is_true, steps)) and pool == [target] else _NUMBERS


@functools.lru_cache(maxsize=2**15)
def _grade_expression(numbers: tuple[int, ...], target: int, answer: str) -> int:
  """Grades an expression like `_grade_steps`.

  Of an equation the sides that are single numbers do not count; the others must have one value,
  and one of them uses the numbers as it should.
  """
  sides = answer.split("=")
  parsed = [parsing.expression(side) for side in sides if not _RESULT.fullmatch(side)]
  if not parsed or None in parsed or len({found for found, _ in parsed}) > 1:
    return 0
  if all(sorted(used) != sorted(numbers) for _, used in parsed):
    return 0
  return _RIGHT if parsed[0][0] == target else _NUMBERS


_CHECKS = {"steps": (_answer_in_steps, _grade_steps),
           "expression": (_answer_in_text, _grade_expression)}
