"""A new task whose gradient is dropped where it goes against what the model says already.

Contents: GradientDropout.

Reference: Zheng et al. 2023, arXiv:2307.15049 (R-AMT: gradient dropout regularity), there of image
classes; here of the targets of a model of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives import wrapping
from mdx.objectives.transfer import readings
from mdx.utils import tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientDropout(wrapping.About):
  """The loss of the model on new texts, gated by the model that the run starts from.

  The loss is that of `model`. Cross-entropy with the predictions of the frozen "reference" at the
  same targets is no part of it: its gradient says where that of the loss is dropped
  (`train.gating`).

  Attributes:
    model: the objective that the model was trained with, `ar` or `diffusion`.
    drop_share: l in [0, 1]; 0 drops nothing.
  """
  model: types.Objective
  drop_share: float = 1.0

  def __post_init__(self):
    config_lib.check(self, "objective", between=dict(drop_share="[0, 1]"))
    if type(self.model) not in readings.READINGS:
      raise ValueError(f"objective.model {type(self.model).__name__} has no targets that a frozen "
                       "model predicts, too; use ar or diffusion.")

  @classmethod
  def complete(cls, config, data):
    """The config; ValueError without a reference."""
    if "reference" not in (config.get("frozen") or {}):
      raise ValueError("this objective reads the frozen model 'reference'; set "
                       'config.frozen.reference = dict(checkpoint="init").')
    return config

  @property
  def scales(self) -> Mapping[str, float]:
    """The loss, and what gates it."""
    return {"task": 1.0} | ({"reference": 1.0} if self.drop_share else {})

  @property
  def gate(self):
    """The term that only gates, and the share of the gradient that it may drop; None of none."""
    return ("reference", self.drop_share) if self.drop_share else None

  def check_fields(self, fields):
    """Checks the fields as the model does."""
    self.model.check_fields(fields)

  def prepare(self, params, batch, key, context):
    """Draws as the model does; both terms have its weight."""
    batch, weights = self.model.prepare(params, batch, key, context)
    weight, = weights.values()
    return batch, dict.fromkeys(self.scales, weight)

  def __call__(self, params, batch, context):
    """Sums of both terms."""
    inputs, is_target, weight, level = readings.READINGS[type(self.model)].draw(self.model, batch)
    logits = lambda params: jax.nn.log_softmax(readings.logits(
        self.model, params, inputs, level, batch.get("segment_ids")))
    found = logits(params)
    wanted = jax.lax.stop_gradient(logits(tree.overlay(context.frozen["reference"], params)))
    own = -jnp.take_along_axis(found, batch["tokens"][..., None], axis=-1)[..., 0]
    soft = -(jnp.exp(wanted) * jnp.where(wanted > -jnp.inf, found, 0.0)).sum(axis=-1)
    over = lambda nats: jnp.where(is_target, weight * nats, 0.0).sum()
    totals = {"task": over(own)} | ({"reference": over(soft)} if self.drop_share else {})
    count = is_target.sum(dtype=jnp.float32)
    metrics = {"nats_per_token": (totals["task"], batch["loss_mask"].sum(dtype=jnp.float32)),
               "reference_kl": (jnp.where(is_target, soft - _entropy(wanted), 0.0).sum(), count)}
    return totals, types.Aux(metrics, {}, {})

  def bound(self, estimator):
    """The model's."""
    return self.model.bound(estimator)


def _entropy(log_probs: jax.Array) -> Any:
  return -(jnp.exp(log_probs) * jnp.where(log_probs > -jnp.inf, log_probs, 0.0)).sum(axis=-1)
