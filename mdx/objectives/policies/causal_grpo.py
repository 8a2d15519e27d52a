"""GRPO of autoregressive models.

Contents: CausalGRPO.

Reference: Shao et al. 2024, arXiv:2402.03300.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from mdx.objectives.policies import grpo


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalGRPO(grpo.DiffuGRPO):
  """GRPO of an autoregressive model: one reading of the answer gives its exact likelihood.

  The loss is the mean over all answer tokens up to the first end of text; k3 of the divergence from
  the base model is unbiased for the tokens drawn.
  """
  clip: float = 0.2
  prompt_mask_rate: float = dataclasses.field(init=False, repr=False, default=0.0)

  of_models: ClassVar[tuple[str, ...]] = ("causal",)

  def _canvases(self, batch, final, key):
    """The answer itself: each token is read from those before it."""
    del batch, key
    return jnp.zeros(final.shape, bool)[:, None], jnp.ones(final.shape)[:, None]
