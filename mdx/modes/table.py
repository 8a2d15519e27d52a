"""Mode table: models x tasks x grid x seeds of fine-tuning runs, and how far they differ.

Contents: train, check, compare, table_text.

Convention: steps, data, grid and seeds are the same for every model by construction. For a model
and a task, the cell of the grid with the best mean of the first measure on validation counts; when
all choices are made they are written to `selection.json`, and only then is the test split read, by
the chosen runs alone. A table that is started again resumes.

The tests: of two models on a task, the paired bootstrap and permutation over the test units, the
mean over seeds being the figure; p values of all tasks and pairs are corrected by Holm. Over tasks:
Friedman, Nemenyi's critical difference of ranks, Wilcoxon. See `mdx.eval.significance`.

References: Agerri & Agirre 2023, "Lessons learned from the evaluation of Spanish language models"
(equal grids, choices on development data); Dodge et al. 2019, arXiv:1909.03004 (expected maximum).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mdx import config as config_lib
from mdx import objectives
from mdx.build import setup as setup_lib
from mdx.eval import measures
from mdx.eval import significance
from mdx.modes import claim
from mdx.modes import reporting
from mdx.utils import files
from mdx.utils import readers

_OF_MODELS = ("init", "network", "tokenizer", "objective", "dtype", "sharding")
_OF_OBJECTIVES = ("attention", "pooling")
_LEVEL = 0.05
Cell = dict[str, Any]


def check(config: Mapping[str, Any]) -> None:
  """Refuses a table that would not be fair, or cannot run; ValueError."""
  for name in ("models", "tasks", "seeds"):
    if not config[name]:
      raise ValueError(f"config.{name} is empty; a table needs one or more.")
  if len(set(config["seeds"])) != len(config["seeds"]):
    raise ValueError(f"config.seeds names one twice: {config['seeds']}.")
  if config["num_resamples"] < 100:
    raise ValueError(f"config.num_resamples must be 100 or more, got {config['num_resamples']}.")
  for name in (*config["models"], *config["tasks"]):
    files.check_name(name, "model or task")
  for model, changes in config["models"].items():
    wrong = [k for k in changes if k not in _OF_MODELS]
    wrong += [f"objective.{k}" for k in changes.get("objective", {}) if k not in _OF_OBJECTIVES]
    if wrong:
      raise ValueError(f"model {model!r} sets {wrong[0]}, which must be the same for every model; "
                       f"a model may set {', '.join(_OF_MODELS)} (of an objective "
                       f"{', '.join(_OF_OBJECTIVES)}).")
  for axis in config["grid"]:
    if set(axis) != {"key", "values"} or not axis["values"]:
      raise ValueError(f"a part of config.grid is dict(key=..., values=(...)), got {axis!r:.60}.")
  for model, task, cell in itertools.product(config["models"], config["tasks"], _cells(config)):
    _run(config, model, task, cell, config["seeds"][0])


def _cells(config) -> list[Cell]:
  """Key -> value of every cell of the grid."""
  keys = [axis["key"] for axis in config["grid"]]
  return [dict(zip(keys, values))
          for values in itertools.product(*(axis["values"] for axis in config["grid"]))]


def _name(cell: Cell) -> str:
  return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in cell.items()) or "single"


def _run(config, model, task, cell, seed) -> dict[str, Any]:
  """The config of one run; nothing of it depends on the model but the model."""
  run = copy.deepcopy(config["run"])
  claim.merge(run, config["tasks"][task])
  changes = copy.deepcopy(config["models"][model])
  fields = {f.name for f in dataclasses.fields(objectives.OBJECTIVES[run["objective"]["name"]])}
  reads = {k: v for k, v in changes.pop("objective", {}).items() if k in fields}
  claim.merge(run, changes | ({"objective": reads} if reads else {}))
  for key, value in cell.items():
    claim.set_key(run, key, value)
  run["seed"], run["eval"]["test"] = seed, False
  return run


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Runs what has not been run, chooses, tests and compares.

  Returns:
    Entries of `results.json`: `scores`, the test figures of every model and task; and
    those of `compare`. Every run is a line of `cells.jsonl`, the table is in `table.txt`.
  """
  config = config_lib.to_dict(config)
  check(config)
  root = pathlib.Path(workdir)
  _claim(config, root)
  table, lines, chosen = {}, [], {}
  for model, task in itertools.product(config["models"], config["tasks"]):
    scores = {}
    for cell in _cells(config):
      found = []
      for seed in config["seeds"]:
        run = _run(config, model, task, cell, seed)
        title = f"{model}, {task}, {_name(cell)}, seed {seed}"
        results = claim.run_once(run, _directory(root, model, task, cell, seed), root,
                                 title=title)
        found.append(results[run["eval"]["measures"][0]])
        lines.append(_line(model, task, cell, seed, run, results))
      scores[_name(cell)] = (statistics.mean(found), cell)
    best = max(scores, key=lambda name: scores[name][0])
    chosen[f"{model}/{task}"] = {"cell": scores[best][1], "validation": scores[best][0]}
    table[model, task] = {name: value for name, (value, _) in scores.items()}
  if jax.process_index() == 0:
    files.write_json(root / "selection.json", chosen)
    files.write_text(root / "cells.jsonl", "".join(json.dumps(x) + "\n" for x in lines))
  results = _results(config, root, table)
  claim.publish(root / "table.txt", results, table_text)
  return results


