"""BM25: documents ranked by the words that they share with a query.

Contents: BM25.

  score = sum over the words w of the query of
    log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f / (f + k1 (1 - b + b l / L))
f is the count of w in the document, l its number of words, L the mean of all, n_w the number of
documents that have w; the form of Lucene.

Reference: Robertson & Zaragoza 2009, "The probabilistic relevance framework"; bm25s, Lù 2024,
arXiv:2407.03618.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from mdx import config as config_lib
from mdx.tasks.search import documents as documents_lib

LIBRARIES = ("exact", "bm25s")
_BLOCK = 256  # queries whose scores of all documents are held at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class BM25:
  """A search of words; documents of equal score come in the order of the corpus.

  Attributes:
    k1: saturation of counts.
    b: share of the correction for length.
    library: "exact", a sparse product, or "bm25s" (extra `search`) for large corpora.
  """
  k1: float = 1.5
  b: float = 0.75
  library: str = "exact"

  def __post_init__(self):
    config_lib.check(self, "task.tool", choices=dict(library=LIBRARIES), at_least=dict(k1=0),
                     between=dict(b="[0, 1]"))
    if self.library == "bm25s" and importlib.util.find_spec("bm25s") is None:
      raise ValueError("task.tool.library bm25s is not installed; pip install 'mdx-lm[search]', or "
                       "use exact.")

  def build(self, documents: Sequence[documents_lib.Document]) -> None:
    """Counts the words of titles and texts."""
    split = [documents_lib.words(f"{d.title} {d.text}") for d in documents]
    self.__dict__["_documents"] = tuple(documents)  # not fields: no part of what the tool is
    if self.library == "bm25s":
      import bm25s  # pylint: disable=g-import-not-at-top  (an extra)
      index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
      index.index(split, show_progress=False)
      self.__dict__["_index"] = index
      return
    vocabulary = {word: i for i, word in enumerate(sorted({w for own in split for w in own}))}
    counts = [collections.Counter(own) for own in split]
    rows = np.repeat(np.arange(len(split)), [len(c) for c in counts])
    columns = np.array([vocabulary[w] for c in counts for w in c], np.int64)
    tf = np.array([n for c in counts for n in c.values()], np.float64)
    length = np.array([len(own) for own in split], np.float64)
    have = np.bincount(columns, minlength=len(vocabulary))
    idf = np.log1p((len(split) - have + 0.5) / (have + 0.5))
    scale = self.k1 * (1 - self.b + self.b * length / max(length.mean(), 1e-9))
    weight = idf[columns] * tf / (tf + scale[rows])
    self.__dict__["_weights"] = sparse.csr_matrix(
        (weight, (columns, rows)), shape=(len(vocabulary), len(split)))
    self.__dict__["_vocabulary"] = vocabulary

  def search(self, queries: Sequence[str], count: int) -> list[list[documents_lib.Document]]:
    """Returns the best documents of each query, those that share a word with it."""
    found: list[list[documents_lib.Document]] = []
    for first in range(0, len(queries), _BLOCK):
      scores = self._scores([documents_lib.words(q) for q in queries[first:first + _BLOCK]])
      order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
      found += [[self.__dict__["_documents"][i] for i in own if row[i] > 0]
                for row, own in zip(scores, order)]
    return found

  def describe(self) -> str:
    """Returns a line on what is searched."""
    return f"BM25 over {len(self.__dict__['_documents'])} documents"

  def _scores(self, queries: Sequence[Sequence[str]]) -> np.ndarray:
    """Scores of all documents, float [Q, N]."""
    number = len(self.__dict__["_documents"])
    if self.library == "bm25s":
      index = self.__dict__["_index"]
      known = [[w for w in own if w in index.vocab_dict] for own in queries]
      return np.stack([index.get_scores(own) if own else np.zeros(number) for own in known])
    vocabulary = self.__dict__["_vocabulary"]
    pairs = [(row, vocabulary[w]) for row, own in enumerate(queries) for w in own
             if w in vocabulary]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    asked = sparse.csr_matrix((np.ones(len(pairs)), (rows, columns)),
                              shape=(len(queries), len(vocabulary)))
    return (asked @ self.__dict__["_weights"]).toarray()
