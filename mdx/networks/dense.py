"""The linear map of the transformer.

Contents: Dense.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mdx import sharding
from mdx.networks.adaptation import lora


class Dense(nn.Module):
  """A linear map whose matmuls are two-dimensional, forwards and backwards.

  XLA's CPU compiler copies the operands of a contraction over two axes, which
  doubled the time of the kernel's gradient. Positions that are sharded over
  the mesh stay an axis of their own. With `lora_rank` it has an adapter beside it, and with
  `is_int8` its kernel is that of `quantized`.
  """
  features: int
  use_bias: bool
  dtype: Any
  kernel_init: Any
  lora_rank: int = 0
  lora_scale: float = 1.0
  is_int8: bool = False

  @nn.compact
  def __call__(self, x):
    shape = (x.shape[-1], self.features)
    flat = x if sharding.positions_sharded() else x.reshape(-1, x.shape[-1])
    if self.is_int8:
      kernel = self.param("kernel_int8", nn.initializers.zeros, shape, jnp.int8)
      scale = self.param("kernel_scale", nn.initializers.ones, (1, self.features), jnp.float32)
      y = jnp.matmul(flat.astype(self.dtype), kernel.astype(self.dtype),
                     preferred_element_type=jnp.float32)
      y = (y * jnp.expand_dims(scale[0], tuple(range(y.ndim - 1)))).astype(self.dtype)
    else:
      kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
      y = jnp.matmul(flat.astype(self.dtype), kernel.astype(self.dtype))
    if self.lora_rank:
      a = self.param("lora_a", lora.init_a, (x.shape[-1], self.lora_rank), jnp.float32)
      b = self.param("lora_b", nn.initializers.zeros, (self.lora_rank, self.features), jnp.float32)
      low = jnp.matmul(flat.astype(self.dtype), a.astype(self.dtype))
      y = y + self.lora_scale * jnp.matmul(low, b.astype(self.dtype))
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))
    return y.reshape(x.shape[:-1] + (self.features,))
