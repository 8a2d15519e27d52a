"""Low-rank adapters of linear maps: y = x W + (alpha / rank) (x A) B.

Contents: LoRA, init_a.

Convention: A is `lora_a` [in, rank], B is `lora_b` [rank, out], float32. A new adapter has B = 0
and changes nothing.

Reference: Hu et al. 2021, arXiv:2106.09685; A is drawn as the authors' code does,
U(-1/sqrt(in), 1/sqrt(in)).
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(types.Adaptation):
  """A low-rank product beside each kernel.

  Attributes:
    rank: columns of A.
    alpha: the factor of the product is alpha / rank; 0 = rank.
    scaling: "rank", or "sqrt" for alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732).
    targets: projections that have one.
  """
  rank: int = 8
  alpha: float = 0.0
  scaling: str = "rank"
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def __post_init__(self):
    config_lib.check(self, "lora", at_least=dict(rank=1, alpha=0),
                     choices=dict(scaling=("rank", "sqrt")))

  @property
  def scale(self) -> float:
    """Factor of the product."""
    return (self.alpha or self.rank) / (self.rank if self.scaling == "rank" else self.rank ** 0.5)

  def leaves(self, shape, axes):
    """A and B."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return {"lora_a": types.Leaf((shape[0], self.rank), init_a, (axes[0], None)),
            "lora_b": types.Leaf((self.rank, shape[1]), zeros, (None, axes[1]))}

  def output(self, own, x, y):
    """Output with the product added, in the type of x."""
    low = jnp.matmul(x, own["lora_a"].astype(x.dtype))
    return y + self.scale * jnp.matmul(low, own["lora_b"].astype(x.dtype))

  def merged(self, own, kernel):
    """The sum, computed in float32, in the kernel's type."""
    a, b = (own[name].astype(jnp.float32) for name in ("lora_a", "lora_b"))
    delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return (kernel.astype(jnp.float32) + self.scale * delta).astype(kernel.dtype)