def _claim(config, root) -> None:
  """A workdir belongs to one table: a choice that was made stays."""
  file, own = root / "table.json", json.loads(json.dumps(config))
  is_begun = (root / "selection.json").exists() or any(root.glob("*/*/*/seed_*/results.json"))
  if file.exists() and is_begun:
    if readers.read_json(file) != own:
      raise ValueError(f"workdir {root} holds another table, whose choices are made; use another "
                       "--workdir, or remove it.")
  elif jax.process_index() == 0:
    files.write_json(file, own)


def _directory(root, model, task, cell, seed) -> pathlib.Path:
  return root / model / task / _name(cell) / f"seed_{seed}"


def _line(model, task, cell, seed, run, results) -> dict[str, Any]:
  """A run as a line: what it was, what validation said, what it cost; nothing of test."""
  costs = ("best_step", "steps", "seconds", "parameters", "matmul_flops")
  return {"model": model, "task": task, "cell": cell, "seed": seed,
          **{name: results[name] for name in run["eval"]["measures"]},
          **{name: results[name] for name in costs}}


def _test(config, root, model, task, seed) -> tuple[dict[str, float], np.ndarray]:
  """Test figures of a chosen run, and the statistics of its units; refused before the choice."""
  file = root / "selection.json"
  if not file.exists():
    raise ValueError(f"{file} is not there: the test split is read when all choices are made.")
  cell = readers.read_object(file, f"{model}/{task}")[f"{model}/{task}"]["cell"]
  run, directory = _run(config, model, task, cell, seed), _directory(root, model, task, cell, seed)
  base = readers.read_object(directory / "config.json", "config")["config"]
  run["init"]["checkpoint"] = base["init"]["checkpoint"]  # a base model that was trained for it
  figures = test_split(run, str(directory))
  predictions = measures.load(directory / "test_predictions.jsonl", base["objective"]["labels"])
  return figures, measures.units(run["eval"]["measures"][0], predictions)


def _results(config, root, validation) -> dict[str, Any]:
  """Results that are reported."""
  scores, units, tasks = {}, {}, {}
  for model, task in validation:
    run = _run(config, model, task, {}, 0)
    tasks[task] = run["eval"]["measures"]
    found = [_test(config, root, model, task, seed) for seed in config["seeds"]]
    units[model, task] = [x[1] for x in found]
    scores.setdefault(task, {})[model] = {
        name: _spread([x[0][f"test_{name}"] for x in found]) for name in tasks[task]} | {
            "validation": validation[model, task],
            "expected_maximum": significance.expected_maximum(
                list(validation[model, task].values())).tolist()}
  first = {task: names[0] for task, names in tasks.items()}
  return {"models": list(config["models"]), "tasks": first, "seeds": config["seeds"],
          "selection": readers.read_object(root / "selection.json"),
          "scores": scores, **compare(scores, units, first, config["num_resamples"])}


def _spread(values: Sequence[float]) -> dict[str, Any]:
  return {"values": list(values), "mean": statistics.mean(values),
          "spread": statistics.stdev(values) if len(values) > 1 else 0.0}


