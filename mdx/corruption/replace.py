"""Replacement of selected tokens.

Contents: mask_all, random_tokens, mask_random_keep, Clusters, cluster_probs, from_clusters.

References: Devlin et al. 2019, arXiv:1810.04805 (the 80/10/10 split); Di Liello et al. 2022,
arXiv:2210.13815 (random and cluster-based replacements).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def mask_all(tokens: jax.Array, selected: jax.Array, mask_id: int) -> jax.Array:
  """Writes `mask_id` at the selected positions of tokens int32 [B, L]."""
  return jnp.where(selected, mask_id, tokens)


def _random_row(key, length, vocab_size, mask_id):
  # One id fewer, then step over mask_id: uniform over the others.
  other = jax.random.randint(key, (length,), 0, vocab_size - 1)
  return other + (other >= mask_id)


def random_tokens(keys: jax.Array, length: int, *, vocab_size: int, mask_id: int) -> jax.Array:
  """Tokens int32 [B, length], uniform over [0, vocab_size) without `mask_id`; keys [B]."""
  return jax.vmap(lambda key: _random_row(key, length, vocab_size, mask_id))(keys)


def mask_random_keep(keys: jax.Array, tokens: jax.Array, selected: jax.Array, *, mask_id: int,
                     vocab_size: int, mask_rate: float, random_rate: float,
                     units: jax.Array | None = None,
                     others: jax.Array | None = None) -> jax.Array:
  """Replaces selected tokens by [MASK], a random token, or themselves.

  Args:
    keys: typed PRNG keys [B], consumed.
    tokens: int32 [B, L].
    selected: bool [B, L].
    mask_id: id of [MASK].
    vocab_size: random tokens are uniform over [0, vocab_size) without `mask_id`.
    mask_rate: share of selected tokens that become [MASK].
    random_rate: share that become a random token; the rest is kept.
    units: int32 [B, L] of `mdx.corruption.unit`, whose positions have the same of these fates
      (random tokens differ); or None.
    others: int32 [B, L], what is written for a random token where it is not negative; or None.

  Returns:
    int32 [B, L].
  """
  length = tokens.shape[1]

  def draw(key):
    choice_key, token_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (length,))
    return choice, _random_row(token_key, length, vocab_size, mask_id)

  choice, other = jax.vmap(draw)(keys)
  if others is not None:
    other = jnp.where(others >= 0, others, other)
  if units is not None:
    choice = jnp.take_along_axis(choice, units, axis=1)
  replaced = jnp.where(choice < mask_rate, mask_id,
                       jnp.where(choice < mask_rate + random_rate, other, tokens))
  return jnp.where(selected, replaced, tokens).astype(tokens.dtype)


class Clusters(NamedTuple):
  """A partition of the vocabulary into clusters of tokens that may replace each other.

  Attributes:
    of_token: int32 [V], the cluster of every id.
    members: int32 [V'], the ids that may be written, cluster by cluster.
    first: int32 [n], where each cluster begins in `members`.
    size: int32 [n], how many of its ids may be written.
  """
  of_token: np.ndarray
  members: np.ndarray
  first: np.ndarray
  size: np.ndarray

  @classmethod
  def of(cls, of_token: Sequence[int], excluded: Sequence[int] = ()) -> Clusters:
    """Builds it from the cluster of every id; ids that are `excluded` are never written."""
    of_token = np.asarray(of_token, np.int32)
    allowed = np.setdiff1d(np.arange(len(of_token)), np.asarray(excluded, np.int64))
    members = allowed[np.argsort(of_token[allowed], kind="stable")].astype(np.int32)
    size = np.bincount(of_token[members], minlength=int(of_token.max()) + 1).astype(np.int32)
    return cls(of_token, members, (np.cumsum(size) - size).astype(np.int32), size)


def cluster_probs(confusion: jax.Array, sharpness: float, size: np.ndarray) -> jax.Array:
  """Distribution of the cluster that replaces each cluster, float32 [n, n], rows sum to 1.

  softmax over b of sharpness * (C[a, b] - min_b C) / (max_b C - min_b C), over the clusters that
  have members; uniform where a row of C is constant.

  Args:
    confusion: float32 [n, n].
    sharpness: beta.
    size: int32 [n], members of each cluster.
  """
  low = confusion.min(axis=1, keepdims=True)
  share = (confusion - low) / jnp.maximum(confusion.max(axis=1, keepdims=True) - low, 1e-6)
  return jax.nn.softmax(jnp.where(jnp.asarray(size) > 0, sharpness * share, -jnp.inf), axis=1)


def from_clusters(keys: jax.Array, tokens: jax.Array, clusters: Clusters,
                  probs: jax.Array) -> jax.Array:
  """A replacement of every token: a cluster by `probs`, then one of its members, int32 [B, L].

  Args:
    keys: typed PRNG keys [B], consumed.
    tokens: int32 [B, L].
    clusters: of the vocabulary.
    probs: float32 [n, n], `cluster_probs`.
  """
  below = jnp.cumsum(probs, axis=1)
  below = below / below[:, -1:]
  size, first, members = (jnp.asarray(x) for x in (clusters.size, clusters.first, clusters.members))
  last = int(np.nonzero(clusters.size)[0][-1])

  def row(key, clusters_of_row):
    cluster_key, member_key = jax.random.split(key)
    draw, within = (jax.random.uniform(k, clusters_of_row.shape) for k in (cluster_key, member_key))
    chosen = (below[clusters_of_row] <= draw[:, None]).sum(axis=1).astype(jnp.int32)
    chosen = jnp.minimum(chosen, last)
    nth = jnp.minimum((within * size[chosen]).astype(jnp.int32), size[chosen] - 1)
    return members[first[chosen] + nth]

  return jax.vmap(row)(keys, jnp.asarray(clusters.of_token)[tokens])
