"""The linear map of the transformer, and the parameters that adaptations put beside it.

Contents: own_leaves, Own, Dense.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdx import sharding
from mdx import types
from mdx.networks import noise as noise_lib
from mdx.networks.adaptation import sites


def own_leaves(module: nn.Module, adaptations: tuple[types.Adaptation, ...], site: sites.Site
               ) -> list[tuple[types.Adaptation, dict[str, jax.Array]]]:
  """Returns each adaptation of a site with its parameters by name, which the module holds."""
  return [(one, {name: module.param(name, leaf.init, leaf.shape, jnp.dtype(leaf.dtype))
                 for name, leaf in one.leaves(*site).items()}) for one in adaptations]


class Own(nn.Module):
  """Parameters of the adaptations of a site that has none of its own."""
  adaptations: tuple[types.Adaptation, ...]
  site: sites.Site

  @nn.compact
  def __call__(self):
    return own_leaves(self, self.adaptations, self.site)


class Dense(nn.Module):
  """A linear map whose matmuls are two-dimensional, forwards and backwards.

  XLA's CPU compiler copies the operands of a contraction over two axes, which doubled the time of
  the kernel's gradient. Positions that are sharded over the mesh stay an axis of their own.
  """
  features: int
  use_bias: bool
  dtype: Any
  kernel_init: Any
  adaptations: tuple[types.Adaptation, ...] = ()
  axes: tuple[str | None, ...] = (None, None)

  @nn.compact
  def __call__(self, x, noise=None):
    shape = (x.shape[-1], self.features)
    flat = x if sharding.positions_sharded() else x.reshape(-1, x.shape[-1])
    flat = flat.astype(self.dtype)
    is_replaced = any(one.replaces for one in self.adaptations)
    kernel = None if is_replaced else self.param("kernel", self.kernel_init, shape, jnp.float32)
    adapted = own_leaves(self, self.adaptations, sites.Site(shape, self.axes))
    for one, own in adapted:
      key = noise_lib.shared_key(noise, self.name) if one.has_noise else None
      kernel = one.kernel(own, kernel, key)
    y = jnp.matmul(flat, kernel.astype(self.dtype),
                   preferred_element_type=jnp.float32 if is_replaced else None)
    for one, own in adapted:
      y = one.output(own, flat, y)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))
    return y.reshape(x.shape[:-1] + (self.features,))
