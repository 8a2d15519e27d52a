"""Mode decoding: accuracy against network calls, of several rules of decoding on one figure.

Contents: Cell, cells, run.

Every rule has one field with several values, a knob that trades accuracy for calls. A cell of the
table is a rule at one value: an evaluation of mode eval, with a directory of its own, so that a run
that was cut short goes on where it stopped.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from mdx import config as config_lib
from mdx import samplers
from mdx.eval import rules as rules_lib
from mdx.modes import evaluate
from mdx.modes import reporting
from mdx.report import plots
from mdx.utils import console
from mdx.utils import files


class Cell(NamedTuple):
  """A rule at one value of its knob.

  Attributes:
    rule: its name in the config.
    knob, value: the field that varies.
    config: of an evaluation of mode eval.
  """
  rule: str
  knob: str
  value: Any
  config: dict[str, Any]


def cells(config: Mapping[str, Any]) -> list[Cell]:
  """The cells of a config.

  Raises:
    ValueError: a rule without a field of several values, or with more than one.
  """
  common = {k: v for k, v in config.items() if k != "rules"}
  return [Cell(rule, knob, value, common | {"mode": "eval", "sampler": sampler})
          for rule, knob, value, sampler in samplers.settings(config["rules"], config["sampler"])]


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Evaluates every rule at every value of its knob; draws accuracy against network calls.

  Returns:
    `rules`, a row a cell: rule, knob, value, nfe (the mean of a problem), accuracy, stderr,
    over_denoising (None with a cache), tokens_per_second, num_examples; also in `results.json`.
  """
  config = config_lib.to_dict(config)
  found = cells(config)
  model = evaluate.loaded([cell.config for cell in found], workdir)
  path, rows, task = pathlib.Path(workdir), [], {}
  for cell in found:
    console.say(f"=== {cell.rule}, {cell.knob} {cell.value}")
    results = evaluate.on_task(cell.config, path / cell.rule / f"{cell.knob}_{cell.value}", model)
    task = {k: v for k, v in results.items() if k == "task"}
    rows.append({"rule": cell.rule, "knob": cell.knob, "value": cell.value} | {
        k: results[k] for k in ("nfe", "accuracy", "stderr", "over_denoising",
                                "tokens_per_second", "num_examples")})
    jax.clear_caches()  # the program of a cell is not needed again
  results = {"rules": rows, "checkpoint": model.source} | task
  if jax.process_index() == 0:
    files.write_json(path / "results.json", results)
    plots.rules(rows, path / "decoding.png")
    console.say("\n" + rules_lib.table_text(rows))
  return results
