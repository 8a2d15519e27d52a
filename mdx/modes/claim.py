"""Mode claim: arms x seeds of ordinary runs, compared by a stated test.

Contents: run, check, Comparison, EQUAL, value_at, updates_to_reach, rising, verdict, merge,
set_key, publish, run_once.

A claim's config has `run`, a config of mode train, rl or eval; `arms`, what each arm changes of it;
`seeds`; `grids`, values that an arm tries for one key, the best of which counts; and
`comparisons` of two arms. A measure is a name of `results.json` ("bits_per_char"), or
"table:MODEL,REMASKING,NFE" of an RL run's table, or "first", "best" or "last" of its learning curve
(an RL run's accuracy, that of the probe of a training run, or of the next token), or "reach:X", the
updates after which the curve is at X (all of them if it never is).

The test is Student's paired t over the seeds, two-sided, at 5 %: *reproduced* if the difference
has the claimed sign and is significant, *not reproduced* if it is significant the other way,
*inconclusive* otherwise. Differences that are all equal are judged by their signs. With `ratio` the
differences are those of the logarithms.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import itertools
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from scipy import optimize
from scipy import stats

from mdx import config as config_lib
from mdx import modes
from mdx.build import base as base_lib
from mdx.build import identity
from mdx.modes import reporting
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers

EQUAL = ("", "updates", "rollouts", "nfe_rollout", "seconds", "cpu_seconds")
_LEVEL = 0.05
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
    equal: "" to compare the measures; or one of EQUAL: the accuracies of the learning curves at
      the most of it that both runs have spent.
    larger_is_better: the claimed sign.
    ratio: the test is on the logarithms, for positive measures that differ by a factor.
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
  speedup: bool = False

  def __post_init__(self):
    if self.equal not in EQUAL:
      raise ValueError(f"comparison {self.name!r}: equal is {self.equal!r}; choose from "
                       f"{', '.join(EQUAL[1:])}, or leave it empty.")

  def values(self, left: Results, right: Results) -> tuple[float, float]:
    """The two figures of a pair of runs."""
    if self.equal:
      spent = min(run["curve"][-1][self.equal] for run in (left, right))
      return value_at(left["curve"], self.equal, spent), value_at(right["curve"], self.equal, spent)
    return measured(left, self.measure), measured(right, self.right_measure or self.measure)


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
  if kind in ("first", "best", "last") and results.get("curve"):
    found = [point["accuracy"] for point in results["curve"]]
    return max(found) if kind == "best" else found[0 if kind == "first" else -1]
  if kind == "reach" and results.get("curve"):
    curve = results["curve"]
    return min(updates_to_reach(curve, float(rest)), float(curve[-1]["updates"]))
  if isinstance(results.get(measure), (int, float)):
    return float(results[measure])
  raise ValueError(f"a run has no measure {measure!r}; its results are "
                   f"{', '.join(sorted(results))}.")


def value_at(curve: Sequence[Results], axis: str, spent: float) -> float:
  """Accuracy of a learning curve where `axis` is `spent`, linear between its points."""
  before = [p for p in curve if p[axis] <= spent * (1 + 1e-9)]
  after = [p for p in curve if p[axis] > spent * (1 + 1e-9)]
  if not after:
    return before[-1]["accuracy"]
  low, high = before[-1], after[0]
  share = (spent - low[axis]) / (high[axis] - low[axis])
  return low["accuracy"] + share * (high["accuracy"] - low["accuracy"])


def updates_to_reach(curve: Sequence[Results], accuracy: float) -> float:
  """Updates after which a learning curve first has an accuracy; infinite if never."""
  for low, high in itertools.pairwise(curve):
    if low["accuracy"] >= accuracy:
      return float(low["updates"])
    if high["accuracy"] >= accuracy:
      share = (accuracy - low["accuracy"]) / (high["accuracy"] - low["accuracy"])
      return low["updates"] + share * (high["updates"] - low["updates"])
  return float(curve[-1]["updates"]) if curve[-1]["accuracy"] >= accuracy else math.inf


def rising(curve: Sequence[Results]) -> list[dict[str, Any]]:
  """The curve with the accuracies of the closest non-decreasing one, in least squares.

  If noise (or overfitting) makes it fall, neighbours have their mean; a curve that only rises
  stays as it is.
  """
  fitted = optimize.isotonic_regression([point["accuracy"] for point in curve]).x
  return [dict(point, accuracy=float(x)) for point, x in zip(curve, fitted)]


def verdict(differences: Sequence[float], larger_is_better: bool = True) -> dict[str, Any]:
  """The paired t test on differences left - right, one a seed.

  Differences that are equal for all seeds have no spread to compare with, which says nothing of
  other seeds; p is then that of their signs, 2 / 2^n for n seeds (0.25 for three). Without a
  difference, or with one that is not finite, p is 1.
  """
  if not all(map(math.isfinite, differences)):
    return {"difference": None, "spread": None, "p": 1.0, "verdict": "inconclusive"}
  mean, spread = statistics.mean(differences), statistics.stdev(differences)
  if spread > max(_ROUNDING * abs(mean), 1e-12):
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
  else:
    p = 1.0 if abs(mean) < 1e-12 else 2.0 ** (1 - len(differences))
  is_claimed = (mean > 0) == larger_is_better
  word = "inconclusive" if p >= _LEVEL else "reproduced" if is_claimed else "not reproduced"
  return {"difference": mean, "spread": spread, "p": p, "verdict": word}


def merge(config: dict[str, Any], changes: Mapping[str, Any], where: str = "config") -> None:
  """Changes a config in place; a table with a `name` of its own replaces the old one.

  Raises:
    ValueError: a key that the config does not have.
  """
  for key, value in changes.items():
    if key not in config:
      raise ValueError(f"an arm sets {where}.{key}, which its run does not have; its keys are "
                       f"{', '.join(sorted(config))}." + config_lib.did_you_mean(key, config))
    replaces = isinstance(value, Mapping) and "name" in value and (
        value["name"] != config[key].get("name"))
    if isinstance(value, Mapping) and isinstance(config[key], dict) and not replaces:
      if "name" in config[key]:  # fields of a component may be left at their defaults
        _fill(config[key], value)
      else:
        merge(config[key], value, f"{where}.{key}")
    else:
      config[key] = copy.deepcopy(value)


def _fill(component: dict[str, Any], fields: Mapping[str, Any]) -> None:
  """Sets fields of a component; a table of the same name (or none) keeps what it has."""
  for key, value in fields.items():
    old = component.get(key)
    if isinstance(value, Mapping) and isinstance(old, dict) and (
        value.get("name", old.get("name")) == old.get("name")):
      _fill(old, value)
    else:
      component[key] = copy.deepcopy(value)


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
  """Sets a dotted key."""
  for part in reversed(key.split(".")):
    value = {part: value}
  merge(config, value)


def check(config: Mapping[str, Any]) -> list[Comparison]:
  """Refuses a claim that cannot be tested, before anything runs; ValueError."""
  if len(set(config["seeds"])) < 3:
    raise ValueError(f"a claim needs 3 different seeds or more, got {config['seeds']}.")
  if config["run"]["mode"] not in ("train", "rl", "eval"):
    raise ValueError(f"config.run.mode is {config['run']['mode']!r}; a claim is about runs of "
                     "mode train, rl or eval.")
  for arm in config["arms"]:
    files.check_name(arm, "arm")
  for arm in config["grids"]:
    if arm not in config["arms"]:
      raise ValueError(f"config.grids has {arm!r}, which is no arm; arms are "
                       f"{', '.join(config['arms'])}.")
  comparisons = [Comparison(**fields) for fields in config["comparisons"]]
  for comparison in comparisons:
    for arm in (comparison.left, comparison.right):
      if arm not in config["arms"]:
        raise ValueError(f"comparison {comparison.name!r} names the arm {arm!r}; arms are "
                         f"{', '.join(config['arms'])}.")
  for arm in config["arms"]:
    for value in _grid(config, arm)[1]:
      _run_config(config, arm, value, config["seeds"][0])
  return comparisons


def _grid(config, arm) -> tuple[str, list]:
  """Key and values that an arm tries; one value None without a grid."""
  grid = config["grids"].get(arm)
  return (grid["key"], list(grid["values"])) if grid else ("", [None])


def _run_config(config, arm, value, seed) -> dict[str, Any]:
  run = copy.deepcopy(config["run"])
  merge(run, config["arms"][arm])
  if value is not None:
    set_key(run, _grid(config, arm)[0], value)
  run["seed"] = seed
  if run.get("init", {}).get("base"):
    run["init"]["base"]["seed"] = seed
  return run


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Runs every arm with every seed, each in a workdir of its own, and compares them.

  A run that is finished is not run again, so a claim that was stopped resumes.
  Base models are shared by the runs whose config of them is the same.

  Returns:
    Entries of `results.json`: `arms`, figures of every arm and seed; `chosen`, the
    values of the grids; `comparisons`, each with its verdict.
  """
  config = config_lib.to_dict(config)
  comparisons = check(config)
  root = pathlib.Path(workdir)
  runs = {}
  # Arms take turns, so that a machine which is busy for a while is so for all of them.
  for seed in config["seeds"]:
    for arm in config["arms"]:
      for value in _grid(config, arm)[1]:
        runs[arm, value, seed] = _one(config, root, arm, value, seed)
  found, chosen = {}, {}
  for arm in config["arms"]:
    key, values = _grid(config, arm)
    tried = {value: [runs[arm, value, seed] for seed in config["seeds"]] for value in values}
    scores = {value: statistics.mean(measured(r, config["choose_by"]) for r in runs)
              for value, runs in tried.items()} if key else {None: 0.0}
    best = max(scores, key=lambda value: scores[value])
    found[arm] = tried[best]
    if key:
      chosen[arm] = {"key": key, "value": best, "tried": [
          {"value": value, config["choose_by"]: score} for value, score in scores.items()]}
  results = {"statement": config["statement"], "seeds": config["seeds"], "chosen": chosen,
             "arms": {arm: _figures(config, runs) for arm, runs in found.items()},
             "comparisons": [_compare(c, found[c.left], found[c.right]) for c in comparisons]}
  publish(root / "claim.txt", results, table_text)
  return results


