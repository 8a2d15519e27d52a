"""GRPO of autoregressive models.

Contents: CausalGRPO.

Reference: Shao et al. 2024, arXiv:2402.03300.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import grpo


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalGRPO(grpo.DiffuGRPO):
  """GRPO of an autoregressive model: one reading of the answer gives its exact likelihood.

  The loss is the mean over all answer tokens up to the first end of text, as in DAPO
  (arXiv:2503.14476), or over rollouts of the means over their own tokens, as in the first GRPO; k3
  of the divergence from the base model is unbiased for the tokens drawn.

  Attributes:
    mean_over: "tokens" of all rollouts that are trained on, or "rollouts".
  """
  clip: float = 0.2
  mean_over: str = "tokens"
  prompt_mask_rate: float = dataclasses.field(init=False, repr=False, default=0.0)

  of_models: ClassVar[tuple[str, ...]] = ("causal",)

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(mean_over=("tokens", "rollouts")))

  def _token_weight(self, counts, kept):
    if self.mean_over == "tokens":
      return super()._token_weight(counts, kept)
    weight = counts / jnp.maximum(counts.sum(axis=1, keepdims=True), 1)
    return weight.astype(jnp.float32), kept.sum(dtype=jnp.float32)

  def _canvases(self, batch, final, key):
    """The answer itself: each token is read from those before it."""
    del batch, key
    return jnp.zeros(final.shape, bool)[:, None], jnp.ones(final.shape)[:, None]
