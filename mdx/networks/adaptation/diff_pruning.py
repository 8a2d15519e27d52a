"""Diff pruning: a sparse change of the weights, with gates whose number is penalised.

Contents: DiffPruning.

References: Guo et al. 2021, arXiv:2012.07463; Louizos et al. 2018, arXiv:1712.01312 (hard concrete
gates).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks.adaptation import sites


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffPruning(types.Adaptation):
  """W + z d, with a gate z in [0, 1] of every entry of the change d, which begins at zero.

  In training z = clip(l + (r - l) sigmoid(log u - log(1 - u) + a), 0, 1) with u uniform; otherwise
  sigmoid(a) stands for the draw, so that gates below -log(r / -l) close exactly. The loss has
  `penalty_scale` times the expected number of open gates, the sum of sigmoid(a - log(-l / r)). Two
  parameters a weight.

  Attributes:
    penalty_scale: factor of the number of open gates.
    low, high: l below 0 and r above 1, between which the draws are stretched.
    start: of all a.
    targets: projections that are changed.
  """
  penalty_scale: float = 1e-6
  low: float = -1.5
  high: float = 1.5
  start: float = 0.0
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)
  has_noise: ClassVar[bool] = True
  has_upkeep: ClassVar[bool] = True

  def __post_init__(self):
    config_lib.check(self, "diff_pruning", at_least=dict(penalty_scale=0))
    if not self.low < 0 < 1 < self.high:
      raise ValueError(f"diff_pruning.low {self.low} and high {self.high} must lie below 0 and "
                       "above 1, so that gates close and open exactly.")

  def leaves(self, shape, axes):
    """The change, and the logits of its gates."""
    fill = lambda value: lambda key, shape, dtype: jnp.full(shape, value, dtype)
    return {"diff": types.Leaf(shape, fill(0.0), axes),
            "gate_logits": types.Leaf(shape, fill(self.start), axes, decays=False)}

  def kernel(self, own, kernel, noise):
    """The changed kernel."""
    logits = own["gate_logits"]
    if noise is not None:
      logits = logits + jax.random.logistic(noise, logits.shape, logits.dtype)
    gates = jnp.clip(self.low + (self.high - self.low) * jax.nn.sigmoid(logits), 0.0, 1.0)
    return kernel + (gates * own["diff"]).astype(kernel.dtype)

  def penalty(self, own, kernel):
    """The expected number of open gates, [layers]."""
    shift = math.log(-self.low / self.high)
    return self.penalty_scale * jax.nn.sigmoid(own["gate_logits"] - shift).sum(axis=(1, 2))
