"""Neighbours are those of brute force; libraries find the same and read their files again."""

import importlib.util

import numpy as np
import pytest

from mdx.eval import neighbors

_RNG = np.random.default_rng(0)
_VECTORS = neighbors.prepared(_RNG.normal(size=(60, 8)), "cosine")
_QUERIES = neighbors.prepared(_RNG.normal(size=(5, 8)), "cosine")


def _expected(num):
  products = _QUERIES.astype(np.float64) @ _VECTORS.T.astype(np.float64)
  rows = np.array([sorted(range(60), key=lambda i: (-row[i], i))[:num] for row in products])
  return np.take_along_axis(products, rows, 1), rows


@pytest.mark.parametrize("name, module", [("exact", "numpy"), ("faiss", "faiss"),
                                          ("hnsw", "hnswlib")])
def test_neighbours_are_those_of_brute_force_and_are_read_again(name, module, tmp_path):
  if importlib.util.find_spec(module) is None:
    pytest.skip(f"{module} is not installed")
  for _ in range(2):
    index = neighbors.INDEXES[name](_VECTORS, tmp_path / "index")
    scores, rows = index.search(_QUERIES, 7)
    np.testing.assert_array_equal(rows, _expected(7)[1])
    np.testing.assert_allclose(scores, _expected(7)[0], atol=1e-6)


def test_equal_neighbours_come_in_the_order_of_their_rows(monkeypatch, tmp_path):
  monkeypatch.setattr(neighbors, "_BLOCK", 2)
  vectors = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
  _, rows = neighbors.Exact(vectors, tmp_path).search(np.eye(2, dtype=np.float32)[[1, 0, 1]], 4)
  np.testing.assert_array_equal(rows, [[3, 4, 5, 0], [0, 1, 2, 3], [3, 4, 5, 0]])


@pytest.mark.parametrize("arguments, words", [
    (("exakt", "cosine"), "config.index is 'exakt'"), (("exact", "l2"), "config.similarity is 'l2'")])
def test_unknown_names_are_refused(arguments, words):
  with pytest.raises(ValueError, match=words):
    neighbors.check(*arguments)


def test_a_library_that_is_missing_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="pip install hnswlib, or use exact"):
    neighbors.check("hnsw", "dot")
