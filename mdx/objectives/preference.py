"""Preference learning: the likelihood of a chosen answer against that of a rejected one.

Contents: Preference, pair_losses, check.

Convention: the score of an answer is its log-likelihood under the policy less that under the
reference, which reads the same draws. Where the model has a bound only, as in masked diffusion,
the bound stands for the likelihood (VRPO); otherwise it is plain DPO.

References: Rafailov et al. 2023, arXiv:2305.18290 (DPO); Zhu et al. 2025, arXiv:2505.19223 (VRPO,
LLaDA 1.5).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives import draws
from mdx.objectives import wrapping
from mdx.utils import tree


def check(owner: Any) -> None:
  """Raises ValueError for a `beta` without meaning."""
  if not owner.beta > 0:
    raise ValueError(f"objective.beta must be positive, got {owner.beta}.")


def pair_losses(scores: jax.Array, is_live: jax.Array, beta: float
                ) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
  """-log sigmoid(beta (s_chosen - s_rejected)) of each pair.

  Args:
    scores: float32 [P, 2], of the chosen and of the rejected answer, in nats.
    is_live: bool [P], pairs that count.
    beta: inverse strength of the tie to the reference.

  Returns:
    Losses, float32 [P], 0 where a pair does not count; and metrics: `margin`, beta times the
    difference, and `pair_accuracy`, the share of the pairs with a positive one.
  """
  margin = beta * (scores[:, 0] - scores[:, 1])
  number = is_live.sum(dtype=jnp.float32)
  live = lambda x: jnp.where(is_live, x, 0.0)
  right = (margin > 0) + 0.5 * (margin == 0)
  return live(-jax.nn.log_sigmoid(margin)), {
      "margin": (live(margin).sum(), number), "pair_accuracy": (live(right).sum(), number)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference(wrapping.About):
  """DPO of a model with a likelihood, or with a bound of it.

  Rows are pairs, of the layout "preferences". A bound is the mean over `num_draws` times, one in
  each of as many strata of (0, 1], with one mask each: at a given number of network calls, more
  times with fewer masks each have the smallest variance. The reference is
  `config.frozen["reference"]`, by default the weights that the run starts from.

  Attributes:
    model: the objective that the model was trained with.
    beta: inverse strength of the tie to the reference.
    num_draws: of a bound; an exact likelihood has one.
  """
  model: types.Objective
  beta: float = 0.2
  num_draws: int = 8

  evaluators = ("pairs",)

  def __post_init__(self):
    check(self)
    config_lib.check(self, "objective", at_least={"num_draws": 1})
    draws.scored_by(self.model)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"preference": 1.0}

  @property
  def scored(self) -> types.Objective:
    """The likelihood, or its bound."""
    return draws.scored_by(self.model)

  @property
  def draws(self) -> int:
    """Draws of an answer."""
    return self.num_draws if self.model.bound("exact") is None else 1

  def check_fields(self, fields):
    """Raises ValueError for rows that are no pairs."""
    self.model.check_fields(fields)
    if "other" not in fields:
      raise ValueError("objective preference reads pairs of answers; use a data.source of layout "
                       "preferences.")

  def prepare(self, params, batch, key, context):
    """Draws [B, 2 n, ...] of the chosen and of the rejected answers."""
    is_real = batch["other_segment_ids"] > 0
    other = {"tokens": batch["other"], "loss_mask": batch["other_loss_mask"],
             "segment_ids": batch["other_segment_ids"],
             "positions": jnp.where(is_real, jnp.arange(is_real.shape[1])[None], 0)}
    sides = {k: jnp.stack([batch[k], other[k]], axis=1).reshape((-1,) + batch[k].shape[1:])
             for k in other}
    index = (2 * batch["example_index"][:, None] + jnp.arange(2)[None]).reshape(-1)
    drawn = draws.of_rows(self.scored, self.draws, params, sides | {"example_index": index}, key,
                          context)
    drawn = {k: v.reshape((len(batch["tokens"]), -1) + v.shape[2:]) for k, v in drawn.items()}
    drawn["is_live"] = batch["loss_mask"].any(axis=1) & batch["other_loss_mask"].any(axis=1)
    return drawn, {"preference": drawn["is_live"].sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of the loss over the pairs."""
    rows = {k: v.reshape((-1,) + v.shape[2:]) for k, v in batch.items() if k != "is_live"}
    reference = tree.overlay(context.frozen["reference"], params)
    score = self._log_likelihood(params, rows, context) - jax.lax.stop_gradient(
        self._log_likelihood(reference, rows, context._replace(noise=None)))
    losses, metrics = pair_losses(score, batch["is_live"], self.beta)
    margin = self.beta * (score[:, 0] - score[:, 1])
    return {"preference": losses.sum()}, types.Aux(
        metrics, {"loss": losses, "margin": margin,
                  "is_live": batch["is_live"].astype(jnp.float32)}, {})

  def _log_likelihood(self, params, rows, context):
    """Of both answers of each pair, float32 [B, 2]: the mean over their draws."""
    nll = self.scored(params, rows, context)[1].rows["nll"]
    return -nll.reshape(-1, 2, self.draws).mean(axis=2)
