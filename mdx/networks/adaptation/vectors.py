"""A number for each output of a projection: a factor, or a bias.

Contents: IA3, BitFit.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx import types
from mdx.networks.adaptation import sites


def _as_row(vector, y):
  return jnp.expand_dims(vector.astype(y.dtype), tuple(range(y.ndim - 1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3(types.Adaptation):
  """Factors of outputs, which begin as 1; `out` parameters a projection (arXiv:2205.05638).

  Liu et al. put them on keys, values and the inner activations of the MLP; those are the outputs of
  `up` where the MLP is gated, and else what enters its activation.

  Attributes:
    targets: projections that have one.
  """
  targets: tuple[str, ...] = ("k", "v", "up")

  def leaves(self, shape, axes):
    """One factor an output."""
    ones = lambda key, shape, dtype: jnp.ones(shape, dtype)
    return {"factor": types.Leaf((shape[1],), ones, (axes[1],), decays=False)}

  def output(self, own, x, y):
    """The outputs times their factors."""
    return y * _as_row(own["factor"], y)

  def merged(self, own, kernel):
    """The columns times their factors."""
    return kernel * own["factor"].astype(kernel.dtype)[None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitFit(types.Adaptation):
  """Biases of projections that have none, which begin as 0; `out` parameters a projection.

  What BitFit (Ben Zaken et al. 2021, arXiv:2106.10199) trains of a network without biases. The
  biases that a network has are chosen by `optimizer.trainable=.*/bias`.

  Attributes:
    targets: projections that have one.
  """
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def leaves(self, shape, axes):
    """One bias an output."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return {"added": types.Leaf((shape[1],), zeros, (axes[1],), decays=False)}

  def output(self, own, x, y):
    """The outputs and their biases."""
    return y + _as_row(own["added"], y)

  def merged(self, own, kernel):
    """None: a kernel holds no bias."""
    raise ValueError("a bias cannot be merged into a kernel; export the run as it is.")
