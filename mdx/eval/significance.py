"""Is one model better than another: resampling, tests across tasks, and corrections.

Contents: paired_bootstrap, paired_permutation, holm, hochberg, friedman, wilcoxon,
expected_maximum.

Convention: what is resampled are the units of `mdx.eval.measures`, the same for both models; the
randomness is numpy's, from a seed. p values are two-sided.

References: Efron & Tibshirani 1993 (bootstrap); Yeh 2000, C00-2137 (permutation for F1); Demšar
2006 (Wilcoxon, Friedman, Nemenyi over data sets); Dodge et al. 2019, arXiv:1909.03004 (the best of
a number of trials); Holm 1979; Hochberg 1988.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_CHUNK = 256  # resamples at a time


class Difference(NamedTuple):
  """Of a measure, left - right.

  Attributes:
    difference: on all units.
    low, high: its 95 % interval.
    p: of the bootstrap, twice the share of resamples on the other side of 0.
  """
  difference: float
  low: float
  high: float
  p: float


def _check(left: np.ndarray, right: np.ndarray) -> None:
  if left.shape[0] != right.shape[0] or left.ndim != 2:
    raise ValueError(f"the two models have {left.shape[0]} and {right.shape[0]} units; a paired "
                     "test needs the same ones.")


def paired_bootstrap(left: np.ndarray, right: np.ndarray, value: Callable, *,
                     num_resamples: int = 10_000, seed: int = 0) -> Difference:
  """Resamples the units, for both models alike.

  Args:
    left, right: float64 [units, K], statistics of the units.
    value: sums [..., K] -> [...].
    num_resamples: how many.
    seed: of the draws.
  """
  _check(left, right)
  draw, found = np.random.default_rng(seed), []
  for first in range(0, num_resamples, _CHUNK):
    size = min(_CHUNK, num_resamples - first)
    weights = draw.multinomial(len(left), np.full(len(left), 1 / len(left)), size=size)
    found.append(value(weights @ left) - value(weights @ right))
  found = np.concatenate(found)
  difference = float(value(left.sum(axis=0)) - value(right.sum(axis=0)))
  tail = min((found <= 0).mean(), (found >= 0).mean())
  low, high = np.quantile(found, (0.025, 0.975))
  # A resample is one more draw of what was observed: p is never 0.
  p = min(1.0, 2 * (tail * num_resamples + 1) / (num_resamples + 1))
  return Difference(difference, float(low), float(high), float(p))


def paired_permutation(left: np.ndarray, right: np.ndarray, value: Callable, *,
                       num_resamples: int = 10_000, seed: int = 0) -> float:
  """p of the difference when the models of each unit are exchanged at random.

  Arguments as of `paired_bootstrap`.
  """
  _check(left, right)
  draw = np.random.default_rng(seed)
  observed = abs(value(left.sum(axis=0)) - value(right.sum(axis=0)))
  total, apart, extreme = left.sum(axis=0) + right.sum(axis=0), left - right, 0
  for first in range(0, num_resamples, _CHUNK):
    size = min(_CHUNK, num_resamples - first)
    signs = draw.integers(0, 2, size=(size, len(left))) * 2.0 - 1
    shift = signs @ apart
    found = value((total + shift) / 2) - value((total - shift) / 2)
    extreme += int((np.abs(found) >= observed - 1e-12).sum())
  return (extreme + 1) / (num_resamples + 1)


def holm(p: Sequence[float]) -> np.ndarray:
  """p values corrected for their number (step down), in the order given."""
  p = np.asarray(p, np.float64)
  order = np.argsort(p, kind="stable")
  factors = len(p) - np.arange(len(p))
  corrected = np.empty(len(p))
  corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
  return corrected


def hochberg(p: Sequence[float]) -> np.ndarray:
  """p values corrected for their number (step up; for tests that depend positively)."""
  p = np.asarray(p, np.float64)
  order = np.argsort(p, kind="stable")[::-1]
  corrected = np.empty(len(p))
  corrected[order] = np.minimum(np.minimum.accumulate(p[order] * (1 + np.arange(len(p)))), 1.0)
  return corrected


class Friedman(NamedTuple):
  """Ranks of models over tasks.

  Attributes:
    average_ranks: float64 [models]; 1 is best, ties share theirs.
    p: that all models are alike; NaN with fewer than 3 models.
    critical_difference: of average ranks, by Nemenyi, at 5 %.
  """
  average_ranks: np.ndarray
  p: float
  critical_difference: float


def friedman(scores: np.ndarray) -> Friedman:
  """Compares models over tasks, [tasks, models]; larger is better."""
  scores = np.asarray(scores, np.float64)
  num_tasks, num_models = scores.shape
  ranks = stats.rankdata(-scores, axis=1).mean(axis=0)
  critical = stats.studentized_range.ppf(0.95, num_models, np.inf) / np.sqrt(2) * np.sqrt(
      num_models * (num_models + 1) / (6 * num_tasks))
  p = float("nan")
  if num_models > 2 and num_tasks > 1:
    is_tied = bool((scores == scores[:, :1]).all())  # on every task: the statistic is 0 / 0
    p = 1.0 if is_tied else float(stats.friedmanchisquare(*scores.T).pvalue)
  return Friedman(ranks, p, float(critical))


def wilcoxon(left: Sequence[float], right: Sequence[float]) -> float:
  """p of the signed ranks of the differences over tasks; 1 if there are none."""
  apart = np.asarray(left, np.float64) - np.asarray(right, np.float64)
  return 1.0 if not apart.any() else float(stats.wilcoxon(apart).pvalue)


def expected_maximum(values: Sequence[float]) -> np.ndarray:
  """Expected best of n trials drawn with replacement from `values`, for n = 1 .. len(values)."""
  ordered = np.sort(np.asarray(values, np.float64))
  share = np.arange(len(ordered) + 1) / len(ordered)
  trials = np.arange(1, len(ordered) + 1)[:, None]
  return (ordered * (share[None, 1:] ** trials - share[None, :-1] ** trials)).sum(axis=1)
