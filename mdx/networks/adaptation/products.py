"""Changes of kernels as other products than LoRA's: shared draws, singular values, Kronecker.

Contents: VeRA, AdaLoRA, KronA.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks.adaptation import sites

_zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
_normal = lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype)
_EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeRA(types.Adaptation):
  """y + ((x A) * d) B * b; A and B are drawn from `seed`, the same ones in every layer and map.

  Kopiczko et al. 2023, arXiv:2310.11454. A [in, rank] and B [rank, out] are Kaiming uniform, of
  narrower maps the first rows and columns of wider ones before their scale; they are no parameters.
  Trained are d [rank] = `first` and b [out] = 0: rank + out parameters a projection.

  Attributes:
    rank: columns of A.
    seed: of A and B.
    first: value of d at first.
    targets: projections that have one.
  """
  rank: int = 256
  seed: int = 0
  first: float = 0.1
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def __post_init__(self):
    config_lib.check(self, "vera", at_least=dict(rank=1, seed=0))

  def leaves(self, shape, axes):
    """d and b."""
    first = lambda key, shape, dtype: jnp.full(shape, self.first, dtype)
    return {"vera_d": types.Leaf((self.rank,), first, (None,), decays=False),
            "vera_b": types.Leaf((shape[1],), _zeros, (axes[1],), decays=False)}

  def draws(self, num_in: int, num_out: int) -> tuple[jax.Array, jax.Array]:
    """Returns A [in, rank] and B [rank, out], float32."""
    keys = jax.random.split(jax.random.key(self.seed), 2)
    a, b = (jax.random.uniform(key, (size, self.rank), jnp.float32, -1.0, 1.0)
            for key, size in zip(keys, (num_in, num_out)))
    return a * (6 / num_in) ** 0.5, b.T * (6 / self.rank) ** 0.5

  def output(self, own, x, y):
    """Output with the product added, in the type of x."""
    a, b = (one.astype(x.dtype) for one in self.draws(x.shape[-1], y.shape[-1]))
    row = lambda vector: jnp.expand_dims(vector.astype(x.dtype), tuple(range(x.ndim - 1)))
    return y + jnp.matmul(jnp.matmul(x, a) * row(own["vera_d"]), b) * row(own["vera_b"])

  def merged(self, own, kernel):
    """The sum, computed in float32, in the kernel's type."""
    a, b = self.draws(*kernel.shape)
    delta = jnp.matmul(a * own["vera_d"][None], b, precision=_EXACT) * own["vera_b"][None]
    return (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaLoRA(types.Adaptation):
  """y + (alpha / rank) ((x A) * e) B, whose values e of little importance are set to 0.

  Zhang et al. 2023, arXiv:2303.10512. A and B are kept nearly orthogonal by a penalty. The
  importance of a parameter is the moving average of |p dL/dp| times that of its deviations; that of
  a triple is that of e plus the means over its vectors of A and B. After every update the `budget`
  largest of all maps stay. rank (in + out + 1) parameters a projection are trained; averages are
  kept beside them.

  Attributes:
    rank: triples of a projection at first.
    target_rank: their mean number at the end.
    alpha: the factor is alpha / rank; 0 = rank.
    steps: of the run, which the budget's schedule is of.
    first_steps: updates before the budget shrinks.
    last_steps: updates at the end with the last budget.
    beta: decay rate of the averages.
    orthogonal: scale of the penalty, the mean over maps of |A'A - I| + |B B' - I| (Frobenius).
    targets: projections that have one.
  """
  rank: int = 12
  target_rank: int = 8
  alpha: float = 0.0
  steps: int = 1000
  first_steps: int = 100
  last_steps: int = 300
  beta: float = 0.85
  orthogonal: float = 0.5
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)
  has_upkeep: ClassVar[bool] = True

  def __post_init__(self):
    config_lib.check(self, "adalora", at_least=dict(rank=1, target_rank=1, alpha=0, steps=1,
                                                    first_steps=0, last_steps=0, orthogonal=0),
                     between=dict(beta="[0, 1)"))
    if self.target_rank > self.rank:
      raise ValueError(f"adalora.target_rank {self.target_rank} is above rank {self.rank}; use at "
                       "most that.")
    if self.first_steps + self.last_steps >= self.steps:
      raise ValueError(f"adalora.first_steps {self.first_steps} and last_steps {self.last_steps} "
                       f"leave nothing of steps {self.steps}; use fewer.")

  def check(self, name, shape):
    """A and B can be orthogonal."""
    if self.rank > min(shape):
      raise ValueError(f"adalora.rank {self.rank} is above {min(shape)}, the rank of a matrix "
                       f"{shape[0]} x {shape[1]} ({name}); use at most that.")

  @property
  def scale(self) -> float:
    """Factor of the product."""
    return (self.alpha or self.rank) / self.rank

  def leaves(self, shape, axes):
    """A, e and B, and two averages of each."""
    found = {"svd_a": types.Leaf((shape[0], self.rank), _normal, (axes[0], None)),
             "svd_e": types.Leaf((self.rank,), _zeros, (None,), decays=False),
             "svd_b": types.Leaf((self.rank, shape[1]), _normal, (None, axes[1]))}
    return found | {f"{name}_{of}": leaf._replace(init=_zeros, decays=False, is_state=True)
                    for name, leaf in found.items() for of in ("mean", "deviation")}

  def output(self, own, x, y):
    """Output with the product added, in the type of x."""
    a, e, b = (own[name].astype(x.dtype) for name in ("svd_a", "svd_e", "svd_b"))
    low = jnp.matmul(x, a) * jnp.expand_dims(e, tuple(range(x.ndim - 1)))
    return y + self.scale * jnp.matmul(low, b)

  def merged(self, own, kernel):
    """The sum, computed in float32, in the kernel's type."""
    delta = jnp.matmul(own["svd_a"] * own["svd_e"][None], own["svd_b"], precision=_EXACT)
    return (kernel.astype(jnp.float32) + self.scale * delta).astype(kernel.dtype)

  def penalty(self, own, kernel):
    """Distance of A and B from orthogonal ones, [layers]."""
    eye = jnp.eye(self.rank)[None]
    gaps = [jnp.einsum("lir,lis->lrs", own["svd_a"], own["svd_a"]) - eye,
            jnp.einsum("lro,lso->lrs", own["svd_b"], own["svd_b"]) - eye]
    # The root has no gradient at 0.
    sizes = sum(jnp.sqrt(jnp.square(gap).sum(axis=(1, 2)) + 1e-12) for gap in gaps)
    return self.orthogonal * sizes / (2 * len(kernel) * len(self.targets))

  def budget(self, step: jax.Array) -> jax.Array:
    """Mean rank that is left after the update of a number, float32 []."""
    span = self.steps - self.last_steps - self.first_steps
    passed = jnp.clip((step - self.first_steps) / span, 0.0, 1.0)
    return self.target_rank + (self.rank - self.target_rank) * (1 - passed) ** 3

  def stepped(self, owned, grads, step):
    """Averages of importance, and the values e that stay."""
    found, scores = {}, {}
    for path, own in owned.items():
      new, element = {}, {}
      for name, gradient in grads.get(path, {}).items():
        importance = jnp.abs(own[name] * gradient)
        mean = self.beta * own[f"{name}_mean"] + (1 - self.beta) * importance
        deviation = (self.beta * own[f"{name}_deviation"]
                     + (1 - self.beta) * jnp.abs(importance - mean))
        new |= {f"{name}_mean": mean, f"{name}_deviation": deviation}
        element[name] = mean * deviation
      if len(element) == 3:
        found[path] = new
        scores[path] = (element["svd_e"] + element["svd_a"].mean(axis=1)
                        + element["svd_b"].mean(axis=2))
    if not scores:
      return {}
    flat = jnp.concatenate([score.ravel() for score in scores.values()])
    order = jnp.argsort(jnp.argsort(-flat))
    number = jnp.round(self.budget(step) / self.rank * len(flat)).astype(jnp.int32)
    stays, begin = order < number, 0
    for path, score in scores.items():
      kept = stays[begin:begin + score.size].reshape(score.shape)
      found[path]["svd_e"] = jnp.where(kept, owned[path]["svd_e"], 0.0)
      begin += score.size
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class KronA(types.Adaptation):
  """x (W + scale A (x) B), the Kronecker product of small matrices, with B = 0 at first.

  Edalati et al. 2022, arXiv:2212.10650. A is [rows, columns], which divide the inputs and outputs
  of the projection, and B the quotients: rows columns + in out / (rows columns) parameters.

  Attributes:
    rows: of A.
    columns: of A.
    scale: factor of the product.
    targets: projections that have one.
  """
  rows: int = 8
  columns: int = 8
  scale: float = 1.0
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)

  def __post_init__(self):
    config_lib.check(self, "krona", at_least=dict(rows=1, columns=1))

  def check(self, name, shape):
    """A divides the matrix."""
    if shape[0] % self.rows or shape[1] % self.columns:
      raise ValueError(f"krona.rows {self.rows} and columns {self.columns} do not divide a matrix "
                       f"{shape[0]} x {shape[1]} ({name}); use divisors, or other targets.")

  def leaves(self, shape, axes):
    """A and B."""
    draw = lambda key, shape, dtype: jax.random.normal(key, shape, dtype) * shape[-2] ** -0.5
    rest = (shape[0] // self.rows, shape[1] // self.columns)
    return {"krona_a": types.Leaf((self.rows, self.columns), draw, (None, None)),
            "krona_b": types.Leaf(rest, _zeros, (None, None))}

  def output(self, own, x, y):
    """Output with the product added, in the type of x."""
    a, b = (own[name].astype(x.dtype) for name in ("krona_a", "krona_b"))
    cut = x.reshape(*x.shape[:-1], a.shape[0], b.shape[0])
    return y + self.scale * jnp.einsum("...ij,ik,jl->...kl", cut, a, b).reshape(y.shape)

  def merged(self, own, kernel):
    """The sum, computed in float32, in the kernel's type."""
    delta = jnp.kron(own["krona_a"], own["krona_b"])
    return (kernel.astype(jnp.float32) + self.scale * delta).astype(kernel.dtype)
