"""Connectors: states of an encoder as vectors among the embeddings of a language model.

Contents: Linear, MLP, Resampler, CONNECTORS.

Convention: a connector is built with the width of the states, S, and that of the embeddings, E; it
maps [B, P, S] to [B, Q, E].

References: Liu et al. 2023, arXiv:2304.08485 (one linear map); Liu et al. 2023, arXiv:2310.03744
(two with GELU); Li et al. 2023, arXiv:2301.12597 (learned queries).
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import frontends
from mdx.networks import heads

_QUERY_STD = 0.5  # of states of unit variance


class Connector(Protocol):
  """A map of states, with parameters.

  Attributes:
    num_features: S.
    width: E.
  """
  num_features: int
  width: int

  def part(self) -> types.Part:
    """Returns its parameters, which no language model has."""

  def __call__(self, params: types.PyTree, states: jax.Array) -> jax.Array:
    """Returns vectors [B, Q, E] of states [B, P, S]."""


def _part(init) -> types.Part:
  return types.Part(init, is_served=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Connector):
  """One linear map: S E + E parameters; as many vectors as states."""
  num_features: int
  width: int

  def part(self):
    """kernel [S, E] and bias [E]."""
    return _part(lambda key: heads.linear_init(key, self.num_features, self.width))

  def __call__(self, params, states):
    return heads.affine(params, states.astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(Connector):
  """Two linear maps with GELU between: S E + E E + 2 E parameters; as many vectors as states."""
  num_features: int
  width: int

  def part(self):
    """Kernels and biases of `first` [S, E] and `second` [E, E]."""

    def init(key):
      first, second = jax.random.split(key)
      return {"first": heads.linear_init(first, self.num_features, self.width),
              "second": heads.linear_init(second, self.width, self.width)}

    return _part(init)

  def __call__(self, params, states):
    hidden = jax.nn.gelu(heads.affine(params["first"], states.astype(jnp.float32)),
                         approximate=False)
    return heads.affine(params["second"], hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resampler(Connector):
  """Learned queries that read the states by one cross-attention, whatever their number.

  Attributes:
    num_queries: Q.
    num_heads: of the attention; they divide E.
  """
  num_features: int
  width: int
  num_queries: int = 8
  num_heads: int = 4

  def __post_init__(self):
    config_lib.check(self, "objective.connector", at_least=dict(num_queries=1, num_heads=1))
    if self.width % self.num_heads:
      raise ValueError(f"objective.connector.num_heads {self.num_heads} does not divide the width "
                       f"{self.width} of the embeddings; use a divisor.")

  def part(self):
    """queries [Q, E], and the maps `query`, `key`, `value` and `out`."""

    def init(key):
      keys = jax.random.split(key, 5)
      inputs = dict(query=self.width, key=self.num_features, value=self.num_features,
                    out=self.width)
      found = {name: heads.linear_init(own, size, self.width)
               for (name, size), own in zip(inputs.items(), keys[1:])}
      shape = self.num_queries, self.width
      return found | {"queries": _QUERY_STD * jax.random.normal(keys[0], shape, jnp.float32)}

    return _part(init)

  def __call__(self, params, states):
    split = lambda x: x.reshape(*x.shape[:-1], self.num_heads, -1)
    query = split(heads.affine(params["query"], params["queries"]))
    states = frontends.standardized(states)
    key, value = (split(heads.affine(params[name], states)) for name in ("key", "value"))
    scores = jnp.einsum("qnh,bpnh->bnqp", query, key) * query.shape[-1] ** -0.5
    mixed = jnp.einsum("bnqp,bpnh->bqnh", jax.nn.softmax(scores, axis=-1), value)
    mixed = mixed.reshape(*mixed.shape[:2], self.width)
    return params["queries"][None] + heads.affine(params["out"], mixed)


CONNECTORS = {"linear": Linear, "mlp": MLP, "resampler": Resampler}