def publish(path: pathlib.Path, results: Results, table: Callable[[Results], str]) -> None:
  """Writes results.json, and beside it the table at `path`, which is printed too."""
  if jax.process_index() == 0:
    files.write_json(path.with_name("results.json"), results)
    text = table(results)
    files.write_text(path, text + "\n")
    console.say("\n" + text)


def _one(config, root, arm, value, seed) -> Results:
  """Results of a run, which is made now if it has not been."""
  name = arm if value is None else f"{arm}_{value:g}" if isinstance(value, float) else (
      f"{arm}_{value}")
  return run_once(_run_config(config, arm, value, seed), root / name / f"seed_{seed}", root,
                  title=f"{name}, seed {seed}")


def run_once(run: dict[str, Any], directory: pathlib.Path, root: pathlib.Path, *,
             title: str) -> Results:
  """Results of a run, which is made now if it has not been.

  Args:
    run: its config.
    directory: its workdir.
    root: where base models are, `bases/HASH` each.
    title: of the run, for people.

  Raises:
    ValueError: the directory has a run of another config.
  """
  finished = directory / "results.json"
  if finished.exists() and (directory / "claim_run.json").exists():
    made = readers.read_object(directory / "claim_run.json")
    if identity.run_hash(made) != identity.run_hash(run):
      raise ValueError(f"{directory} has a run of another config; remove it, or use another "
                       "--workdir.")
    return readers.read_object(finished)
  console.say(f"=== {title}")
  started = copy.deepcopy(run)
  if run.get("init", {}).get("base") and not run["init"]["checkpoint"]:
    base = _base_directory(root / "bases", run["init"]["base"])
    started["init"]["checkpoint"] = base_lib.base_checkpoint(
        run, str(base), functools.partial(modes.run, "train"))
  results = modes.run(run["mode"], started, str(directory))
  jax.clear_caches()  # hundreds of programs would be kept otherwise
  gc.collect()
  if jax.process_index() == 0:
    if not finished.exists():  # mode eval has a file of its own
      files.write_json(finished, results)
    files.write_json(directory / "claim_run.json", run)
  return json.loads(json.dumps(results))


