"""Mode claim: arms x seeds of ordinary runs, compared by a stated test.

Contents: run, check, merge, set_key, publish, run_once.

A claim's config has `run`, a config of mode train, rl or eval; `arms`, what each arm changes of it;
`seeds`; `grids`, values that an arm tries for one key, or tables of several keys, the best of
which counts (by `choose_by`, a figure whose largest value is the best; "-NAME": the smallest);
`comparisons` of two arms, see `eval.comparison`; `tuning_seeds`, on which grids are
tried, so that the runs which are compared had no part in the choice (without them grids are tried
on `seeds`). p values are corrected by Holm for the number of comparisons.
"""

from __future__ import annotations

import copy
import functools
import gc
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mdx import config as config_lib
from mdx import modes
from mdx.build import base as base_lib
from mdx.build import identity
from mdx.eval import comparison as comparison_lib
from mdx.modes import reporting
from mdx.report import plots
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers

Results = Mapping[str, Any]


def merge(config: dict[str, Any], changes: Mapping[str, Any], where: str = "config") -> None:
  """Changes a config in place; a table with a `name` of its own replaces the old one.

  Raises:
    ValueError: a key that the config does not have.
  """
  for key, value in changes.items():
    if key not in config and where == "config.frozen":  # its keys are names of models
      config[key] = copy.deepcopy(value)
      continue
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


def check(config: Mapping[str, Any]) -> list[comparison_lib.Comparison]:
  """Refuses a claim that cannot be tested, before anything runs; ValueError."""
  if len(set(config["seeds"])) < 3:
    raise ValueError(f"a claim needs 3 different seeds or more, got {config['seeds']}.")
  tuning = set(config.get("tuning_seeds", ()))
  if both := tuning & set(config["seeds"]):
    raise ValueError(f"config.tuning_seeds and seeds share {min(both)}; runs that are compared "
                     "have no part in the choice of the grids: use other seeds.")
  if config["run"]["mode"] not in ("train", "rl", "eval"):
    raise ValueError(f"config.run.mode is {config['run']['mode']!r}; a claim is about runs of "
                     "mode train, rl or eval.")
  for arm in config["arms"]:
    files.check_name(arm, "arm")
  for arm in config["grids"]:
    if arm not in config["arms"]:
      raise ValueError(f"config.grids has {arm!r}, which is no arm; arms are "
                       f"{', '.join(config['arms'])}.")
  comparisons = [comparison_lib.Comparison(**fields) for fields in config["comparisons"]]
  for comparison in comparisons:
    for arm in (comparison.left, comparison.right):
      if arm not in config["arms"]:
        raise ValueError(f"comparison {comparison.name!r} names the arm {arm!r}; arms are "
                         f"{', '.join(config['arms'])}.")
  for arm in config["arms"]:
    for _, changes in _grid(config, arm):
      _run_config(config, arm, changes, config["seeds"][0])
  return comparisons


def _grid(config, arm) -> list[tuple[str, dict[str, Any]]]:
  """Names and changes by dotted key of the values that an arm tries; one of neither without."""
  grid = config["grids"].get(arm)
  if not grid:
    return [("", {})]
  tables = [value if isinstance(value, Mapping) else {grid["key"]: value}
            for value in grid["values"]]
  text = lambda x: f"{x:g}" if isinstance(x, float) else str(x)
  return [("_".join(map(text, table.values())), dict(table)) for table in tables]


