"""Fine-tuning runs: their evaluation, best-on-dev weights, and the test split.

Contents: Evaluator, results_text.

Convention: the weights of the best evaluation of the validation split count, by the first of
`eval.measures`. The test split is read at the end of a run with `eval.test`, or
by mode `table` when its choice is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mdx.data import pipeline
from mdx.eval import best as best_lib
from mdx.eval import measures
from mdx.eval.evaluators import scoring as probe
from mdx.utils import files


class Evaluator:
  """Labels the splits of a run with one compiled program, and keeps its best weights."""

  def __init__(self, run: Any):
    """Compiles nothing yet; of a run that is resumed, knows what was best."""
    self._run, self._scorer = run, jax.jit(probe.make_scorer(run.objective))
    self._best = best_lib.Best(run.workdir, run.config["eval"]["measures"][0],
                               run.meta)

  def predict(self, params: Any, split: str) -> tuple[measures.Predictions, dict[str, float]]:
    """Predictions and figures of a split."""
    run, data = self._run, self._run.config["data"]
    batches = pipeline.build(data, run.tokenizer, split=split,
                             batch_size=run.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    found, loss = probe.predict(self._scorer, params, batches,
                                pipeline.labelled_records(data, split), run.objective,
                                mesh=run.mesh)
    return found, loss | probe.figures(found, run.config["eval"]["measures"])

  def __call__(self, params: Any, num_batches: int = 0) -> dict[str, float]:
    """Figures of all of the validation split: those of a part would be other measures."""
    del num_batches
    return self.predict(params, "validation")[1]

  def offer(self, step: int, figures: dict[str, float], params: Any) -> None:
    """Keeps weights that are better; every process must call."""
    self._best.offer(step, figures, params)

  def finish(self) -> dict[str, float]:
    """Figures of the best weights, on validation and, with `eval.test`, on test."""
    params = self._best.load(self._run.shapes.params)
    predictions, figures = self.predict(params, "validation")
    if jax.process_index() == 0:
      predictions.save(self._run.workdir / "validation_predictions.jsonl")
    results = dict(figures, best_step=self._best.step)
    return results | (self.test() if self._run.config["eval"]["test"] else {})

  def test(self) -> dict[str, float]:
    """Figures of the best weights on test, `test_` before their names; written to the workdir."""
    predictions, figures = self.predict(self._best.load(self._run.shapes.params), "test")
    figures = {f"test_{name}": figures[name] for name in self._run.config["eval"]["measures"]}
    if jax.process_index() == 0:
      predictions.save(self._run.workdir / "test_predictions.jsonl")
      files.write_json(self._run.workdir / "test_results.json", figures)
    return figures


def results_text(results: Mapping[str, float]) -> str:
  """The figures of a run for the console."""
  shown = [name for name in measures.MEASURES if name in results]
  lines = [f"{'validation ' + name:<28}{results[name]:.4f}"
           + (f"   test {results[f'test_{name}']:.4f}" if f"test_{name}" in results else "")
           for name in shown]
  return "\n".join([*lines, f"best at step {results['best_step']}"])
