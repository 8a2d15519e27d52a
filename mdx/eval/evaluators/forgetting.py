"""Knowledge that a model still has of texts to forget, and of texts to keep.

Contents: Forgetting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.objectives.transfer import sides
from mdx.utils import processes


class Forgetting(types.Evaluator):
  """Nats per target of both sides of the validation split, of layout "unlearning".

  `forget_nats` and `retain_nats`, each with `_stderr`; `forget_probability`, the mean over the
  texts to forget of the geometric mean probability of their targets, as TOFU has it; and
  `forgotten`, 1 less that. Few texts that have become very unlikely make the mean nats large while
  others are known as before, so methods are compared at equal `forgotten`. Of a bound they are
  bounds.
  """

  has_curve = True
  curve = ("forgotten", *(f"{side}_nats" for side in sides.SIDES))
  from_start = True

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._config = parts, parts.config["eval"]

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for an estimator, or rows, that do not fit."""
    likelihood.check_estimator(config["eval"]["estimator"], objective)
    sides.check_fields(objective, pipeline.shapes(config["data"], 1))

  @functools.cache
  def _row_nll(self, num_samples: int) -> Callable:
    row_nll = likelihood.make_row_nll(
        self._parts.objective, estimator=self._config["estimator"], num_samples=num_samples,
        seed=self._parts.config["seed"])
    return processes.Jitted(lambda params, batch: {
        side: row_nll(params, sides.rows_of(batch, side)) for side in sides.SIDES})

  def __call__(self, params, frozen, *, quick):
    """Scores the first `eval.num_batches` batches, or the whole split."""
    del frozen
    parts, limit = self._parts, self._config["num_batches"] if quick else 0
    batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i < limit)
    results, _ = likelihood.run_batches(
        self._row_nll(self._config["num_samples" if quick else "final_samples"]), params, batches,
        mesh=parts.mesh)
    found = {}
    for side in sides.SIDES:
      nll, count = (np.concatenate([x[side][k] for x in results]).astype(np.float64)
                    for k in ("nll", "count"))
      nll, count = nll[count > 0], count[count > 0]
      if count.size:
        found[f"{side}_nats"], found[f"{side}_nats_stderr"] = likelihood.ratio(nll, count)
      if side == "forget" and count.size:
        found["forget_probability"] = float(np.exp(-nll / count).mean())
        found["forgotten"] = 1 - found["forget_probability"]
    return found

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return "\n".join(
        f"texts to {what:<11}{results[f'{side}_nats']:.3f} +- {results[f'{side}_nats_stderr']:.3f} "
        "nats per target" + (f", probability {results['forget_probability']:.4f}"
                             if side == "forget" else "")
        for side, what in (("forget", "forget"), ("retain", "keep"))
        if f"{side}_nats" in results)
