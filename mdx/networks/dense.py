"""The linear map of the transformer.

Contents: Dense.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mdx import sharding


class Dense(nn.Module):
  """A linear map whose matmuls are two-dimensional, forwards and backwards.

  XLA's CPU compiler copies the operands of a contraction over two axes, which
  doubled the time of the kernel's gradient. Positions that are sharded over
  the mesh stay an axis of their own.
  """
  features: int
  use_bias: bool
  dtype: Any
  kernel_init: Any

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
    flat = x if sharding.positions_sharded() else x.reshape(-1, x.shape[-1])
    y = jnp.matmul(flat.astype(self.dtype), kernel.astype(self.dtype))
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))
    return y.reshape(x.shape[:-1] + (self.features,))
