"""Several answers to each problem: pass@k, and the best of k by the model's own likelihood.

Contents: Repeated, check, pass_at_k, best_of_k, figures.

Convention: n answers are drawn for each problem, and k of them are a random subset: both figures
are expectations over the subsets, without bias for k draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Repeated(NamedTuple):
  """Answers to E problems, n of each.

  Attributes:
    correct: bool [E, n].
    log_prob: float32 [E, n], of the answers under the distributions that their tokens were drawn
      from.
  """
  correct: np.ndarray
  log_prob: np.ndarray


def check(num_samples: int, sizes: Sequence[int], temperature: float, where: str) -> None:
  """Raises ValueError for sizes k that n answers do not have, or answers that are all alike.

  Args:
    num_samples: n.
    sizes: the k.
    temperature: of the draws.
    where: name of the config's keys, for messages.
  """
  for size in sizes:
    if size > num_samples:
      raise ValueError(f"{where} has k = {size}, of {num_samples} answers to a problem; draw "
                       "more answers, or leave that k out.")
  if num_samples > 1 and temperature == 0:
    raise ValueError(f"{where}: {num_samples} answers to a problem at temperature 0 are all "
                     "alike; use a positive temperature, or one answer.")


def pass_at_k(correct: np.ndarray, size: int) -> np.ndarray:
  """Probability that one of k answers is right, 1 - C(n - c, k) / C(n, k); float64 [E].

  Args:
    correct: bool [E, n], of which c of a problem are right.
    size: k, at most n.

  Reference: Chen et al. 2021, arXiv:2107.03374.
  """
  number, right = correct.shape[1], correct.sum(axis=1)
  return np.array([1 - math.comb(number - int(c), size) / math.comb(number, size) for c in right])


def best_of_k(correct: np.ndarray, score: np.ndarray, size: int) -> np.ndarray:
  """Probability that the answer of k with the largest score is right, float64 [E].

  Answers of equal scores are equally likely to be taken.

  Args:
    correct: bool [E, n].
    score: float [E, n].
    size: k, at most n.
  """
  number = correct.shape[1]
  order = np.argsort(-score, axis=1, kind="stable")
  ranked = np.take_along_axis(correct, order, axis=1).astype(np.float64)
  sorted_score = np.take_along_axis(score, order, axis=1)
  # The answer of rank i is the best if it is drawn and those before it are not.
  weight = np.array([math.comb(number - 1 - i, size - 1) for i in range(number)], np.float64)
  weight /= math.comb(number, size)
  for row, values in zip(ranked, sorted_score):
    for value in np.unique(values):
      row[values == value] = row[values == value].mean()
  return ranked @ weight


def figures(answers: Repeated, sizes: Sequence[int]) -> list[dict[str, Any]]:
  """A row for every k: pass_at_k, best_of_k and the standard error of pass@k over the problems."""
  found = []
  for size in sizes:
    each = pass_at_k(answers.correct, size)
    spread = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    best = best_of_k(answers.correct, answers.log_prob, size)
    found.append({"k": size, "pass_at_k": float(each.mean()),
                  "stderr": spread / math.sqrt(len(each)), "best_of_k": float(best.mean()),
                  "num_samples": answers.correct.shape[1], "num_examples": len(each)})
  return found
