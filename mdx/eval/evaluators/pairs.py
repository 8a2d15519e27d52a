"""Held-out pairs of answers: how often the chosen one is preferred.

Contents: Pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.utils import processes
from mdx.utils import rng


class Pairs(types.Evaluator):
  """Loss, margin and accuracy of the pairs of the validation split.

  A pair is right if its margin is positive: the policy has raised the chosen answer over the
  rejected one, against the reference. A margin of 0 counts half.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts = parts

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Every pair has a margin."""

  @functools.cached_property
  def _rows(self) -> Callable:
    objective = self._parts.objective
    key = rng.stream(rng.root(self._parts.config["seed"]), "pairs")

    def rows(params, frozen, batch):
      context = types.context(likelihood.LAST_STEP, frozen)
      prepared, _ = objective.prepare(params, batch, key, context)
      return objective(params, prepared, context)[1].rows

    return processes.Jitted(rows)

  def __call__(self, params, frozen, *, quick):
    """Scores the first `eval.num_batches` batches, or the whole split."""
    parts = self._parts
    limit = parts.config["eval"]["num_batches"] if quick else 0
    batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i < limit)
    results, _ = likelihood.run_batches(lambda params, batch: self._rows(params, frozen, batch),
                                        params, batches, mesh=parts.mesh)
    column = lambda name: np.concatenate([x[name] for x in results]).astype(np.float64)
    is_live = column("is_live") > 0
    loss, margin = column("loss")[is_live], column("margin")[is_live]
    right, number = (margin > 0) + 0.5 * (margin == 0), len(margin)
    return {"pair_accuracy": float(right.mean()),
            "pair_accuracy_stderr": float(right.std(ddof=1) / math.sqrt(number))
            if number > 1 else math.inf,
            "pair_margin": float(margin.mean()), "pair_loss": float(loss.mean()),
            "num_pairs": float(number)}

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return (f"held-out pairs      {100 * results['pair_accuracy']:.1f} +- "
            f"{100 * results['pair_accuracy_stderr']:.1f} % right, loss "
            f"{results['pair_loss']:.4f}, margin {results['pair_margin']:.3f}")