def _base_directory(bases: pathlib.Path, base: dict[str, Any]) -> pathlib.Path:
  """Directory of a base model; one that release 0.1 began is continued."""
  first = bases / config_lib.first_hash(base)
  return first if first.exists() else bases / identity.run_hash(base)


def _figures(config, runs) -> dict[str, Any]:
  """Values, mean and spread of every measure that an arm's runs have."""
  found = {}
  for measure in config["measures"]:
    try:
      values = [measured(run, measure) for run in runs]
    except ValueError:
      continue
    found[measure] = {"values": values, "mean": statistics.mean(values),
                      "spread": statistics.stdev(values)}
  return found


def _compare(comparison, left, right) -> dict[str, Any]:
  pairs = [comparison.values(a, b) for a, b in zip(left, right)]
  row = dataclasses.asdict(comparison) | {
      "values": pairs, "left_mean": statistics.mean(p[0] for p in pairs),
      "right_mean": statistics.mean(p[1] for p in pairs)}
  difference = _log_ratio if comparison.ratio else (lambda a, b: a - b)
  row |= verdict([difference(a, b) for a, b in pairs], comparison.larger_is_better)
  if comparison.speedup:
    ratios = []
    for a, b in zip(left, right):
      own, other = rising(a["curve"]), rising(b["curve"])
      best = other[-1]["accuracy"]
      ratios.append(updates_to_reach(other, best) / max(updates_to_reach(own, best), 1e-9))
    row["speedups"] = ratios  # 0 where the left arm never reaches it
  return row


