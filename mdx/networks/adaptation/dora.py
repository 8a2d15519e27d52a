"""Low-rank changes of the direction of each column of a kernel, with a size of their own.

Contents: DoRA.

Reference: Liu et al. 2024, arXiv:2402.09353; as in the paper no gradient goes through the size of
the changed kernel.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks.adaptation import lora


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoRA(lora.LoRA):
  """W' = m (W + s A B) / |W + s A B|, column by column; m begins as |W|.

  Trained are A, B and the change of m: rank (in + out) + out parameters a projection.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.reads_kernel:
      raise ValueError(f"dora.start is {self.start!r}, and the sizes are those of the whole "
                       "kernel; use zero, or lora with that start.")

  def leaves(self, shape, axes):
    """A and B of LoRA, and what is added to the sizes |W|."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return super().leaves(shape, axes) | {
        "lora_size": types.Leaf((shape[1],), zeros, (axes[1],), decays=False)}

  def kernel(self, own, kernel, noise):
    """The kernel with other directions and sizes, in its type."""
    del noise
    moved = super().merged(own, kernel).astype(jnp.float32)
    size = jnp.linalg.norm(kernel.astype(jnp.float32), axis=0) + own["lora_size"]
    found = moved * (size / jax.lax.stop_gradient(jnp.linalg.norm(moved, axis=0)))[None]
    return found.astype(kernel.dtype)

  def output(self, own, x, y):
    """The kernel's own output, which has the change already."""
    return y

  def merged(self, own, kernel):
    """The changed kernel."""
    return self.kernel(own, kernel, None)
