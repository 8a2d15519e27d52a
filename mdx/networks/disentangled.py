r"""Disentangled attention: scores of contents with relative positions, beside those of contents.

Contents: Disentangled, built, buckets, table_index, biases.

  score(i, j) = (q_i . k_j + q_i . K[d(i - j)] + k_j . Q[d(i - j)]) / sqrt(3 H)

with one table of embeddings of distances for all layers, of which K and Q are projections.

Convention: a distance is the index of the query in its row less that of the key, which is the same
in all documents of a packed row. The table is read once a network, a row for each of the 2 L - 1
distances, and scores are brought from distances to keys by a reshape, without a gather.

Reference: He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543 (DeBERTa-v3).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib

KINDS = ("c2p", "p2c")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disentangled:
  """Hyper-parameters of disentangled attention.

  Attributes:
    max_distance: distances from so many positions on are one.
    buckets: rows of the table on each side: distances below half of them have one each, longer ones
      share them by their logarithm; 0 = a row for every distance below `max_distance`.
    kinds: "c2p" (query with the key's distance), "p2c" (key with the query's), or both.
    is_shared: whether the maps of queries and keys project the table too, or maps of its own.
    is_normed: whether a norm of the table comes before.
  """
  max_distance: int = 512
  buckets: int = 256
  kinds: tuple[str, ...] = KINDS
  is_shared: bool = True
  is_normed: bool = True

  def __post_init__(self):
    kinds = self.kinds if isinstance(self.kinds, (list, tuple)) else ()
    if not kinds or set(kinds) - set(KINDS) or len(set(kinds)) != len(kinds):
      raise ValueError(f"network.disentangled.kinds is {self.kinds!r}; expected {KINDS[0]!r}, "
                       f"{KINDS[1]!r} or both.")
    object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in kinds))
    config_lib.check(self, "network.disentangled", at_least=dict(max_distance=2, buckets=0))
    if self.buckets in (1, 2, 3) or self.buckets // 2 >= self.max_distance - 1:
      raise ValueError(f"network.disentangled.buckets {self.buckets} do not fit max_distance "
                       f"{self.max_distance}; expected 0, or at least 4 and below twice "
                       f"{self.max_distance - 1}.")

  @property
  def span(self) -> int:
    """Rows of the table on each side."""
    return self.buckets or self.max_distance

  @property
  def scale(self) -> float:
    """Factor of all scores beside that of the width of a head."""
    return (1 + len(self.kinds)) ** -0.5


def built(value: Disentangled | Mapping[str, Any] | None) -> Disentangled | None:
  """Returns the value of a table of a config; None of an empty one."""
  if value is None or isinstance(value, Disentangled):
    return value
  if not isinstance(value, Mapping):
    raise ValueError(f"network.disentangled is {value!r:.60}; expected a table of fields.")
  return config_lib.construct(Disentangled, value, what="network.disentangled") if value else None


def buckets(distances: np.ndarray, own: Disentangled) -> np.ndarray:
  """Signed numbers of the buckets of distances, int [...]; computed in float32, as DeBERTa's."""
  if not own.buckets:
    return distances
  middle = own.buckets // 2
  size = np.where(np.abs(distances) < middle, middle - 1, np.abs(distances)).astype(np.float32)
  steps = np.log(size / np.float32(middle)) / np.log(np.float32((own.max_distance - 1) / middle))
  far = np.ceil(steps * np.float32(middle - 1)).astype(np.int64) + middle
  return np.where(size <= middle, distances, far * np.sign(distances))


def table_index(length: int, own: Disentangled) -> np.ndarray:
  """Rows of the table, int [2 L - 1], of the distances L - 1 (the first key of the last query) to
  1 - L."""
  found = buckets(np.arange(length - 1, -length, -1), own)
  return np.clip(found + own.span, 0, 2 * own.span - 1)


def _by_key(scores: jax.Array) -> jax.Array:
  """[..., L, 2 L], column t of row i for offset t - (L - 1) -> [..., L, L], column j for j - i."""
  *batch, length, columns = scores.shape
  flat = scores.reshape(*batch, length * columns)[..., length - 1:]
  return flat[..., :length * (columns - 1)].reshape(*batch, length, columns - 1)[..., :length]


def biases(query: jax.Array, key: jax.Array, keys: jax.Array | None, queries: jax.Array | None
           ) -> jax.Array:
  """Scores with relative positions, float32 [B, N, L, L].

  Args:
    query: [B, L, N, H], with the factors of the scores.
    key: [B, L, N, H].
    keys: projections of the table as keys [2 L - 1, N, H], in the order of `table_index`; None
      without "c2p".
    queries: those as queries, with the factors of the scores; None without "p2c".
  """
  product = lambda states, table: _by_key(jnp.einsum(
      "blnh,tnh->bnlt", states, jnp.pad(table, ((0, 1), (0, 0), (0, 0))),
      preferred_element_type=jnp.float32))
  parts = []
  if keys is not None:
    parts.append(product(query, keys))
  if queries is not None:  # whose offsets are those of the query from the key
    parts.append(product(key, queries[::-1]).swapaxes(-1, -2))
  return sum(parts[1:], parts[0])
