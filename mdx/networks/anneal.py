"""Attention between causal and full, for models that learn to look ahead.

Contents: Annealed, future_draws.

Reference: Gong et al. 2025, arXiv:2410.17891 (DiffuLLaMA).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mdx.networks import attention as attention_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Annealed(attention_lib.Attention):
  """A position sees itself, what stands before it, and what a draw shows of what comes after.

  Attributes:
    inner: the attention value at the end; nothing is seen that it hides.
    shown: bool [S, S], whether a query (first axis) sees a key that comes after it.
  """
  inner: Any
  shown: jax.Array

  def sees(self, query, key, size):
    """Visibility by index, and by the draw."""
    allowed = (key.index <= query.index) | self.shown[query.index, key.index]
    rule = self.inner.sees(query, key, size)
    return allowed if rule is None else allowed & rule


def future_draws(key: jax.Array, rate: jax.Array, length: int) -> jax.Array:
  """bool [length, length]: each pair is shown with probability `rate`, one draw a batch."""
  return jax.random.uniform(key, (length, length)) < jnp.asarray(rate, jnp.float32)
