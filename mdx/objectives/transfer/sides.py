"""The two texts of a row of layout "unlearning": what is to be forgotten, and what is to be kept.

Contents: SIDES, rows_of, check_fields, drawn, nll.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mdx import types
from mdx.objectives import draws

SIDES = ("forget", "retain")


def rows_of(batch: types.Batch, side: str) -> types.Batch:
  """Returns the rows of one side, [B, ...]; each side has an `example_index` of its own."""
  if side == "forget":
    found = {k: batch[k] for k in ("tokens", "loss_mask", "segment_ids", "positions")}
  else:
    is_real = batch["retain_segment_ids"] > 0
    found = {"tokens": batch["retain"], "loss_mask": batch["retain_loss_mask"],
             "segment_ids": batch["retain_segment_ids"],
             "positions": jnp.where(is_real, jnp.arange(is_real.shape[1])[None], 0)}
  return found | {"example_index": 2 * batch["example_index"] + SIDES.index(side)}


def check_fields(model: types.Objective, fields: Sequence[str]) -> None:
  """Raises ValueError for rows that are not of both texts."""
  model.check_fields(fields)
  if "generic" not in fields:
    raise ValueError("this objective reads a text to forget beside one to keep; use a data.source "
                     "of layout unlearning (unlearning, habits), with part \"\".")


def drawn(model: types.Objective, side: str, num_draws: int, params: types.Params,
          batch: types.Batch, key: jax.Array, context: types.Context) -> types.Batch:
  """Returns the draws of one side, {"SIDE/field": [B, n, ...]}; n = 1 of an exact likelihood."""
  scored = draws.scored_by(model)
  number = num_draws if model.bound("exact") is None else 1
  found = draws.of_rows(scored, number, params, rows_of(batch, side), key, context)
  return {f"{side}/{k}": v for k, v in found.items()}


def nll(model: types.Objective, side: str, params: types.Params, batch: Mapping[str, jax.Array],
        context: types.Context) -> jax.Array:
  """Returns the negative log-likelihood of each row of a side, float32 [B], the mean of draws."""
  own = {k.removeprefix(f"{side}/"): v for k, v in batch.items() if k.startswith(f"{side}/")}
  shape = own["tokens"].shape[:2]
  flat = {k: v.reshape((-1,) + v.shape[2:]) for k, v in own.items()}
  rows = draws.scored_by(model)(params, flat, context)[1].rows["nll"]
  return rows.reshape(shape).mean(axis=1)
