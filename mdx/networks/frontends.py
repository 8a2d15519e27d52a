"""Entrances of the transformer for rows that are no tokens.

Contents: Subsampling, standardized.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types

_WINDOW = 3


def standardized(x: jax.Array) -> jax.Array:
  """Vectors [..., D] of mean 0 and variance 1, float32."""
  x = x.astype(jnp.float32)
  x = x - x.mean(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subsampling(types.Frontend):
  """Frames through 2-D convolutions over time and channels, then a linear map to the states.

  Each convolution has windows of 3 x 3, halves the channels and takes every `stride`-th frame.
  Padding is 0 before each, so that rows do not depend on it.

  Attributes:
    width: D of the states.
    num_inputs: channels of a frame.
    channels: maps of each convolution.
    strides: of the convolutions over time; (2, 2) = a quarter of the frames.

  Reference: Chung et al. 2021, arXiv:2108.06209.
  """
  width: int
  num_inputs: int
  channels: int = 32
  strides: tuple[int, ...] = (2, 2)

  def __post_init__(self):
    config_lib.check(self, "objective.frontend", at_least=dict(channels=1, num_inputs=1))
    if not self.strides or not all(isinstance(x, int) and x > 0 for x in self.strides):
      raise ValueError(f"objective.frontend.strides is {self.strides!r}; expected one positive "
                       "number a convolution, such as (2, 2).")

  @property
  def stride(self) -> int:
    """Frames of a state."""
    return math.prod(self.strides)

  @property
  def num_features(self) -> int:
    """E, entries of a feature vector."""
    size = self.num_inputs
    for _ in self.strides:
      size = -(-size // 2)
    return size * self.channels

  def part(self):
    """Kernels [3, 3, in, out] and biases of the convolutions, and the linear map."""

    def init(key):
      found, inputs = {}, 1
      for i, _ in enumerate(self.strides):
        shape = (_WINDOW, _WINDOW, inputs, self.channels)
        found[f"conv_{i}"] = _map(jax.random.fold_in(key, i), shape, 2.0)
        inputs = self.channels
      last = jax.random.fold_in(key, len(self.strides))
      return found | {"project": _map(last, (self.num_features, self.width), 1.0)}

    axes = lambda path, shape: (None, "embed") if path == "project/kernel" else (None,) * len(shape)
    return types.Part(init, axes, is_served=True, is_fresh=False)

  def is_real(self, batch: types.Batch) -> jax.Array:
    """Which states have a frame, bool [B, T]."""
    return batch["frame_mask"][:, ::self.stride]

  def features(self, params: types.PyTree, batch: types.Batch) -> jax.Array:
    """Standardised feature vectors float32 [B, T, E], 0 on padding."""
    x, is_real = batch["frames"][..., None], batch["frame_mask"]
    for i, stride in enumerate(self.strides):
      own = params[f"conv_{i}"]
      x = jnp.where(is_real[..., None, None], x, 0.0)
      x = jax.lax.conv_general_dilated(
          x, own["kernel"], (stride, 2), ((1, 1), (1, 1)),
          dimension_numbers=("NHWC", "HWIO", "NHWC"))
      x = jax.nn.relu(x + jnp.expand_dims(own["bias"], (0, 1, 2)))
      is_real = is_real[:, ::stride]
    x = standardized(x.reshape(*x.shape[:2], -1))
    return jnp.where(is_real[..., None], x, 0.0)

  def inputs(self, params: types.PyTree, batch: types.Batch, features: jax.Array) -> types.Inputs:
    """Inputs of a network, of feature vectors that may be corrupted."""
    own, is_real = params["project"], self.is_real(batch)
    states = features @ own["kernel"] + jnp.expand_dims(own["bias"], (0, 1))
    every = lambda name: batch[name][:, ::self.stride]
    return types.Inputs(None, every("positions") // self.stride,
                        jnp.where(is_real, every("segment_ids"), 0), states=states)

  def embed(self, params, batch):
    """Inputs of a network."""
    return self.inputs(params, batch, self.features(params, batch))


def _map(key, shape, gain):
  """A kernel with a variance of `gain` over its inputs, and a bias."""
  spread = math.sqrt(gain / math.prod(shape[:-1]))
  return {"kernel": spread * jax.random.normal(key, shape, jnp.float32),
          "bias": jnp.zeros(shape[-1], jnp.float32)}
