"""Heads: from hidden states to logits, and losses and draws of logits.

Contents: NEVER, check_float32, block_columns, is_one_of, log_probs, cross_entropy,
binary_cross_entropy, entropy, sample, mlp_part, mlp, affine.

Convention: logits are float32 [..., V]; bfloat16 logits are refused, for
their softmax and noise are wrong in the third digit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mdx import types

NEVER = -1e30  # logit of probability exactly 0; finite, so that no row has nan


def check_float32(logits: jax.Array) -> None:
  """Raises ValueError for logits of another type."""
  if logits.dtype != jnp.float32:
    raise ValueError(f"expected float32 logits, got {logits.dtype}; cast them first.")


def block_columns(logits: jax.Array, *ids: int | None) -> jax.Array:
  """Sets the logits of some ids to -1e30 (None is skipped): probability 0."""
  check_float32(logits)
  column = jnp.arange(logits.shape[-1])
  for index in ids:
    if index is not None:
      logits = jnp.where(column == index, NEVER, logits)
  return logits


def is_one_of(tokens: jax.Array, ids: Sequence[int]) -> jax.Array:
  """Returns whether each token is one of some ids, bool of the shape of `tokens`."""
  return functools.reduce(jnp.logical_or, [tokens == i for i in ids])


def log_probs(logits: jax.Array, *blocked: int | None) -> jax.Array:
  """log softmax, float32 [..., V], with some ids blocked."""
  return jax.nn.log_softmax(block_columns(logits, *blocked), axis=-1)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """-log softmax(logits)[target], float32 [...], in nats."""
  check_float32(logits)
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p(label) of a yes with probability sigmoid(logits), float32 [...], in nats."""
  check_float32(logits)
  return jax.nn.softplus(logits) - labels * logits


def entropy(logits: jax.Array) -> jax.Array:
  """Entropy of softmax(logits) in nats, float32 [...]."""
  log_probs = jax.nn.log_softmax(logits, axis=-1)
  return -jnp.sum(jnp.exp(log_probs) * jnp.maximum(log_probs, NEVER), axis=-1)


def sample(logits: jax.Array, uniform: jax.Array) -> jax.Array:
  """A draw from softmax(logits), int32 [...], by inverting its distribution function.

  One random number a draw, where Gumbel noise needs V. No id of probability 0 is drawn.

  Args:
    logits: float32 [..., V].
    uniform: float32 [...], uniform in [0, 1).
  """
  check_float32(logits)
  probs = jax.nn.softmax(logits, axis=-1)
  below = jnp.cumsum(probs, axis=-1)
  # Partial sums are rounded by less than the 4e-6 that is cut off at the top.
  wanted = uniform[..., None] * (1 - 2.0 ** -18) * below[..., -1:]
  ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  return jnp.where((below > wanted) & (probs > 0), ids, logits.shape[-1] - 1).min(axis=-1)


def linear_init(key: jax.Array, num_inputs: int, num_outputs: int, scale: float = 1.0
                ) -> dict[str, jax.Array]:
  """The parameters of `affine`, a kernel of variance scale^2 / inputs and a bias of 0."""
  kernel = jax.random.normal(key, (num_inputs, num_outputs), jnp.float32) / math.sqrt(num_inputs)
  return {"kernel": scale * kernel, "bias": jnp.zeros(num_outputs, jnp.float32)}


def mlp_part(width: int, hidden: int, num_outputs: int) -> types.Part:
  """The parameters of `mlp`: two linear maps, the last one small; alike on every device."""

  def init(key):
    first, last = jax.random.split(key)
    return {"in": linear_init(first, width, hidden),
            "out": linear_init(last, hidden, num_outputs, 0.1)}

  return types.Part(init)


def mlp(params: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
  """Linear, tanh, linear: hidden [..., D] -> float32 [..., num_outputs]."""
  return affine(params["out"], jnp.tanh(affine(params["in"], hidden.astype(jnp.float32))))


def affine(params: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
  """hidden [..., D] times `kernel`, plus `bias`, in the type of `hidden`."""
  bias = jnp.expand_dims(params["bias"], tuple(range(hidden.ndim - 1)))
  return hidden @ params["kernel"].astype(hidden.dtype) + bias.astype(hidden.dtype)