def _is_at_edge(tables: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> bool:
  """Whether the best of several tables has the least or the largest of 3 or more of a key."""
  axes = {key: sorted({table[key] for table in tables}) for key in best
          if all(isinstance(table.get(key), (int, float)) for table in tables)}
  return any(len(axis) > 2 and best[key] in (axis[0], axis[-1]) for key, axis in axes.items())


def _run_config(config, arm, changes, seed) -> dict[str, Any]:
  run = copy.deepcopy(config["run"])
  merge(run, config["arms"][arm])
  for key, value in changes.items():
    set_key(run, key, value)
  run["seed"] = seed
  base = run.get("init", {}).get("base")
  while base:  # and what it starts from itself
    base["seed"], base = seed, base.get("init", {}).get("base")
  for frozen in run.get("frozen", {}).values():
    if frozen.get("base"):
      frozen["base"]["seed"] = seed
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
  runs, chosen, picked = {}, {}, {}

  def tried(seeds, grids):
    # Arms take turns, so that a machine which is busy for a while is so for all of them.
    for seed in seeds:
      for arm, values in grids.items():
        for name, changes in values:
          runs[arm, name, seed] = _one(config, root, arm, name, changes, seed)

  grids = {arm: _grid(config, arm) for arm in config["arms"]}
  tuning = config.get("tuning_seeds") or config["seeds"]
  tried(tuning, grids if tuning == config["seeds"] else
        {arm: values for arm, values in grids.items() if len(values) > 1})
  for arm, values in grids.items():
    picked[arm] = values[0]
    if len(values) > 1:
      picked[arm], chosen[arm] = _choice(config, arm, values, runs, tuning)
  tried(config["seeds"], {arm: [value] for arm, value in picked.items()})
  found = {arm: [runs[arm, name, seed] for seed in config["seeds"]]
           for arm, (name, _) in picked.items()}
  rows = comparison_lib.corrected([comparison_lib.compare(c, found[c.left], found[c.right])
                                   for c in comparisons])
  results = {"statement": config["statement"], "seeds": config["seeds"],
             "tuning_seeds": list(tuning), "chosen": chosen,
             "arms": {arm: _figures(config, runs) for arm, runs in found.items()},
             "comparisons": rows}
  publish(root / "claim.txt", results, table_text)
  if jax.process_index() == 0:
    plots.effects([results], root / "claim.png")
  return results


def publish(path: pathlib.Path, results: Results, table: Callable[[Results], str]) -> None:
  """Writes results.json, and beside it the table at `path`, which is printed too."""
  if jax.process_index() == 0:
    files.write_json(path.with_name("results.json"), results)
    text = table(results)
    files.write_text(path, text + "\n")
    console.say("\n" + text)


def _choice(config, arm, values, runs, seeds):
  """The best of the values of a grid, and what was tried, for people."""
  measure = config["choose_by"]
  sign, figure = (-1, measure[1:]) if measure.startswith("-") else (1, measure)
  scores = {name: sign * statistics.mean(comparison_lib.measured(runs[arm, name, seed], figure)
                                         for seed in seeds) for name, _ in values}
  best = max(values, key=lambda value: scores[value[0]])
  single = lambda table: next(iter(table.values())) if len(table) == 1 else table
  return best, {"key": ", ".join(best[1]), "value": single(best[1]),
                "is_at_edge": _is_at_edge([table for _, table in values], best[1]), "tried": [
                    {"value": single(table), figure: sign * scores[name]}
                    for name, table in values]}


def _one(config, root, arm, name, changes, seed) -> Results:
  """Results of a run, which is made now if it has not been."""
  name = f"{arm}_{name}" if name else arm
  return run_once(_run_config(config, arm, changes, seed), root / name / f"seed_{seed}", root,
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
  for one in started.get("frozen", {}).values():
    if one.get("alone") and not one.get("checkpoint"):  # it is the same for every run
      one["checkpoint"] = base_lib.trained_alone(
          one["base"], str(_base_directory(root / "bases", one["base"])),
          functools.partial(modes.run, "train"))
      one.update(base=None, alone=False)
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
      values = [comparison_lib.measured(run, measure) for run in runs]
    except ValueError:
      continue
    found[measure] = {"values": values, "mean": statistics.mean(values),
                      "spread": statistics.stdev(values)}
  return found


def _short(value) -> str:
  if isinstance(value, Mapping):
    return "/".join(map(_short, value.values()))
  return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def table_text(results: Results) -> str:
  """The figures and verdicts as a table of plain text."""
  lines = [results["statement"], ""]
  for arm, choice in results["chosen"].items():
    tried = ", ".join(f"{_short(t['value'])}: " + " ".join(
        f"{v:.3f}" for k, v in t.items() if k != "value") for t in choice["tried"])
    edge = " (at the edge of its grid)" if choice.get("is_at_edge") else ""
    lines.append(f"{arm}: {choice['key']} = {_short(choice['value'])}{edge} is the best of {tried}")
  lines.append(f"\nmean +- spread over seeds {', '.join(map(str, results['seeds']))}")
  for arm, figures in results["arms"].items():
    for measure, figure in figures.items():
      lines.append(f"  {arm:<22} {measure:<34} {figure['mean']:10.5g} +- {figure['spread']:.2g}")
  lines.append("")
  for row in results["comparisons"]:
    compared = ("no finite difference" if row["difference"] is None else
                f"ratio {math.exp(row['difference']):.4g} *: {math.exp(row['spread']):.3g}"
                if row["ratio"] else f"difference {row['difference']:+.4g} +- {row['spread']:.2g}")
    if row.get("margin"):
      compared += f", margin {row['margin']:g}"
    tested = row["p_corrected"]
    p = "< 0.001" if tested < 0.001 else f"= {tested:.3f}"
    lines.append(f"{row['verdict'].upper()}: {row['name']}: {row['left_mean']:.5g} against "
                 f"{row['right_mean']:.5g}, {compared}, p {p}"
                 + (f" (at equal {row['equal']})" if row["equal"] else ""))
    if row.get("speedups"):
      lines.append("  times fewer updates to the other's best: "
                   + ", ".join(f"{r:.2f}" for r in row["speedups"]))
  is_censored = any("test" in row for row in results["comparisons"])
  lines.append(f"test: paired t over the seeds{', log-rank of censored times' * is_censored}, "
               f"two-sided, {comparison_lib.LEVEL:.0%}, p corrected by Holm")
  return "\n".join(lines)
