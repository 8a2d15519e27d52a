"""Win rates of the best or the worst of N answers, from one pool of answers of each model.

Contents: check, order_weights, win_rate, figures.

Convention: the N answers of a model are a random subset of its pool, so that a rate is the mean
over all pairs of subsets, without bias for draws of N. Ties count half.

Reference: Balashankar et al. 2024, arXiv:2412.19792 (InfAlign).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def check(num_samples: int, sizes: Sequence[int], where: str) -> None:
  """Raises ValueError for sizes N that a pool of `num_samples` answers does not have.

  Args:
    num_samples: answers of each model to a problem.
    sizes: the N.
    where: name of the config's key, for messages.
  """
  for size in sizes:
    if not 1 <= size <= num_samples:
      raise ValueError(f"{where} has N = {size}, of pools of {num_samples} answers; choose N from "
                       f"1 to {num_samples}, or draw more answers.")


def order_weights(num_samples: int, size: int) -> np.ndarray:
  """Probability that the answer of each rank, the least first, is the best of N; float64 [n]."""
  weight = [math.comb(rank, size - 1) for rank in range(num_samples)]
  return np.array(weight, np.float64) / math.comb(num_samples, size)


def win_rate(own: np.ndarray, other: np.ndarray, size: int, *, worst: bool = False) -> np.ndarray:
  """Probability that the best (or worst) of N answers exceeds that of another model, float64 [E].

  Args:
    own: float [E, n], rewards of answers of a model.
    other: float [E, m], rewards of answers of another.
    size: N, at most n and m.
    worst: whether the answer of the least reward of N counts.
  """
  own, other = np.sort(own, axis=1), np.sort(other, axis=1)
  weights = [order_weights(x.shape[1], size) for x in (own, other)]
  first, second = (w[::-1] for w in weights) if worst else weights
  above = (own[:, :, None] > other[:, None]) + 0.5 * (own[:, :, None] == other[:, None])
  return np.einsum("enm,n,m->e", above, first, second)


def figures(own: np.ndarray, other: np.ndarray, sizes: Sequence[int]) -> dict[str, float]:
  """Means over the problems: `win_rate`, and `best_of_N` and `worst_of_N` of every N above 1."""
  found = {"win_rate": float(win_rate(own, other, 1).mean())}
  for size in sizes:
    if size > 1:
      found[f"best_of_{size}"] = float(win_rate(own, other, size).mean())
      found[f"worst_of_{size}"] = float(win_rate(own, other, size, worst=True).mean())
  return found
