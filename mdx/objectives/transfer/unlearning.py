"""Unlearning by the likelihood of what is to be forgotten: gradient ascent, difference and NPO.

Contents: LOSSES, Unlearning.

Convention: of a text y to forget with log-likelihood l(y) (a bound, in masked diffusion) and n(y)
targets, in nats:

  ascent  l(y), per target: the gradient of training with the other sign
  npo     (2 / beta) log(1 + (p(y) / p_ref(y)) ** beta), per text: its gradient is that of ascent,
          weighted by 2 r / (1 + r) for r = (p / p_ref) ** beta, and fades as y is forgotten

Either stands beside `retain_scale` times the nats per target of texts to keep; ascent beside them
is the gradient difference.

References: Yao et al. 2023, arXiv:2310.10683 (gradient ascent); Liu et al. 2022, arXiv:2203.12817
(gradient difference); Zhang et al. 2024, arXiv:2404.05868 (NPO).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives import draws
from mdx.objectives import wrapping
from mdx.objectives.transfer import sides
from mdx.utils import rng
from mdx.utils import tree


class Loss(NamedTuple):
  """A loss of texts to forget.

  Attributes:
    of_rows: (log-likelihoods [B], those of the reference [B] or None, beta) -> [B].
    is_per_token: whether it is divided by the number of targets, or of texts.
    reads_reference: whether it needs the reference.
  """
  of_rows: Callable[[jax.Array, Any, float], jax.Array]
  is_per_token: bool
  reads_reference: bool


def _npo(score, reference, beta):
  return 2 / beta * jax.nn.softplus(beta * (score - reference))


LOSSES = {"ascent": Loss(lambda score, reference, beta: score, True, False),
          "npo": Loss(_npo, False, True)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlearning(wrapping.About):
  """A loss of texts to forget, and the likelihood of texts to keep.

  Rows are those of layout "unlearning". The reference of NPO is `config.frozen["reference"]`, by
  default the weights that the run starts from, which reads the same draws as the policy.

  Attributes:
    model: the objective that the model was trained with.
    loss: of LOSSES.
    beta: inverse strength of NPO's tie to the reference; ascent is its limit at 0.
    retain_scale: factor of the nats per target of the texts to keep; 0 leaves them out.
    num_draws: of a bound; an exact likelihood has one.
  """
  model: types.Objective
  loss: str = "npo"
  beta: float = 0.1
  retain_scale: float = 1.0
  num_draws: int = 4

  evaluators = ("forgetting",)

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(loss=LOSSES),
                     at_least=dict(num_draws=1, retain_scale=0))
    if not self.beta > 0:
      raise ValueError(f"objective.beta must be positive, got {self.beta}.")
    draws.scored_by(self.model)

  @classmethod
  def complete(cls, config, data):
    """The config; ValueError for a loss without its reference."""
    loss = config["objective"].get("loss", cls.loss)
    if loss in LOSSES and LOSSES[loss].reads_reference and "reference" not in (
        config.get("frozen") or {}):
      raise ValueError(f"objective.loss {loss} reads a reference; set config.frozen.reference = "
                       "dict(checkpoint=\"init\").")
    return config

  @property
  def scales(self) -> Mapping[str, float]:
    """The texts to forget, and those to keep where they count."""
    return {"forget": 1.0} | ({"retain": self.retain_scale} if self.retain_scale else {})

  def check_fields(self, fields):
    """Raises ValueError for rows without texts to forget and to keep."""
    sides.check_fields(self.model, fields)

  def prepare(self, params, batch, key, context):
    """Draws of both sides; weights count targets, or texts."""
    found, weights = {}, {}
    for side in self.scales:
      found |= sides.drawn(self.model, side, self.num_draws, params, batch,
                           rng.stream(key, side), context)
      mask = sides.rows_of(batch, side)["loss_mask"]
      found[f"{side}_count"] = mask.sum(axis=1, dtype=jnp.float32)
      counted = mask if side == "retain" or LOSSES[self.loss].is_per_token else mask.any(axis=1)
      weights[side] = counted.sum(dtype=jnp.float32)
    return found, weights

  def __call__(self, params, batch, context):
    """Sums of both terms over the rows."""
    totals, metrics, loss = {}, {}, LOSSES[self.loss]
    for side in self.scales:
      count = batch[f"{side}_count"]
      nats = sides.nll(self.model, side, params, batch, context)
      metrics[f"{side}_nats"] = (nats.sum(), count.sum())
      if side == "forget":
        reference = None
        if loss.reads_reference:
          frozen = tree.overlay(context.frozen["reference"], params)
          reference = -jax.lax.stop_gradient(sides.nll(
              self.model, side, frozen, batch, context._replace(noise=None)))
        nats = jnp.where(count > 0, loss.of_rows(-nats, reference, self.beta), 0.0)
      totals[side] = nats.sum()
    return totals, types.Aux(metrics, {}, {})

  def bound(self, estimator):
    """The model's, of the texts to forget."""
    return self.model.bound(estimator)
