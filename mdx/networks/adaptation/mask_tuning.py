"""Mask tuning: which of the frozen weights are used, learned through a threshold.

Contents: MaskTuning.

Reference: Zheng et al. 2023, arXiv:2307.15049 (R-AMT), of the attention of an image encoder.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskTuning(types.Adaptation):
  """W * 1[m > threshold], of scores m that are trained; the gradient goes straight through.

  The merged kernel is the dense one with zeros. One parameter a weight in training, one bit after.

  Attributes:
    start: of all scores, above the threshold: at first every weight is used.
    threshold: see above.
    norm: factor of the sum of the norms ||m|| of the scores of each kernel, which the loss has.
    targets: projections that are masked.
  """
  start: float = 0.01
  threshold: float = 0.005
  norm: float = 1e-4
  targets: tuple[str, ...] = ("q", "k", "v", "o")
  has_upkeep: ClassVar[bool] = True

  def __post_init__(self):
    config_lib.check(self, "mask_tuning", at_least=dict(norm=0))
    if not self.start > self.threshold:
      raise ValueError(f"mask_tuning.start {self.start} is not above its threshold "
                       f"{self.threshold}, so that no weight would be used; raise it.")

  def leaves(self, shape, axes):
    """Scores."""
    start = lambda key, shape, dtype: jnp.full(shape, self.start, dtype)
    return {"mask_scores": types.Leaf(shape, start, axes, decays=False)}

  def kernel(self, own, kernel, noise):
    """The masked kernel."""
    scores = own["mask_scores"]
    used = (scores > self.threshold).astype(scores.dtype)
    return kernel * (scores + jax.lax.stop_gradient(used - scores)).astype(kernel.dtype)

  def merged(self, own, kernel):
    """The kernel with zeros."""
    return jnp.where(own["mask_scores"] > self.threshold, kernel, 0)

  def penalty(self, own, kernel):
    """The norms of the scores, [layers]."""
    return self.norm * jnp.sqrt(jnp.square(own["mask_scores"]).sum(axis=(1, 2)))
