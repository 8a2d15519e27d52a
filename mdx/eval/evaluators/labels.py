"""Fine-tuning runs: their evaluation, best-on-dev weights, and the test split.

Contents: Labels.

Convention: the weights of the best evaluation of the validation split count, by the first of
`eval.measures`. The test split is read at the end of a run with `eval.test`, or
by mode `table` when its choice is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mdx import types
from mdx.data import pipeline
from mdx.eval import best as best_lib
from mdx.eval import measures
from mdx.eval.evaluators import scoring
from mdx.utils import files


class Labels(types.Evaluator):
  """Labels the splits of a run with one compiled program."""

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._scorer = parts, jax.jit(scoring.make_scorer(parts.objective))
    self.best_by = parts.config["eval"]["measures"][0]

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for measures of another kind of labels."""
    measures.check(config["eval"], objective.kind)

  def predict(self, params: types.Params, split: str
              ) -> tuple[measures.Predictions, dict[str, float]]:
    """Predictions and figures of a split."""
    parts, data = self._parts, self._parts.config["data"]
    batches = pipeline.build(data, parts.tokenizer, split=split,
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    found, loss = scoring.predict(self._scorer, params, batches,
                                  pipeline.labelled_records(data, split), parts.objective,
                                  mesh=parts.mesh)
    return found, loss | scoring.figures(found, parts.config["eval"]["measures"])

  def __call__(self, params, frozen, *, quick):
    """Figures of all of the validation split: those of a part would be other measures.

    At the end predictions are written, and with `eval.test` those of the test split too.
    """
    del frozen
    predictions, figures = self.predict(params, "validation")
    if quick:
      return figures
    if jax.process_index() == 0:
      self._save(predictions, "validation")
    return figures | (self.test(params) if self._parts.config["eval"]["test"] else {})

  def test(self, params: types.Params | None = None) -> dict[str, float]:
    """Figures of a test split, `test_` before their names; written to the workdir.

    Args:
      params: weights; None = the best ones of the run.
    """
    parts = self._parts
    if params is None:
      params = best_lib.Best(parts.workdir, self.best_by, parts.meta).load(parts.shapes)
    predictions, figures = self.predict(params, "test")
    figures = {f"test_{name}": figures[name] for name in parts.config["eval"]["measures"]}
    if jax.process_index() == 0:
      self._save(predictions, "test")
      files.write_json(parts.workdir / "test_results.json", figures)
    return figures

  def _save(self, predictions: measures.Predictions, split: str) -> None:
    predictions.save(self._parts.workdir / f"{split}_predictions.jsonl",
                     pipeline.labelled_records(self._parts.config["data"], split))

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    lines = [f"{'validation ' + name:<28}{results[name]:.4f}"
             + (f"   test {results[f'test_{name}']:.4f}" if f"test_{name}" in results else "")
             for name in measures.MEASURES if name in results]
    return "\n".join([*lines, f"best at step {results['best_step']}"]
                     if "best_step" in results else lines)