def _log_ratio(a: float, b: float) -> float:
  """log(a / b), nan unless both are positive."""
  return math.log(a) - math.log(b) if a > 0 and b > 0 else math.nan


def table_text(results: Results) -> str:
  """The figures and verdicts as a table of plain text."""
  lines = [results["statement"], ""]
  for arm, choice in results["chosen"].items():
    tried = ", ".join(f"{t['value']:g}: " + " ".join(
        f"{v:.3f}" for k, v in t.items() if k != "value") for t in choice["tried"])
    lines.append(f"{arm}: {choice['key']} = {choice['value']:g} is the best of {tried}")
  lines.append(f"\nmean +- spread over seeds {', '.join(map(str, results['seeds']))}")
  for arm, figures in results["arms"].items():
    for measure, figure in figures.items():
      lines.append(f"  {arm:<22} {measure:<34} {figure['mean']:10.5g} +- {figure['spread']:.2g}")
  lines.append("")
  for row in results["comparisons"]:
    compared = ("no finite difference" if row["difference"] is None else
                f"ratio {math.exp(row['difference']):.4g} *: {math.exp(row['spread']):.3g}"
                if row["ratio"] else f"difference {row['difference']:+.4g} +- {row['spread']:.2g}")
    p = "< 0.001" if row["p"] < 0.001 else f"= {row['p']:.3f}"
    lines.append(f"{row['verdict'].upper()}: {row['name']}: {row['left_mean']:.5g} against "
                 f"{row['right_mean']:.5g}, {compared}, p {p}"
                 + (f" (at equal {row['equal']})" if row["equal"] else ""))
    if row.get("speedups"):
      lines.append("  times fewer updates to the other's best: "
                   + ", ".join(f"{r:.2f}" for r in row["speedups"]))
  lines.append(f"test: paired t over the seeds, two-sided, {_LEVEL:.0%}")
  return "\n".join(lines)
