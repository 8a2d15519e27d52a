"""Fine-tuning runs: their evaluation, best-on-dev weights, and the test split.

Contents: predictor, keeper, finish, test, results_text.

Convention: the weights of the best evaluation of the validation split count, by the first of
`eval.measures`. The test split is read by `test` alone: at the end of a run with `eval.test`, or
by mode `table` when its choice is made.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mdx import config as config_lib
from mdx import setup as setup_lib
from mdx.data import pipeline
from mdx.eval import measures
from mdx.eval import probe
from mdx.train import best as best_lib


def predictor(run: setup_lib.Setup, split: str) -> Callable[[Any], tuple[Any, dict[str, float]]]:
  """Returns params -> predictions and figures of a split."""
  config, scorer = run.config, jax.jit(probe.make_scorer(run.objective))

  def predict(params):
    records = pipeline.labelled_records(config["data"], split)
    batches = pipeline.build(config["data"], run.tokenizer, split=split,
                             batch_size=config["batch_size"], seed=0, shuffle=False, repeat=False,
                             drop_remainder=False)
    found, loss = probe.predict(scorer, params, batches, records, run.objective, mesh=run.mesh)
    return found, loss | probe.figures(found, config["eval"]["measures"])

  return predict


def keeper(run: setup_lib.Setup) -> best_lib.Best:
  """What keeps the best weights of a run."""
  return best_lib.Best(run.workdir, run.config["eval"]["measures"][0],
                       setup_lib.meta(run.config, run.tokenizer))


def finish(run: setup_lib.Setup, best: best_lib.Best) -> dict[str, float]:
  """Figures of the best weights, on validation and, with `eval.test`, on test."""
  predictions, figures = predictor(run, "validation")(params := best.load(run.shapes.params))
  if jax.process_index() == 0:
    predictions.save(run.workdir / "validation_predictions.jsonl")
  results = dict(figures, best_step=best.step)
  if run.config["eval"]["test"]:
    results |= _test(run, params)
  return results


def test(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Figures of the test split by a finished run, `test_` before their names.

  They are written beside the run's results, with the predictions; done before, they are read.

  Raises:
    ValueError: the run is not finished.
  """
  path = pathlib.Path(workdir)
  results, file = path / "results.json", path / "test_results.json"
  if not results.exists():
    raise ValueError(f"{workdir} has no finished run; the test split is for the weights that were "
                     "chosen on validation.")
  if file.exists():
    return json.loads(file.read_text(encoding="utf-8"))
  config = config_lib.to_dict(config)
  run = setup_lib.setup({**config, "eval": {**config["eval"], "test": True}}, workdir)
  jax.set_mesh(run.mesh)
  return _test(run, keeper(run).load(run.shapes.params))


def _test(run: setup_lib.Setup, params: Any) -> dict[str, float]:
  predictions, figures = predictor(run, "test")(params)
  figures = {f"test_{name}": figures[name] for name in run.config["eval"]["measures"]}
  if jax.process_index() == 0:
    predictions.save(run.workdir / "test_predictions.jsonl")
    setup_lib.write_json(run.workdir / "test_results.json", figures)
  return figures


def results_text(results: Mapping[str, float]) -> str:
  """The figures of a run for the console."""
  shown = [name for name in measures.MEASURES if name in results]
  lines = [f"{'validation ' + name:<28}{results[name]:.4f}"
           + (f"   test {results[f'test_{name}']:.4f}" if f"test_{name}" in results else "")
           for name in shown]
  return "\n".join([*lines, f"best at step {results['best_step']}"])
