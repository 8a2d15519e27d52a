"""Nearest neighbours of vectors, exact or by a library of approximate search.

Contents: NAMES, SIMILARITIES, check, Exact, Faiss, Hnsw, INDEXES.

Convention: neighbours have the largest inner products, which of vectors of length 1 are cosines;
they come from the best to the worst, equal ones in the order of their rows.
"""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any, Protocol

import numpy as np

SIMILARITIES = ("cosine", "dot")
_BLOCK = 1024  # queries whose products with all vectors are held at once


def prepared(vectors: np.ndarray, similarity: str) -> np.ndarray:
  """Vectors [N, D] whose inner products are a similarity, one of SIMILARITIES; float32."""
  vectors = np.ascontiguousarray(vectors, np.float32)
  if similarity == "dot":
    return vectors
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


class Index(Protocol):
  """Vectors that are searched."""

  def __init__(self, vectors: np.ndarray, file: pathlib.Path):
    """Takes vectors float32 [N, D]; what is built of them is kept at `file`, and read again."""

  def search(self, queries: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns products float32 [Q, num] and rows int64 [Q, num] of the nearest vectors.

    Args:
      queries: float32 [Q, D].
      num: neighbours of each, at most N.
    """


class Exact(Index):
  """All products, with numpy."""

  def __init__(self, vectors, file):
    del file
    self._vectors = vectors

  def search(self, queries, num):
    """As `Index`."""
    scores, rows = [], []
    for first in range(0, len(queries), _BLOCK):
      products = queries[first:first + _BLOCK] @ self._vectors.T
      found = np.argsort(-products, axis=1, kind="stable")[:, :num]
      scores.append(np.take_along_axis(products, found, axis=1))
      rows.append(found)
    return np.concatenate(scores), np.concatenate(rows).astype(np.int64)


class Faiss(Index):
  """All products, with faiss (its IndexFlatIP)."""

  def __init__(self, vectors, file):
    import faiss  # pylint: disable=g-import-not-at-top  (an extra)
    if file.exists():
      self._index = faiss.read_index(str(file))
      return
    self._index = faiss.IndexFlatIP(vectors.shape[1])
    self._index.add(vectors)
    faiss.write_index(self._index, str(file))

  def search(self, queries, num):
    """As `Index`."""
    scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), num)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class Hnsw(Index):
  """A navigable small-world graph, with hnswlib (Malkov & Yashunin 2016, arXiv:1603.09320).

  Graphs have 32 links a vector and are built by one thread, so that they are the same again.
  """
  _LINKS, _BUILT_WITH, _SEARCHED_WITH = 32, 200, 128

  def __init__(self, vectors, file):
    import hnswlib  # pylint: disable=g-import-not-at-top  (an extra)
    self._index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    if file.exists():
      self._index.load_index(str(file), max_elements=len(vectors))
      return
    self._index.init_index(max_elements=len(vectors), M=self._LINKS,
                           ef_construction=self._BUILT_WITH, random_seed=0)
    self._index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    self._index.save_index(str(file))

  def search(self, queries, num):
    """As `Index`, approximately."""
    self._index.set_ef(max(self._SEARCHED_WITH, num))
    rows, distances = self._index.knn_query(queries, k=num, num_threads=1)
    return 1 - distances, rows.astype(np.int64)


INDEXES: dict[str, Any] = {"exact": Exact, "faiss": Faiss, "hnsw": Hnsw}
_LIBRARIES = {"faiss": ("faiss", "faiss-cpu"), "hnsw": ("hnswlib", "hnswlib")}


def check(name: str, similarity: str) -> None:
  """Raises ValueError for an unknown index or similarity, or a library that is not installed."""
  if name not in INDEXES:
    raise ValueError(f"config.index is {name!r}; choose from {', '.join(INDEXES)}.")
  if similarity not in SIMILARITIES:
    raise ValueError(f"config.similarity is {similarity!r}; choose from {', '.join(SIMILARITIES)}.")
  module, package = _LIBRARIES.get(name, ("numpy", ""))
  if importlib.util.find_spec(module) is None:
    raise ValueError(f"config.index {name} needs the library {package}; pip install {package}, or "
                     "use exact.")
