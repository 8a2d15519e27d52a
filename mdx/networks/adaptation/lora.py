"""Low-rank adapters of linear maps: y = x W + (alpha / rank) (x A) B.

Contents: LoRA, init_a, STARTS.

Convention: A is `lora_a` [in, rank], B is `lora_b` [rank, out], float32. A new adapter has B = 0
and changes nothing. A start that is taken from the kernel leaves it less the product, in its type,
so that the function stays; such adapters belong to the changed kernels of their run.

References: Hu et al. 2021, arXiv:2106.09685 (A is drawn as the authors' code does, U(-1/sqrt(in),
1/sqrt(in))); Zhang et al. 2023, arXiv:2308.03303 (LoRA-FA); Meng et al. 2024, arXiv:2404.02948
(PiSSA); Buyukakyuz 2024, arXiv:2406.01775 (OLoRA).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks.adaptation import sites


def init_a(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
  """Draws an A [..., in, rank]."""
  bound = shape[-2] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def _pissa(kernel: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
  """A and B, scale of whose product is the nearest of its rank to a kernel."""
  left, values, right = jnp.linalg.svd(kernel, full_matrices=False)
  root = jnp.sqrt(values[:rank] / scale)
  return left[:, :rank] * root[None], root[:, None] * right[:rank]


def _olora(kernel: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
  """A and B of the first columns and rows of the QR decomposition of the transposed kernel."""
  del scale
  orthogonal, triangular = jnp.linalg.qr(kernel.T)
  return triangular[:rank].T, orthogonal[:, :rank].T


STARTS = {"zero": None, "pissa": _pissa, "olora": _olora}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(types.Adaptation):
  """A low-rank product beside each kernel.

  Attributes:
    rank: columns of A.
    alpha: the factor of the product is alpha / rank; 0 = rank.
    scaling: "rank", or "sqrt" for alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732).
    start: "zero"; or from the kernel, "pissa" (its largest singular values) or "olora" (QR).
    freeze_a: A keeps its start (LoRA-FA); rank * out parameters a projection are trained.
    targets: projections that have one.
  """
  rank: int = 8
  alpha: float = 0.0
  scaling: str = "rank"
  start: str = "zero"
  freeze_a: bool = False
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def __post_init__(self):
    config_lib.check(self, "lora", at_least=dict(rank=1, alpha=0),
                     choices=dict(scaling=("rank", "sqrt"), start=STARTS))

  @property
  def scale(self) -> float:
    """Factor of the product."""
    return (self.alpha or self.rank) / (self.rank if self.scaling == "rank" else self.rank ** 0.5)

  @property
  def reads_kernel(self):
    """Whether it has a start."""
    return self.start != "zero"

  def check(self, name, shape):
    """A start has no more columns than the kernel has."""
    if self.reads_kernel and self.rank > min(shape):
      raise ValueError(f"lora.rank {self.rank} is above {min(shape)}, the rank of a matrix "
                       f"{shape[0]} x {shape[1]} ({name}); use at most that with start="
                       f"{self.start}.")

  def leaves(self, shape, axes):
    """A and B."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return {"lora_a": types.Leaf((shape[0], self.rank), init_a, (axes[0], None),
                                 is_trained=not self.freeze_a),
            "lora_b": types.Leaf((self.rank, shape[1]), zeros, (None, axes[1]))}

  def started(self, own, kernel):
    """A and B from the kernel, and the kernel less their product."""
    a, b = STARTS[self.start](kernel.astype(jnp.float32), self.rank, self.scale)
    product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    left = kernel.astype(jnp.float32) - self.scale * product
    return {"lora_a": a, "lora_b": b}, left.astype(kernel.dtype)

  def output(self, own, x, y):
    """Output with the product added, in the type of x."""
    low = jnp.matmul(x, own["lora_a"].astype(x.dtype))
    return y + self.scale * jnp.matmul(low, own["lora_b"].astype(x.dtype))

  def merged(self, own, kernel):
    """The sum, computed in float32, in the kernel's type."""
    a, b = (own[name].astype(jnp.float32) for name in ("lora_a", "lora_b"))
    delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return (kernel.astype(jnp.float32) + self.scale * delta).astype(kernel.dtype)
