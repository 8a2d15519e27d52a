"""Weights of one byte: int8 kernels with a factor for each column.

Contents: quantize, check, float_paths.

Convention: the `kernel` [in, out] of a linear map becomes `kernel_int8`, and `kernel_scale`
[1, out] float32, with the leading axis of layers that it has; kernel = kernel_int8 * kernel_scale
to within half a step of `kernel_scale`. Activations stay as they are (weight-only). Needs the
extra `int8`.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, donate_argnums=0)
def _quantize(kernel):
  import qwix  # pylint: disable=g-import-not-at-top  (an extra)
  axes = tuple(i for i in range(kernel.ndim) if i != kernel.ndim - 2)
  found = qwix.quantize(kernel.astype(jnp.float32), "int8", channelwise_axes=axes)
  return found.qvalue, found.scale


def quantize(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`kernel_int8` and `kernel_scale` of a kernel [..., in, out], which is given up.

  Raises:
    ValueError: the extra `int8` is not installed.
  """
  check()
  return _quantize(kernel)


def check() -> None:
  """Raises ValueError if the extra `int8` is not installed."""
  if importlib.util.find_spec("qwix") is None:
    raise ValueError("int8 weights need the package qwix; pip install -e '.[int8]'.")


def float_paths(leaves: dict[str, Any]) -> dict[str, Any]:
  """{path: shape struct} with each quantised kernel as the float32 `kernel` that it comes from."""
  found = {}
  for path, leaf in leaves.items():
    if path.endswith("/kernel_int8"):
      found[path.removesuffix("_int8")] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32,
                                                               sharding=leaf.sharding)
    elif not path.endswith("/kernel_scale"):
      found[path] = leaf
  return found
