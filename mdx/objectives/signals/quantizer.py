"""Codes of feature vectors, drawn by Gumbel noise, and how evenly they are used.

Contents: Quantizer, Codes, diversity, perplexity.

Reference: Baevski et al. 2020, arXiv:2006.11477 (straight-through Gumbel softmax over products of
codebooks; the loss of diversity).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types


class Codes(NamedTuple):
  """Codes of feature vectors.

  Attributes:
    vectors: float32 [B, T, code_width], one code of each group side by side.
    ids: int32 [B, T, groups].
    probs: float32 [B, T, groups, V], softmax without noise at temperature 1.
  """
  vectors: jax.Array
  ids: jax.Array
  probs: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer:
  """A product of codebooks.

  Attributes:
    num_features: E of the vectors.
    num_codes: V of a group.
    code_width: entries of the codes of all groups together.
    groups: codebooks.
    temperature: of the Gumbel softmax at step 0.
    final_temperature: the least.
    decay: factor of the temperature a step.
  """
  num_features: int
  num_codes: int = 1024
  code_width: int = 1024
  groups: int = 1
  temperature: float = 2.0
  final_temperature: float = 0.5
  decay: float = 0.999995

  def __post_init__(self):
    config_lib.check(self, "objective.codes", at_least=dict(num_codes=2, code_width=1, groups=1),
                     between=dict(temperature="(0, 100]", final_temperature="(0, 100]",
                                  decay="(0, 1]"))
    if self.code_width % self.groups:
      raise ValueError(f"objective.codes.groups {self.groups} does not divide code_width "
                       f"{self.code_width}; use a divisor.")
    if self.final_temperature > self.temperature:
      raise ValueError(f"objective.codes.final_temperature {self.final_temperature} exceeds the "
                       f"temperature {self.temperature} at the start; lower it.")

  def part(self) -> types.Part:
    """The map to the logits, whose entries have variance 1 as published, and the codebooks."""

    def init(key):
      first, second = jax.random.split(key)
      normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32)
      size = self.groups * self.num_codes
      return {"logits": {"kernel": normal(first, self.num_features, size),
                         "bias": jnp.zeros(size, jnp.float32)},
              "codebook": normal(second, self.groups, self.num_codes,
                                 self.code_width // self.groups)}

    return types.Part(init, is_served=True)

  def temperature_at(self, step: jax.Array) -> jax.Array:
    """Temperature at a step, float32 []."""
    annealed = self.temperature * jnp.exp(step.astype(jnp.float32) * math.log(self.decay))
    return jnp.maximum(annealed, self.final_temperature)

  def __call__(self, params: types.PyTree, features: jax.Array, step: jax.Array,
               noise_keys: jax.Array | None) -> Codes:
    """Codes of feature vectors [B, T, E].

    Args:
      params: own sub-tree.
      features: float32 [B, T, E].
      step: int32 [].
      noise_keys: typed keys [B]; None = the most likely codes.
    """
    logits = features @ params["logits"]["kernel"] + jnp.expand_dims(
        params["logits"]["bias"], (0, 1))
    logits = logits.reshape(*logits.shape[:2], self.groups, self.num_codes)
    noisy = logits
    if noise_keys is not None:
      noisy = logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(noise_keys)
    soft = jax.nn.softmax(noisy / self.temperature_at(step), axis=-1)
    ids = noisy.argmax(axis=-1)
    hard = jax.nn.one_hot(ids, self.num_codes, dtype=soft.dtype)
    chosen = hard + soft - jax.lax.stop_gradient(soft)  # backwards the gradient of `soft`
    vectors = jnp.einsum("btgv,gvd->btgd", chosen, params["codebook"])
    return Codes(vectors.reshape(*ids.shape[:2], -1), ids, jax.nn.softmax(logits, axis=-1))


def perplexity(share: jax.Array) -> jax.Array:
  """exp of the entropy of shares [..., V], float32 [...]: the number of codes, if used evenly."""
  return jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-9))).sum(axis=-1))


def diversity(share: jax.Array) -> jax.Array:
  """(V - perplexity) / V of mean shares [groups, V], averaged over groups: 0 even, near 1 one."""
  size = share.shape[-1]
  return ((size - perplexity(share)) / size).mean()
