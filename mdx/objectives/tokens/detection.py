"""Detection of replaced tokens: a binary decision at every position of a text.

Contents: losses, auc.

Reference: Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks import heads

_BINS = 64  # of the scores, for the area under the curve
_RANGE = 8.0


def losses(network: types.Network, params: types.PyTree, hidden: jax.Array, is_replaced: jax.Array,
           counted: jax.Array, offset: jax.Array | float = 0.0
           ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
  """Binary cross-entropy of what was replaced, at the positions that count.

  Args:
    network: its head "rtd" scores a position; positive = replaced.
    params: parameter sub-tree of the network.
    hidden: [B, L, D].
    is_replaced: bool [B, L], the labels.
    counted: bool [B, L].
    offset: added to the scores, broadcastable to [B, L].

  Returns:
    nats of the rows, float32 [B]; whether the decision was wrong, bool [B, L]; metrics.
  """
  scores = network.head(params, hidden, "rtd") + offset
  nats = jnp.where(counted, heads.binary_cross_entropy(scores, is_replaced), 0.0)
  is_wrong = (scores > 0) != is_replaced
  count = counted.sum(dtype=jnp.float32)
  right = (counted & ~is_wrong).sum(dtype=jnp.float32)
  metrics = {"rtd_nats": (nats.sum(), count), "rtd_accuracy": (right, count),
             "rtd_auc": auc(scores, is_replaced, counted),
             "replaced_rate": ((counted & is_replaced).sum(dtype=jnp.float32), count)}
  return nats.sum(axis=1), is_wrong, metrics


def auc(scores: jax.Array, labels: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pairs of a positive and a negative that the scores put in order, and all pairs.

  Scores are rounded to 64 bins of [-8, 8]; pairs in one bin count half.
  """
  scores = jax.lax.stop_gradient(scores)
  bin_of = jnp.clip((scores + _RANGE) * (_BINS / (2 * _RANGE)), 0, _BINS - 1).astype(jnp.int32)
  member = jax.nn.one_hot(bin_of, _BINS) * counted[..., None]
  counts = lambda chosen: jnp.einsum("bln,bl->n", member, chosen.astype(jnp.float32))
  positive, negative = counts(labels), counts(~labels)
  below = jnp.cumsum(negative) - negative
  return (positive * (below + negative / 2)).sum(), positive.sum() * negative.sum()
