"""What objectives and samplers do with logits.

Contents: block_columns, log_probs, cross_entropy.

Convention: logits are float32 [..., V]; bfloat16 logits are refused, for
their softmax and noise are wrong in the third digit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_NEVER = -1e30


def _check(logits: jax.Array) -> None:
  if logits.dtype != jnp.float32:
    raise ValueError(f"expected float32 logits, got {logits.dtype}; cast before the head's output.")


def block_columns(logits: jax.Array, *ids: int | None) -> jax.Array:
  """Sets the logits of some ids to -1e30 (None is skipped): probability 0."""
  _check(logits)
  column = jnp.arange(logits.shape[-1])
  for index in ids:
    if index is not None:
      logits = jnp.where(column == index, _NEVER, logits)
  return logits


def log_probs(logits: jax.Array, *blocked: int | None) -> jax.Array:
  """log softmax, float32 [..., V], with some ids blocked."""
  return jax.nn.log_softmax(block_columns(logits, *blocked), axis=-1)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """-log softmax(logits)[target], float32 [...], in nats."""
  _check(logits)
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked
