"""Comparisons of finished runs: figures of runs, learning curves, and the test over seeds.

Contents: EQUAL, Comparison, compare, measured, value_at, reach, updates_to_reach, rising, verdict,
corrected.

A measure is a name of `results.json` ("bits_per_char"), or one of these:
  "table:MODEL,REMASKING,NFE": accuracy, of an RL run's table;
  "first", "best" or "last" of the learning curve (an RL run's accuracy, that of the probe of a
    training run, or of the next token), or of its part "last@NFE" at a number of denoising steps;
  "area": the mean accuracy of the learning curve over its updates, by the trapezoidal rule;
  "rule:NAME@NFE": accuracy of a rule of decoding at a mean number of network calls, read off its
    cells (`eval.rules.front`);
  "reach:X": the updates after which the curve is at the accuracy X, or, for "reach:50%", has come
    so far from its first point towards 1; all of them if it never is; "@NFE" as above, and
    "reach:50%@6,seconds" is in another unit of the curve (updates, rollouts, nfe_rollout, seconds).

The test is Student's paired t over the seeds, two-sided, at 5 %: *reproduced* if the difference
has the claimed sign and is significant, *not reproduced* if it is significant the other way,
*inconclusive* otherwise, or *no signal* where the curves of both arms have not significantly left
their first points, those of untrained weights. p values are corrected by Holm for the comparisons
that are made together. Differences that are all equal are judged by their signs. With `ratio` the
differences are those of the logarithms; with a `margin` the left arm may be worse by so much. Times
until a level that some run does not reach are censored, and are compared by a log-rank test (Mantel
1966), which is not paired.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize
from scipy import stats

from mdx.eval import rules as rules_lib
from mdx.eval import significance

EQUAL = ("", "updates", "rollouts", "nfe_rollout", "seconds", "cpu_seconds", "kl", "forgotten",
         "forget_nats")
LEVEL = 0.05
NO_SIGNAL = "no signal"
_ROUNDING = 1e-6  # differences whose spread is below this share of their mean are equal
Results = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """`left` is claimed to be better than `right`.

  Attributes:
    name: the claim.
    left, right: names of arms.
    measure: of both, or of the left arm only if there is a `right_measure`.
    right_measure: of the right arm; "" = the same.
    equal: "" to compare the measures; or one of EQUAL: the accuracies of the learning curves (or
      another figure of their points, `measure`) at the most of it that both runs have spent.
    larger_is_better: the claimed sign.
    ratio: the test is on the logarithms, for positive measures that differ by a factor.
    margin: the claim is that left is worse by less than this (non-inferiority); 0: it is better.
    speedup: also say how many times fewer updates the left arm needs to reach the best accuracy
      of the right arm's learning curve, both read off the `rising` fits of the curves: the best of
      noisy points is too high, and more so the more points there are.
  """
  name: str
  left: str
  right: str
  measure: str = "last"
  right_measure: str = ""
  equal: str = ""
  larger_is_better: bool = True
  ratio: bool = False
  margin: float = 0.0
  speedup: bool = False

  def __post_init__(self):
    if self.equal not in EQUAL:
      raise ValueError(f"comparison {self.name!r}: equal is {self.equal!r}; choose from "
                       f"{', '.join(EQUAL[1:])}, or leave it empty.")
    if self.margin < 0:
      raise ValueError(f"comparison {self.name!r}: margin is {self.margin}; it is how much worse "
                       "the left arm may be, at least 0.")

  @property
  def is_of_curves(self) -> bool:
    """Whether the accuracies of learning curves are compared."""
    return bool(self.equal) and self.measure == "last" or self.measure in ("area", "best", "last")

  def values(self, left: Results, right: Results) -> tuple[float, float]:
    """The two figures of a pair of runs."""
    if self.equal:
      spent = min(run["curve"][-1][self.equal] for run in (left, right))
      figure = "accuracy" if self.measure == "last" else self.measure
      return (value_at(left["curve"], self.equal, spent, figure),
              value_at(right["curve"], self.equal, spent, figure))
    return measured(left, self.measure), measured(right, self.right_measure or self.measure)


def compare(comparison: Comparison, left: Sequence[Results], right: Sequence[Results]
            ) -> dict[str, Any]:
  """Entry of a comparison in `results.json`, before the correction of its p.

  Args:
    comparison: what is claimed.
    left, right: results of the arms' runs, of the same seeds.
  """
  pairs = [comparison.values(a, b) for a, b in zip(left, right)]
  row = dataclasses.asdict(comparison) | {
      "values": pairs, "left_mean": statistics.mean(p[0] for p in pairs),
      "right_mean": statistics.mean(p[1] for p in pairs)}
  difference = _log_ratio if comparison.ratio else (lambda a, b: a - b)
  row |= verdict([difference(a, b) for a, b in pairs], comparison.larger_is_better,
                 comparison.margin)
  ended = [[_is_censored(run, measure) for run in runs] for runs, measure in (
      (left, comparison.measure), (right, comparison.right_measure or comparison.measure))]
  if not (comparison.equal or comparison.margin) and any(map(any, ended)):
    row |= _log_rank(list(zip(*pairs)), ended, (row["difference"] or 0.0) > 0,
                     comparison.larger_is_better)
  if row["verdict"] == "inconclusive" and comparison.is_of_curves and not (
      _has_moved(left) or _has_moved(right)):
    row["verdict"] = NO_SIGNAL
  if comparison.speedup:
    row["speedups"] = [_speedup(a, b) for a, b in zip(left, right)]
  return row


def _log_ratio(a: float, b: float) -> float:
  """log(a / b), nan unless both are positive."""
  return math.log(a) - math.log(b) if a > 0 and b > 0 else math.nan


def _speedup(own: Results, other: Results) -> float:
  """Times fewer updates until the other's best; 0 where a run never reaches it."""
  curves = rising(other["curve"]), rising(own["curve"])
  spent = [updates_to_reach(curve, curves[0][-1]["accuracy"]) for curve in curves]
  return spent[0] / max(spent[1], 1e-9)


def _has_moved(runs: Sequence[Results]) -> bool:
  """Whether the curves of an arm have left their first points, or do not begin untrained."""
  if any(run["curve"][0]["updates"] for run in runs):
    return True
  moved = [run["curve"][-1]["accuracy"] - run["curve"][0]["accuracy"] for run in runs]
  return verdict(moved)["p"] < LEVEL


def _is_censored(results: Results, measure: str) -> bool:
  """Whether the run ended before it reached the level of a measure "reach:..."."""
  kind, _, rest = measure.partition(":")
  if kind != "reach":
    return False
  level, _, unit = rest.partition(",")
  curve = _curve_at(results["curve"], level.partition("@")[2])
  return math.isinf(_first_reach(curve, level.partition("@")[0], unit or "updates"))


def _log_rank(times: Sequence[Sequence[float]], ended: Sequence[Sequence[bool]], is_later: bool,
              larger_is_better: bool) -> dict[str, Any]:
  """p and verdict of times some of which are those of runs that ended first."""
  data = [stats.CensoredData(
      uncensored=[t for t, is_end in zip(arm, ends) if not is_end],
      right=[t for t, is_end in zip(arm, ends) if is_end]) for arm, ends in zip(times, ended)]
  p = float(stats.logrank(*data).pvalue) if not all(map(all, ended)) else 1.0
  return {"p": p, "test": "log-rank", "verdict": _word(p, is_later == larger_is_better)}


def measured(results: Results, measure: str) -> float:
  """A figure of a finished run.

  Raises:
    ValueError: the run has no such figure.
  """
  kind, _, rest = measure.partition(":")
  if kind == "table" and "table" in results:
    model, remasking, nfe = rest.split(",")
    for row in results["table"]:
      if (row["model"] == model or model == "trained" and row["model"] != "base") and (
          row["remasking"], row["nfe"]) == (remasking, int(nfe)):
        return row["accuracy"]
  if kind == "rule" and "rules" in results:
    rule, _, nfe = rest.partition("@")
    return rules_lib.front(results["rules"], rule, float(nfe))
  kind, _, steps = kind.partition("@")
  if kind in ("first", "best", "last") and results.get("curve"):
    found = [point["accuracy"] for point in _curve_at(results["curve"], steps)]
    return max(found) if kind == "best" else found[0 if kind == "first" else -1]
  if kind == "area" and results.get("curve"):
    updates, found = zip(*((point["updates"], point["accuracy"]) for point in results["curve"]))
    if len(found) > 1:
      return float(np.trapezoid(found, updates) / (updates[-1] - updates[0]))
  if kind == "reach" and results.get("curve"):
    rest, _, unit = rest.partition(",")
    level, _, steps = rest.partition("@")
    return reach(_curve_at(results["curve"], steps), level, unit or "updates")
  if isinstance(results.get(measure), (int, float)):
    return float(results[measure])
  raise ValueError(f"a run has no measure {measure!r}; its results are "
                   f"{', '.join(sorted(results))}.")


def _curve_at(curve: Sequence[Results], steps: str) -> list[Results]:
  """The learning curve at a number of denoising steps; "" = the one that it is of."""
  if not steps or curve[0].get("nfe") == int(steps):
    return list(curve)
  name = f"accuracy_{steps}_steps"
  if name not in curve[0]:
    raise ValueError(f"the learning curve has no points at {steps} denoising steps; set "
                     "eval.curve_nfe or eval.curve_also.")
  return [dict(point, accuracy=point[name]) for point in curve]


def reach(curve: Sequence[Results], level: str, unit: str = "updates") -> float:
  """Cost until a learning curve is first at a level; that of the whole curve if it never is.

  Args:
    curve: points with an accuracy and the unit.
    level: an accuracy "0.9", or a share "50%" of the way from the first point to 1.
    unit: "updates" or another axis of the curve.
  """
  return min(_first_reach(curve, level, unit), float(curve[-1][unit]))


def _first_reach(curve: Sequence[Results], level: str, unit: str) -> float:
  """`reach`, infinite if the curve never is at the level."""
  target = float(level.rstrip("%"))
  if level.endswith("%"):
    first = curve[0]["accuracy"]
    target = first + target / 100 * (1 - first)
  return updates_to_reach(curve, target, unit)


def value_at(curve: Sequence[Results], axis: str, spent: float,
             figure: str = "accuracy") -> float:
  """A figure of a learning curve where `axis` is first `spent`, linear between its points.

  Raises:
    ValueError: the points of the curve have no such figure.
  """
  if missing := {axis, figure} - set(curve[0]):
    raise ValueError(f"the learning curve has no {min(missing)}; its points have "
                     f"{', '.join(sorted(curve[0]))}.")
  for low, high in itertools.pairwise(curve):
    if low[axis] <= spent < high[axis]:
      share = (spent - low[axis]) / (high[axis] - low[axis])
      return low[figure] + share * (high[figure] - low[figure])
  return curve[-1][figure]


def updates_to_reach(curve: Sequence[Results], accuracy: float, unit: str = "updates") -> float:
  """Updates (or another unit) after which a curve first has an accuracy; infinite if never."""
  for low, high in itertools.pairwise(curve):
    if low["accuracy"] >= accuracy:
      return float(low[unit])
    if high["accuracy"] >= accuracy:
      share = (accuracy - low["accuracy"]) / (high["accuracy"] - low["accuracy"])
      return low[unit] + share * (high[unit] - low[unit])
  return float(curve[-1][unit]) if curve[-1]["accuracy"] >= accuracy else math.inf


def rising(curve: Sequence[Results]) -> list[dict[str, Any]]:
  """The curve with the accuracies of the closest non-decreasing one, in least squares.

  If noise (or overfitting) makes it fall, neighbours have their mean; a curve that only rises
  stays as it is.
  """
  fitted = optimize.isotonic_regression([point["accuracy"] for point in curve]).x
  return [dict(point, accuracy=float(x)) for point, x in zip(curve, fitted)]


def verdict(differences: Sequence[float], larger_is_better: bool = True,
            margin: float = 0.0) -> dict[str, Any]:
  """The paired t test on differences left - right, one a seed.

  Differences that are equal for all seeds have no spread to compare with, which says nothing of
  other seeds; p is then that of their signs, 2 / 2^n for n seeds (0.25 for three). Without a
  difference, or with one that is not finite, p is 1. With a margin the test is of the differences
  plus the margin: the left arm is not inferior if the 95 % interval of the difference lies above
  -margin.
  """
  if not all(map(math.isfinite, differences)):
    return {"difference": None, "spread": None, "interval": None, "p": 1.0,
            "verdict": "inconclusive"}
  shift = margin if larger_is_better else -margin
  mean, spread = statistics.mean(differences), statistics.stdev(differences)
  tested = [x + shift for x in differences]
  if spread > max(_ROUNDING * abs(mean), 1e-12):
    p = float(stats.ttest_1samp(tested, 0.0).pvalue)
  else:
    p = 1.0 if abs(mean + shift) < 1e-12 else 2.0 ** (1 - len(differences))
  is_claimed = (mean + shift > 0) == larger_is_better
  number = len(differences)
  half = float(stats.t.ppf(1 - LEVEL / 2, number - 1)) * spread / math.sqrt(number)
  return {"difference": mean, "spread": spread, "interval": (mean - half, mean + half), "p": p,
          "verdict": _word(p, is_claimed)}


def _word(p: float, is_claimed: bool) -> str:
  return "inconclusive" if p >= LEVEL else "reproduced" if is_claimed else "not reproduced"


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows with `p_corrected`, Holm's for their number, by which the verdicts are then made.

  Args:
    rows: of `verdict`, of comparisons that are claimed together.
  """
  found = significance.holm([row["p"] for row in rows])
  return [row | {"p_corrected": float(p), "verdict": row["verdict"] if (
      row["verdict"] == NO_SIGNAL) else _word(p, row["verdict"] != "not reproduced")}
          for row, p in zip(rows, found)]