def compare(scores: Mapping[str, Any], units: Mapping[tuple[str, str], list[np.ndarray]],
            first: Mapping[str, str], num_resamples: int) -> dict[str, Any]:
  """Tests of all pairs of models.

  Args:
    scores: task -> model -> measure -> {"values", "mean"}.
    units: (model, task) -> statistics of the test units, one array a seed.
    first: task -> its measure.
    num_resamples: of bootstrap and permutation.

  Returns:
    `pairs`: of each task and pair the difference, its interval and p values; `over_tasks`: average
    ranks and tests; `flips`: share of (task, seed) whose best model is not that of the means.
  """
  tasks, pairs = list(scores), []
  models = list(scores[tasks[0]])
  for task, (left, right) in itertools.product(tasks, itertools.combinations(models, 2)):
    value = _mean_of_seeds(measures.MEASURES[first[task]].value, len(units[left, task]))
    a, b = (np.concatenate(units[model, task], axis=1) for model in (left, right))
    found = significance.paired_bootstrap(a, b, value, num_resamples=num_resamples)
    pairs.append({"task": task, "left": left, "right": right, **found._asdict(),
                  "p_permutation": significance.paired_permutation(
                      a, b, value, num_resamples=num_resamples)})
  for row, p in zip(pairs, significance.holm([row["p"] for row in pairs]) if pairs else ()):
    row["p_holm"] = float(p)
    row["verdict"] = "tie" if p >= _LEVEL else "win" if row["difference"] > 0 else "loss"
  means = np.array([[scores[t][m][first[t]]["mean"] for m in models] for t in tasks])
  of_seeds = np.array([[scores[t][m][first[t]]["values"] for m in models] for t in tasks])
  flips = np.argmax(of_seeds, axis=1) != np.argmax(means, axis=1)[:, None]
  over = significance.friedman(means) if len(models) > 1 else None
  wilcoxon = [{"left": a, "right": b, "p": significance.wilcoxon(
      means[:, models.index(a)], means[:, models.index(b)])}
              for a, b in itertools.combinations(models, 2)] if len(tasks) > 1 else []
  return {"pairs": pairs, "flips": float(flips.mean()), "over_tasks": None if over is None else {
      "average_ranks": dict(zip(models, over.average_ranks.tolist())),
      "friedman_p": None if np.isnan(over.p) else over.p,
      "critical_difference": over.critical_difference, "wilcoxon": wilcoxon}}


def _mean_of_seeds(value: Callable, num: int) -> Callable:
  """A measure of the statistics of several seeds side by side: the mean over them."""
  return lambda sums: np.mean([value(part) for part in np.split(sums, num, axis=-1)], axis=0)


def table_text(results: Mapping[str, Any]) -> str:
  """The table and its tests as plain text."""
  models, tasks = results["models"], results["tasks"]
  wide = max(map(len, models))
  lines = [f"test, mean +- spread over seeds {', '.join(map(str, results['seeds']))}; "
           "cell and step chosen on validation", ""]
  lines.append(" " * wide + "".join(f"{t + ' ' + m:>26}" for t, m in tasks.items()))
  for model in models:
    cells = [results["scores"][t][model][m] for t, m in tasks.items()]
    lines.append(f"{model:<{wide}}" + "".join(
        f"{100 * c['mean']:>17.2f} +- {100 * c['spread']:<5.2f}" for c in cells))
  lines.append("")
  for row in results["pairs"]:
    lines.append(f"{row['task']}: {row['left']} - {row['right']} = {100 * row['difference']:+.2f} "
                 f"({100 * row['low']:+.2f} to {100 * row['high']:+.2f}), p = {row['p']:.4f}, "
                 f"Holm {row['p_holm']:.4f}, permutation {row['p_permutation']:.4f}: "
                 f"{row['verdict']}")
  over = results["over_tasks"]
  if over:
    ranks = ", ".join(f"{m} {r:.2f}" for m, r in over["average_ranks"].items())
    lines.append(f"average ranks: {ranks}; critical difference {over['critical_difference']:.2f} "
                 "(Nemenyi)" + (f"; Friedman p = {over['friedman_p']:.3f}"
                                if over["friedman_p"] is not None else ""))
    lines += [f"over tasks: {row['left']} - {row['right']}, Wilcoxon p = {row['p']:.3f}"
              for row in over["wilcoxon"]]
  lines.append(f"one seed alone names another best model in {100 * results['flips']:.0f} % of the "
               "cases")
  return "\n".join(lines)


def test_split(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Figures of the test split by a finished run; read where they were found before.

  Raises:
    ValueError: the run is not finished.
  """
  path = pathlib.Path(workdir)
  results, file = path / "results.json", path / "test_results.json"
  if not results.exists():
    raise ValueError(f"{workdir} has no finished run; the test split is for the weights that were "
                     "chosen on validation.")
  if file.exists():
    return readers.read_object(file)
  config = config_lib.to_dict(config)
  run = setup_lib.setup({**config, "eval": {**config["eval"], "test": True}}, workdir)
  jax.set_mesh(run.mesh)
  return run.evaluation().members["labels"].test()
