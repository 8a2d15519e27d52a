"""One-shot N:M masks of a kernel: by sizes, by Wanda, by SparseGPT.

Contents: METHODS, magnitude, wanda, sparse_gpt, InputMoments.

Convention: kernels are [in, out]; a group is m consecutive inputs of one output, of which n are
kept. `moments` [in, in] are the sum of x x^T over the inputs x that the kernel has read.

References: Sun et al. 2023, arXiv:2306.11695 (Wanda); Frantar & Alistarh 2023, arXiv:2301.00774
(SparseGPT).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.networks.adaptation import sites

METHODS = ("magnitude", "wanda", "sparsegpt")


def magnitude(kernel: jax.Array, n: int, m: int) -> jax.Array:
  """Marks the n largest weights of each group, bool [in, out]; the first ones of equal sizes.

  Args:
    kernel: [in, out], or other scores of the weights.
    n: kept of a group.
    m: size of a group; divides `in`.
  """
  groups = jnp.abs(kernel).reshape(-1, m, kernel.shape[1])
  ranks = jnp.argsort(jnp.argsort(-groups, axis=1), axis=1)
  return (ranks < n).reshape(kernel.shape)


def wanda(kernel: np.ndarray, moments: np.ndarray, n: int, m: int) -> np.ndarray:
  """Marks the n largest |w_ij| ||x_i|| of each group, bool [in, out]."""
  sizes = np.abs(kernel) * np.sqrt(np.diag(moments).clip(0))[:, None]
  return np.asarray(magnitude(jnp.asarray(sizes), n, m))


def sparse_gpt(kernel: np.ndarray, moments: np.ndarray, n: int, m: int, damping: float = 0.01
               ) -> tuple[np.ndarray, np.ndarray]:
  """Prunes input by input, each time letting the inputs behind it make up for what is lost.

  With L the lower triangle of the inverse of H = X^T X + damping mean(diag) I (its Cholesky factor,
  transposed), the score of a weight is (w_i / L_ii)^2, and a removed w_i moves those behind it by
  -(w_i / L_ii) L_i.

  Args:
    kernel: [in, out].
    moments: [in, in].
    n, m: as of `magnitude`.
    damping: share of the mean of the diagonal that is added to it.

  Returns:
    The mask, bool [in, out], and the kernel that goes with it, float64 [in, out], 0 where it is
    not kept.
  """
  weights, size = np.array(kernel, np.float64), len(kernel)
  hessian = np.array(moments, np.float64)
  is_dead = np.diag(hessian) <= 0  # an input that is always 0
  hessian[is_dead, is_dead], weights[is_dead] = 1, 0
  hessian += damping * np.diag(hessian).mean() * np.eye(size)
  factor = np.linalg.cholesky(np.linalg.inv(hessian)).T  # upper: inverse = factor^T factor
  mask = np.zeros(weights.shape, bool)
  for i in range(size):
    if i % m == 0:
      group = slice(i, i + m)
      scores = weights[group] / np.diag(factor)[group, None]
      mask[group] = np.asarray(magnitude(jnp.asarray(scores), n, m))
    lost = np.where(mask[i], 0, weights[i]) / factor[i, i]
    weights[i:] -= factor[i, i:, None] * lost[None]
  return mask, np.where(mask, weights, 0)


@jax.custom_vjp
def _watched(y, x, moments):
  del x, moments
  return y


def _forward(y, x, moments):
  del moments
  return y, x


def _backward(x, grad):
  rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  return grad, jnp.zeros_like(x), rows.T @ rows


_watched.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputMoments(types.Adaptation):
  """Changes nothing; the "gradient" of its leaf is the sum of x x^T over the inputs of a map.

  So moments come out of any loss, in scanned and rematerialised blocks alike.

  Attributes:
    targets: projections that are watched.
  """
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def leaves(self, shape, axes):
    """The moments of a projection."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return {"input_moments": types.Leaf((shape[0], shape[0]), zeros, (axes[0], None))}

  def output(self, own, x, y):
    """The plain output."""
    return _watched(y, x, own["input_moments"])
