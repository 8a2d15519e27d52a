"""Masks that a frozen model guides by its confidence (Ask2Mask).

Contents: Ask.

Reference: Baskar et al. 2022, arXiv:2202.12719. There high confidence is preferred and the start
of a span is drawn by it; that the masked share is matched exactly is a choice of mdx, so that modes
differ in what they mask alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import guided


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
  """Selection of positions by the confidence of a frozen model.

  Attributes:
    model: how the scorer is read.
    scorer: its name in `config.frozen`.
    temperature: of the confidences; 0 = the highest ones, inf = random positions.
    reverse: whether low confidence is preferred, as a control.
    weighted: whether the loss of a row is multiplied by its mean confidence over that of the batch.
  """
  model: Any = dataclasses.field(repr=False)
  scorer: str
  temperature: float = dataclasses.field(default=0.1, metadata={"takes_inf": True})
  reverse: bool = False
  weighted: bool = False

  def __post_init__(self):
    config_lib.check(self, "objective.ask", at_least=dict(temperature=0))

  @classmethod
  def build(cls, fields: Mapping[str, Any], frozen: Mapping[str, Any]) -> Ask:
    """Builds it; ValueError for a scorer that is none of the frozen models."""
    name = fields.get("scorer")
    if name not in frozen:
      raise ValueError(f"objective.ask.scorer is {name!r}, which is none of the frozen models "
                       f"({', '.join(frozen) or 'none'}); name it in config.frozen.")
    return config_lib.construct(cls, fields, what="objective.ask", model=frozen[name])

  def confidence(self, frozen: types.Params, batch: types.Batch) -> jax.Array:
    """Confidences float32 [B, T] of the scorer in uncorrupted rows."""
    return jax.lax.stop_gradient(self.model.confidence(frozen[self.scorer], batch))

  def select(self, keys: jax.Array, confidence: jax.Array, rate: float, span: int,
             allowed: jax.Array) -> jax.Array:
    """Selects a share `rate` of the allowed positions of each row, bool [B, T], by confidence.

    Args:
      keys: typed keys [B], consumed.
      confidence: float32 [B, T].
      rate: share; the number is rounded.
      span: positions of a span.
      allowed: bool [B, T].
    """
    if confidence.shape != allowed.shape:
      raise ValueError(f"the scorer of objective.ask has {confidence.shape[1]} positions a row, "
                       f"and the model {allowed.shape[1]}; give both the same frontend.strides.")
    count = jnp.round(rate * allowed.sum(axis=1)).astype(jnp.int32)
    scores = -confidence if self.reverse else confidence
    return guided.spans(keys, scores, count, span, self.temperature, allowed)

  def weights(self, confidence: jax.Array, allowed: jax.Array) -> jax.Array:
    """Weights of rows float32 [B], of mean 1 over rows with any position."""
    count = allowed.sum(axis=1)
    if not self.weighted:
      return jnp.ones(count.shape, jnp.float32)
    mean = jnp.where(allowed, confidence, 0.0).sum(axis=1) / jnp.maximum(count, 1)
    is_live = count > 0
    return jnp.where(is_live, mean, 0.0) * is_live.sum() / jnp.maximum(
        jnp.where(is_live, mean, 0.0).sum(), 1e-9)
