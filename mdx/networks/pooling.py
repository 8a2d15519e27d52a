"""Pooling: from the states of a row to one vector, its embedding.

Contents: First, Last, Mean, WeightedMean, Max, LastLayers, Suffix, Special, Latent, POOLINGS,
build, pool, normalize, truncate.

Convention: hidden is [B, L, D]; mask bool [B, L] has the positions that count, in any pattern:
padding stands on either side, and prompts may be left out. A row without any has the embedding 0.
Sums are float32 whatever the type of the states.

Reference: the matrix of options of arXiv:2412.12591.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads

_EPSILON = 1e-12  # least norm that is divided by


def _average(hidden: jax.Array, weight: jax.Array) -> jax.Array:
  """Mean of hidden [B, L, D] under weights [B, L], float32 [B, D]; 0 where all weights are."""
  weight = weight.astype(jnp.float32)
  total = jnp.einsum("bl,bld->bd", weight, hidden.astype(jnp.float32),
                     precision=jax.lax.Precision.HIGHEST)
  return total / jnp.maximum(weight.sum(axis=1, keepdims=True), 1e-9)


def _rank(mask: jax.Array) -> jax.Array:
  """Number of each position among those that count, from 1, int32 [B, L]; 0 elsewhere."""
  return jnp.cumsum(mask, axis=1, dtype=jnp.int32) * mask


class _Pooling:
  """Base of the poolings; each is a frozen dataclass.

  Attributes:
    reads_layers: whether it is given the states after each block [layers, B, L, D].
    reads_tokens: whether it is given the tokens.
  """
  reads_layers: ClassVar[bool] = False
  reads_tokens: ClassVar[bool] = False

  def part(self, width: int) -> types.Part | None:
    """Returns its parameters for states of a width; None: it has none."""
    del width
    return None

  def __call__(self, hidden: jax.Array, mask: jax.Array, *, tokens: jax.Array | None = None,
               params: Mapping[str, Any] | None = None) -> jax.Array:
    """Returns the embeddings float32 [B, D].

    Args:
      hidden: [B, L, D], or [layers, B, L, D] where `reads_layers`.
      mask: bool [B, L].
      tokens: int32 [B, L], of a pooling that `reads_tokens`.
      params: those of `part`.
    """
    raise TypeError("a pooling defines __call__")


@dataclasses.dataclass(frozen=True)
class First(_Pooling):
  """State of the first position ([CLS])."""

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    return _average(hidden, _rank(mask) == 1)


@dataclasses.dataclass(frozen=True)
class Last(_Pooling):
  """State of the last position (the end token, or the end of a one-word prompt)."""

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    rank = _rank(mask)
    return _average(hidden, mask & (rank == rank.max(axis=1, keepdims=True)))


@dataclasses.dataclass(frozen=True)
class Mean(_Pooling):
  """Mean over all positions."""

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    return _average(hidden, mask)


@dataclasses.dataclass(frozen=True)
class WeightedMean(_Pooling):
  """Mean with weight i / (1 + ... + n) for the i-th of n positions.

  Later positions of a causal model have read more. Reference: Muennighoff 2022, arXiv:2202.08904
  (SGPT).
  """

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    return _average(hidden, _rank(mask))


@dataclasses.dataclass(frozen=True)
class Max(_Pooling):
  """Largest value of each column."""

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    most = jnp.where(mask[..., None], hidden.astype(jnp.float32), -jnp.inf).max(axis=1)
    return jnp.where(mask.any(axis=1, keepdims=True), most, 0.0)


@dataclasses.dataclass(frozen=True)
class LastLayers(_Pooling):
  """Mean over all positions of the mean of several last layers.

  Attributes:
    num_layers: number of layers that are averaged.
  """
  num_layers: int = 4
  reads_layers: ClassVar[bool] = True

  def __post_init__(self):
    config_lib.check(self, "pooling last_layers", at_least=dict(num_layers=1))

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    if hidden.ndim != 4 or len(hidden) < self.num_layers:
      raise ValueError(f"pooling last_layers averages {self.num_layers} layers; expected states "
                       f"[layers, B, L, D] of at least as many, got {list(hidden.shape)}.")
    return _average(hidden[-self.num_layers:].astype(jnp.float32).mean(axis=0), mask)


@dataclasses.dataclass(frozen=True)
class Suffix(_Pooling):
  """Mean over the last positions, those of a prompt behind the text.

  Attributes:
    num_tokens: number of positions; a shorter row has all of its own.
  """
  num_tokens: int = 1

  def __post_init__(self):
    config_lib.check(self, "pooling suffix", at_least=dict(num_tokens=1))

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    rank = _rank(mask)
    return _average(hidden, mask & (rank > rank.max(axis=1, keepdims=True) - self.num_tokens))


@dataclasses.dataclass(frozen=True)
class Special(_Pooling):
  """Mean over the positions of some tokens that are there to be read (GEM, arXiv:2506.04344).

  Attributes:
    ids: of these tokens.
  """
  ids: tuple[int, ...]
  reads_tokens: ClassVar[bool] = True

  def __post_init__(self):
    object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
    if not self.ids:
      raise ValueError("pooling special has no ids; give those of the tokens to read.")

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    if tokens is None:
      raise ValueError("pooling special needs the tokens int32 [B, L] of the rows.")
    return _average(hidden, mask & heads.is_one_of(tokens, self.ids))


@dataclasses.dataclass(frozen=True)
class Latent(_Pooling):
  """Mean of states that have attended to learned latents: x + attention(x, latents), x + mlp(x).

  The maps that close each branch begin at 0, so that it begins as `Mean`. Reference: Lee et al.
  2024, arXiv:2405.17428 (NV-Embed), with residual branches.

  Attributes:
    num_latents: number of latents, which are keys and values.
    num_heads: attention heads; must divide the width.
    expansion: width of the MLP, as a multiple of that of the states.
  """
  num_latents: int = 512
  num_heads: int = 8
  expansion: int = 4

  def __post_init__(self):
    config_lib.check(self, "pooling latent",
                     at_least=dict(num_latents=1, num_heads=1, expansion=1))

  def part(self, width):
    if width % self.num_heads:
      raise ValueError(f"pooling latent has {self.num_heads} heads, which do not divide the width "
                       f"{width}; use a divisor.")

    def init(key):
      latents, *keys = jax.random.split(key, 5)
      dense = lambda key, rows, columns: (
          jax.random.normal(key, (rows, columns), jnp.float32) / math.sqrt(rows))
      zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
      inner = self.expansion * width
      return {"latents": jax.random.normal(latents, (self.num_latents, width), jnp.float32),
              **{name: {"kernel": dense(k, width, width)} for name, k in zip("qkv", keys)},
              "o": {"kernel": zeros(width, width)},
              "in": {"kernel": dense(keys[3], width, inner), "bias": zeros(inner)},
              "out": {"kernel": zeros(inner, width), "bias": zeros(width)}}

    return types.Part(init, is_served=True)

  def __call__(self, hidden, mask, *, tokens=None, params=None):
    if params is None:
      raise ValueError("pooling latent has parameters; give those of its part.")
    x = hidden.astype(jnp.float32)
    split = lambda y: y.reshape(*y.shape[:-1], self.num_heads, -1)
    q = split(x @ params["q"]["kernel"])
    k, v = (split(params["latents"] @ params[name]["kernel"]) for name in "kv")
    scores = jnp.einsum("blhk,rhk->bhlr", q, k) / math.sqrt(q.shape[-1])
    read = jnp.einsum("bhlr,rhk->blhk", jax.nn.softmax(scores, axis=-1), v)
    x = x + read.reshape(x.shape) @ params["o"]["kernel"]
    x = x + heads.affine(params["out"], jax.nn.gelu(heads.affine(params["in"], x)))
    return _average(x, mask)


# name -> pooling; a config is dict(name=..., and the pooling's fields).
POOLINGS = {"first": First, "last": Last, "mean": Mean, "weighted_mean": WeightedMean, "max": Max,
            "last_layers": LastLayers, "suffix": Suffix, "special": Special, "latent": Latent}


def build(config: str | Mapping[str, Any]) -> Any:
  """The pooling of a name, of a text such as "suffix(num_tokens=3)", or of a table with `name`.

  Raises:
    ValueError: an unknown name or field.
  """
  fields = _parsed(config) if isinstance(config, str) else dict(config)
  return config_lib.build(POOLINGS, fields, what="pooling")


def _parsed(text: str) -> dict[str, Any]:
  """`name` and fields of "name" or "name(field=value, ...)"."""
  if "(" not in text:
    return {"name": text}
  try:
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
      raise ValueError
    return {"name": call.func.id, **{str(k.arg): ast.literal_eval(k.value) for k in call.keywords}}
  except (ValueError, SyntaxError):
    raise ValueError(f"pooling {text!r:.60} cannot be read; write it as suffix(num_tokens=3)."
                     ) from None


def pool(hidden: jax.Array, mask: jax.Array, kind: str = "mean", *,
         tokens: jax.Array | None = None, params: Mapping[str, Any] | None = None,
         **fields: Any) -> jax.Array:
  """Embeddings of rows, float32 [B, D]; see the poolings of `POOLINGS`.

  Args:
    hidden: states [B, L, D]; of `last_layers` [layers, B, L, D].
    mask: bool [B, L], positions that count.
    kind: name of a pooling.
    tokens: int32 [B, L], for `special`.
    params: of the part of `latent`.
    **fields: of the pooling.

  Raises:
    ValueError: an unknown name or field, or an argument that the pooling lacks.
  """
  return build({"name": kind, **fields})(hidden, mask.astype(bool), tokens=tokens, params=params)


def normalize(embeddings: jax.Array) -> jax.Array:
  """Embeddings [..., D] of Euclidean length 1, float32; 0 stays 0."""
  x = embeddings.astype(jnp.float32)
  # The norm has no gradient at 0, which a row without positions would spread as nan.
  squares = jnp.square(x).sum(axis=-1, keepdims=True)
  is_zero = squares < _EPSILON ** 2
  return jnp.where(is_zero, 0.0, x * jax.lax.rsqrt(jnp.where(is_zero, 1.0, squares)))


def truncate(embeddings: jax.Array, dim: int) -> jax.Array:
  """The first `dim` columns of embeddings [..., D], which a Matryoshka loss makes usable alone.

  Reference: Kusupati et al. 2022, arXiv:2205.13147.

  Raises:
    ValueError: more columns than there are, or none.
  """
  if not 0 < dim <= embeddings.shape[-1]:
    raise ValueError(f"dim is {dim}; expected 1 to {embeddings.shape[-1]}, the width of the "
                     "embeddings.")
  return embeddings[..., :dim]
