"""Clusters of tokens that stand in similar contexts, for C-RTS.

Contents: cluster.

Each id is described by positive pointwise mutual information with the ids one and two positions to
its left and right, reduced by a truncated SVD; rows of unit length are grouped by k-means.

Reference: Levy & Goldberg 2014 (factorised PPMI as embeddings); Di Liello et al. 2022,
arXiv:2210.13815 (clusters of word2vec embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse
from scipy.cluster import vq
from scipy.sparse import linalg

_OFFSETS = (-2, -1, 1, 2)


def cluster(texts: Iterable[np.ndarray], vocab_size: int, num_clusters: int, *, width: int = 64,
            seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Groups ids by the contexts that they have in texts of ids.

  Returns:
    The cluster of every id, int32 [vocab_size], and whether it occurs, bool [vocab_size].

  Raises:
    ValueError: fewer ids occur than there are clusters.
  """
  pairs = [[] for _ in _OFFSETS]
  for ids in texts:
    for found, offset in zip(pairs, _OFFSETS):
      before, after = ids[:-abs(offset)], ids[abs(offset):]
      found.append((after, before) if offset < 0 else (before, after))
  blocks = []
  for found in pairs:
    rows, columns = (np.concatenate([f[i] for f in found]) if found else [] for i in (0, 1))
    counts = sparse.coo_array((np.ones(len(rows)), (rows, columns)),
                              shape=(vocab_size, vocab_size)).tocsr()
    blocks.append(_positive_information(counts))
  table = sparse.hstack(blocks).tocsr()
  occurs = np.asarray(table.sum(axis=1)).ravel() > 0
  seen = np.flatnonzero(occurs)
  if len(seen) < num_clusters:
    raise ValueError(f"{len(seen)} ids occur, fewer than num_clusters {num_clusters}; give more "
                     "text, or make fewer clusters.")
  width = min(width, len(seen) - 1)
  start = np.random.default_rng(seed).normal(size=len(seen))
  left, values, _ = linalg.svds(table[seen], k=width, v0=start)
  vectors = left * np.sqrt(values)
  vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
  _, labels = vq.kmeans2(vectors, num_clusters, iter=50, minit="++", seed=seed)
  of_token = np.zeros(vocab_size, np.int32)
  of_token[seen] = labels
  return of_token, occurs


def _positive_information(counts):
  """max(0, log p(a, b) / (p(a) p(b))) of a table of counts."""
  total = counts.sum()
  rows, columns = (np.maximum(counts.sum(axis=i), 1) for i in (1, 0))
  found = counts.tocoo()
  values = np.log(found.data * total / (rows[found.row] * columns[found.col]))
  keep = values > 0
  return sparse.coo_array((values[keep], (found.row[keep], found.col[keep])),
                          shape=counts.shape).tocsr()
