"""Weights of one byte: int8 kernels with a factor for each column.

Contents: Int8, quantize, check.

Convention: the `kernel` [in, out] of a linear map becomes `kernel_int8`, and `kernel_scale`
[1, out] float32; kernel = kernel_int8 * kernel_scale to within half a step of `kernel_scale`.
Activations stay as they are (weight-only). Needs the extra `int8`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks.adaptation import sites


@functools.partial(jax.jit, donate_argnums=0)
def _quantize(kernel):
  import qwix  # pylint: disable=g-import-not-at-top  (an extra)
  axes = tuple(i for i in range(kernel.ndim) if i != kernel.ndim - 2)
  found = qwix.quantize(kernel.astype(jnp.float32), "int8", channelwise_axes=axes)
  return found.qvalue, found.scale


def quantize(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns `kernel_int8` and `kernel_scale` of a kernel [..., in, out], which is donated.

  Raises:
    ValueError: the extra `int8` is not installed.
  """
  check()
  return _quantize(kernel)


def check() -> None:
  """Raises ValueError if the extra `int8` is not installed."""
  if importlib.util.find_spec("qwix") is None:
    raise ValueError("int8 weights need the package qwix; pip install -e '.[int8]'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8(types.Adaptation):
  """Int8 kernels, for models that are loaded and whose kernels are not trained.

  Attributes:
    targets: projections that have one.
  """
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)
  replaces: ClassVar[str] = "kernel_int8"
  is_trained: ClassVar[bool] = False

  def leaves(self, shape, axes):
    """The integers, and a factor for each column."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    ones = lambda key, shape, dtype: jnp.ones(shape, dtype)
    return {"kernel_int8": types.Leaf(shape, zeros, axes, "int8", decays=False),
            "kernel_scale": types.Leaf((1, shape[1]), ones, (None, axes[1]), decays=False)}

  def replacing(self, kernel):
    """The nearest integers."""
    return dict(zip(("kernel_int8", "kernel_scale"), quantize(kernel)))

  def kernel(self, own, kernel, noise):
    """The integers."""
    return own["kernel_int8"]

  def output(self, own, x, y):
    """Product with the factors, in the type of x."""
    return (y * jnp.expand_dims(own["kernel_scale"][0], tuple(range(y.ndim - 1)))).astype(x.dtype)

  def merged(self, own, kernel):
    """Raises ValueError: the kernel that was rounded is no longer known."""
    raise ValueError("int8 weights are not exported; train the adapters without init.weights, or "
                     "export them alone (format peft).")
