"""Draws of a likelihood or of its bound, for losses that are functions of it.

Contents: scored_by, of_rows.

Convention: a bound is the mean over draws at times, one in each of as many strata of (0, 1], with
one mask each; an exact likelihood has one draw.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdx import types
from mdx.utils import rng


def scored_by(model: types.Objective) -> types.Objective:
  """Returns the objective of the likelihood of a model, or of its bound.

  Raises:
    ValueError: it has neither.
  """
  found = model.bound("exact") or model.bound("stratified")
  if found is None:
    raise ValueError(f"objective.model {type(model).__name__} has no likelihood; use a "
                     "diffusion or an autoregressive one.")
  return found


def of_rows(scored: types.Objective, num_draws: int, params: types.Params, rows: types.Batch,
            key: jax.Array, context: types.Context) -> dict[str, Any]:
  """Returns the prepared draws of rows, [N, num_draws, ...] each.

  Args:
    scored: of `scored_by`.
    num_draws: of each row.
    params: of the model; not differentiated.
    rows: [N, ...], with `example_index`.
    key: typed key [], consumed.
    context: of the step.
  """
  index = rows["example_index"]
  offset = 1 - jax.vmap(jax.random.uniform)(rng.per_example(rng.stream(key, "time"), index))

  def one(draw):
    timed = rows | {"time": (draw + offset) / num_draws}
    return scored.prepare(params, timed, rng.stream(key, "draw", draw), context)[0]

  return jax.vmap(one, out_axes=1)(jnp.arange(num_draws))
