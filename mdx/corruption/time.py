"""Draws of the diffusion time t in (0, 1] for a whole global batch.

Contents: independent, stratified, lattice, TIMES, Uniform, Bell, DENSITIES, of_blocks, quadrature.

Convention: every scheme is a function of (key, example_index) alone. The slot of an example is
`example_index` modulo the batch size, scattered by a stride near the golden ratio, so that any run
of consecutive rows (a shard, a microbatch) covers (0, 1] almost evenly too.

Reference: Kingma et al. 2021, arXiv:2107.00630 (the single-offset lattice);
Sahoo et al. 2024, arXiv:2406.07524 (stratified).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from mdx import config as config_lib
from mdx.utils import rng


def _slots(example_index: jax.Array) -> jax.Array:
  """Slot of each example in [0, B), a permutation for consecutive indices."""
  batch_size = example_index.shape[0]
  stride = next(s for s in range(max(1, round(batch_size * 0.618)), 2 * batch_size + 1)
                if math.gcd(s, batch_size) == 1)
  # Reduce first, and unsigned: the product must not overflow (up to 83,000 rows; if B is
  # a power of two, overflow does no harm).
  slot = (example_index % batch_size).astype(jnp.uint32) * jnp.uint32(stride)
  return (slot % batch_size).astype(jnp.int32)


def independent(key: jax.Array, example_index: jax.Array) -> jax.Array:
  """t ~ U(0, 1], independent for each example: float32 [B]."""
  u = jax.vmap(jax.random.uniform)(rng.per_example(key, example_index))
  return 1 - u


def stratified(key: jax.Array, example_index: jax.Array) -> jax.Array:
  """One example in each of B equal strata, at a point of its own: float32 [B].

  The strata rotate from step to step, so t ~ U(0, 1] for every example.
  """
  batch_size = example_index.shape[0]
  offset_key, key = jax.random.split(key)
  offset = jax.random.randint(offset_key, (), 0, batch_size)
  u = jax.vmap(jax.random.uniform)(rng.per_example(key, example_index))
  # 1 - u lies in (0, 1] and keeps its digits in the stratum next to 0, where the
  # loss weight is large; slot + u would round up to B there, and t to 0.
  return ((_slots(example_index) + offset) % batch_size + (1 - u)) / batch_size


def lattice(key: jax.Array, example_index: jax.Array) -> jax.Array:
  """1 - t = (u + slot / B) mod 1 with one u for the batch: float32 [B]."""
  u = jax.random.uniform(key)
  return 1 - jnp.mod(u + _slots(example_index) / example_index.shape[0], 1.0)


TIMES = {"independent": independent, "stratified": stratified, "lattice": lattice}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
  """Times as they are drawn, uniform in (0, 1]."""

  weighted = True
  variation = 1  # of a rising function of t, as a function of the uniform it is drawn by

  def place(self, uniform: jax.Array) -> jax.Array:
    """Times of uniforms, float32 [B]."""
    return uniform

  def density(self, time: jax.Array) -> jax.Array:
    """p(t), float32 [B]."""
    return jnp.ones_like(time)

  def mean(self, fn: Callable[[jax.Array], jax.Array]) -> float | None:
    """Mean of a function of t under the density; None: that under uniform times."""
    del fn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bell:
  """A normal density cut to (0, 1], mixed with the uniform one (Hong et al., arXiv:2605.13026).

  The uniform share keeps the weights 1 / p(t) of the bound below 1 / `uniform`. A uniform draw
  below `uniform` is a time of the uniform part, one above it of the bell, each by its inverse
  distribution function, so that strata and lattices of draws are such in both parts.

  Attributes:
    center: mode of the bell, in [0, 1]; of masks by an exact count, of the share that is masked.
    spread: standard deviation of the normal density before it is cut, positive.
    uniform: share of the uniform part, in (0, 1).
    weighted: whether the loss is the bound, its rows weighted by 1 / p(t); without, the loss weighs
      times by p(t), and only the reported figures are those of the bound.
  """
  center: float = 0.5
  spread: float = 0.15
  uniform: float = 0.1
  weighted: bool = True

  variation = 2

  def __post_init__(self):
    config_lib.check(self, "objective.time_density", between=dict(
        center="[0, 1]", spread="(0, inf)", uniform="(0, 1)"))

  @property
  def _ends(self) -> tuple[float, float]:
    """Distribution function of the normal density at 0 and 1."""
    return tuple(float(special.ndtr((x - self.center) / self.spread)) for x in (0, 1))

  def place(self, uniform: jax.Array) -> jax.Array:
    """Times of uniforms in (0, 1], float32 [B]."""
    low, high = self._ends
    share = jnp.clip((uniform - self.uniform) / (1 - self.uniform), 0, 1)
    bell = self.center + self.spread * jax.scipy.special.ndtri(low + share * (high - low))
    least = jnp.finfo(jnp.float32).eps
    return jnp.where(uniform <= self.uniform, uniform / self.uniform, jnp.clip(bell, least, 1))

  def density(self, time: jax.Array) -> jax.Array:
    """p(t), float32 [B]."""
    low, high = self._ends
    bell = jax.scipy.stats.norm.pdf(time, self.center, self.spread) / (high - low)
    return self.uniform + (1 - self.uniform) * bell

  def mean(self, fn: Callable[[jax.Array], jax.Array]) -> float | None:
    """Mean of a function of t under the density."""
    with jax.ensure_compile_time_eval():
      nodes, weights = quadrature(256)
      return float((weights * self.density(nodes) * fn(nodes)).sum())


DENSITIES = {"uniform": Uniform, "bell": Bell}


def of_blocks(keys: jax.Array, time: jax.Array, num_blocks: int) -> jax.Array:
  """A time for every block of a row, one in each of `num_blocks` strata: float32 [B, N].

  If the times of the rows are a lattice, or stratified, those of all blocks of the batch are.

  Args:
    keys: typed PRNG keys [B], consumed; they say which block of a row has which stratum.
    time: float32 [B], uniform in (0, 1].
    num_blocks: N.
  """
  order = jax.vmap(lambda key: jax.random.permutation(key, num_blocks))(keys)
  return (order + time[:, None]) / num_blocks


def quadrature(num_nodes: int) -> tuple[jax.Array, jax.Array]:
  """Nodes and weights of Gauss and Legendre on (0, 1), float32 [num_nodes] each.

  The weighted sum over the nodes is the integral of every polynomial of degree 2 num_nodes - 1.
  """
  nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
  return jnp.asarray((nodes + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32)
