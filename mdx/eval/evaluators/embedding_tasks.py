"""Evaluations of the embeddings of texts, by the tasks of MTEB.

Contents: Texts, Similarity, Retrieval, TextClassification, Clustering, PairClassification.

Convention: texts are those of a data source, which need not be that of the run: texts with a
label, pairs of texts with a score or with a label.

Reference: Muennighoff et al. 2022, arXiv:2210.07316 (MTEB); Thakur et al. 2021, arXiv:2104.08663
(BEIR, the files of retrieval).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx.data import source as source_lib
from mdx.data import sources
from mdx.data.sources import labelled
from mdx.eval import embeddings
from mdx.eval.evaluators import embedded
from mdx.utils import readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """Texts of a data source.

  Attributes:
    source: `name` and fields of a data source.
    split: of it that is evaluated.
    limit: most records, the first ones; 0 = all.
    best_by: figure whose best weights are kept; "" = the last ones.
  """
  source: Mapping[str, Any]
  split: str = "validation"
  limit: int = 0
  best_by: str = ""

  def __post_init__(self):
    config_lib.check(self, "eval", at_least=dict(limit=0),
                     choices=dict(split=source_lib.LABELLED_SPLITS))

  def records(self, split: str = "", *, has_labels: bool = True) -> list[Mapping[str, Any]]:
    """Records of a split, with a label each; ValueError for others, and for empty texts.

    Args:
      split: of the source; "" = the one that is evaluated.
      has_labels: whether they need one.
    """
    one, split = sources.build(self.source), split or self.split
    found = one.records(split)
    found = [found[i] for i in range(min(len(found), self.limit or len(found)))]
    where = f"the {split} split of source {one.title}"
    if not found or has_labels and "label" not in found[0]:
      raise ValueError(f"{where} has {len(found)} records, and no label; embeddings are evaluated "
                       "with labels or scores. Use another source.")
    if "texts" in found[0]:
      embeddings.check_texts([text for record in found for text in record["texts"]], where)
    return found


def _texts_of(records, place):
  """The texts of a place in the records, as `vectors` reads them."""
  return [{"text": record["texts"][place]} if "texts" in record else record for record in records]


def _check_number(records, number, table):
  """Raises ValueError unless records have so many texts."""
  found = len(records[0].get("texts", ("",)))
  if found != number:
    raise ValueError(f"eval.{table} reads records of {number} text(s) with a label, but its source "
                     f"has {found}; use another source, or other fields of it.")


def _classes(records) -> np.ndarray:
  """Numbers of the labels, int [N]."""
  return np.unique([str(record["label"]) for record in records], return_inverse=True)[1]


class Similarity(embedded.Embedded):
  """Correlation of cosines of pairs with their scores, and the geometry of the embeddings.

  `spearman` and `pearson`; `mean_cosine` of all pairs, large where embeddings share a direction;
  `uniformity` of the first texts; `alignment` of the pairs with the highest score.
  """
  table, fields = "similarity", Texts
  names, others = ("spearman", "pearson"), ("mean_cosine", "uniformity", "alignment")
  has_curve = True

  def read(self):
    """The pairs and their scores."""
    records = self.own.records()
    _check_number(records, 2, self.table)
    try:
      gold = np.array([float(record["label"]) for record in records])
    except ValueError:
      raise ValueError(f"eval.similarity needs scores, got the label {records[0]['label']!r:.40}; "
                       "use pair_classification for labels.") from None
    embeddings.correlations(np.arange(len(gold)), gold)
    return records, gold

  def embedded(self, params):
    """Of the first and of the second texts."""
    return {str(i): self.vectors(params, _texts_of(self.data[0], i)) for i in (0, 1)}

  def figures(self, found):
    """Of the pairs."""
    (one, two), gold = found.values(), self.data[1]
    cosine, best = embeddings.cosine(one, two), gold == gold.max()
    return embeddings.correlations(cosine, gold) | {
        "mean_cosine": float(cosine.mean()), "uniformity": embeddings.uniformity(one),
        "alignment": embeddings.alignment(one[best], two[best])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Files:
  """Files of a retrieval task, or a source of texts with labels.

  Attributes:
    corpus: jsonl of documents, {"_id", "text"} each, with a "title" or without (BEIR).
    queries: jsonl of queries, {"_id", "text"} each.
    relevance: table with the columns query-id, corpus-id and score (.tsv, .csv or .jsonl).
    source, split, limit: where there are no files: texts with a label are queries, and the other
      texts of a label are relevant; or, of records without a label, the first text of each is a
      query, the second its relevant document, and all others are documents.
    best_by: as of `Texts`.
  """
  corpus: str = ""
  queries: str = ""
  relevance: str = ""
  source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  split: str = "validation"
  limit: int = 0
  best_by: str = ""

  def __post_init__(self):
    files = (self.corpus, self.queries, self.relevance)
    if any(files) != all(files) or not any(files) and not self.source:
      raise ValueError("eval.retrieval takes the files corpus, queries and relevance, all three, "
                       f"or else a source; got {sum(map(bool, files))} of the files.")


class Retrieval(embedded.Embedded):
  """Ranking of documents by cosine with a query: nDCG@10, recall, MRR@10 and MAP."""
  table, fields = "retrieval", _Files
  names = ("ndcg_at_10", "recall_at_1", "recall_at_10", "recall_at_100", "mrr_at_10", "map")
  _depths: ClassVar = {"ndcg": (10,), "recall": (1, 10, 100), "mrr": (10,), "map": (0,)}

  def read(self):
    """Queries, documents and the gains of each query."""
    if not self.own.corpus:
      return self._of_source()
    documents, queries = _by_id(self.own.corpus), _by_id(self.own.queries)
    number, known = {key: i for i, key in enumerate(documents)}, {key: {} for key in queries}
    columns = ("query-id", "corpus-id", "score")
    for record in labelled.table_records(self.own.relevance, fields=columns, label=""):
      query, document, score = record["texts"]
      for key, keys, path in ((query, known, self.own.queries),
                              (document, number, self.own.corpus)):
        if key not in keys:
          raise ValueError(f"{record['where']}: {path} has no id {key!r}; correct one of the "
                           "files.")
      known[query][number[document]] = float(score)
    for key, gains in known.items():
      if not any(gain > 0 for gain in gains.values()):
        raise ValueError(f"{self.own.queries}: query {key!r} has no relevant document in "
                         f"{self.own.relevance}; give it one, or leave the query out.")
    return list(queries.values()), list(documents.values()), list(known.values())

  def _of_source(self):
    records = Texts(source=self.own.source, split=self.own.split,
                    limit=self.own.limit).records(has_labels=False)
    if "label" not in records[0] and len(records[0].get("texts", ())) > 1:
      documents = [{"text": text} for record in records for text in record["texts"][1:]]
      size = len(records[0]["texts"]) - 1
      return _texts_of(records, 0), documents, [{i * size: 1.0} for i in range(len(records))]
    if "label" not in records[0]:
      raise ValueError("eval.retrieval needs texts with labels, or records of two texts or more; "
                       "use another source, or files.")
    _check_number(records, 1, self.table)
    labels = _classes(records)
    known = [{int(j): 1.0 for j in np.flatnonzero(labels == label) if j != i}
             for i, label in enumerate(labels)]
    if lonely := [i for i, gains in enumerate(known) if not gains]:
      raise ValueError(f"text {lonely[0]} is the only one of its label, so that no other is "
                       "relevant; take more texts (eval.retrieval.limit).")
    return _texts_of(records, 0), None, known

  def embedded(self, params):
    """Of queries and documents."""
    queries, documents, _ = self.data
    found = {"queries": self.vectors(params, queries)}
    return found | ({"documents": self.vectors(params, documents)} if documents else {})

  def figures(self, found):
    """Means over the queries; a text does not find itself."""
    queries = embeddings.unit(found["queries"])
    scores = queries @ embeddings.unit(found.get("documents", queries)).T
    if "documents" not in found:
      np.fill_diagonal(scores, -np.inf)
    return embeddings.ranking(scores, self.data[2], self._depths)


def _by_id(path: str) -> dict[str, dict[str, str]]:
  """Texts of a jsonl file of BEIR by their ids, with the title before the text."""
  found: dict[str, dict[str, str]] = {}
  for where, row in readers.json_rows(path):
    if not isinstance(row, dict) or not {"_id", "text"} <= set(row):
      raise ValueError(f"{where}: expected an object with _id and text.")
    text = f"{row.get('title', '')} {row['text']}".strip()
    if str(row["_id"]) in found or not text:
      raise ValueError(f"{where}: the id {row['_id']!r} comes twice, or its text is empty; correct "
                       "the row.")
    found[str(row["_id"])] = {"text": text}
  if not found:
    raise ValueError(f"{path}: there are no texts; expected one a line.")
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Classes(Texts):
  """Texts with labels, and those that a classifier is trained on.

  Attributes:
    num_train: texts of the training split, the first ones.
    num_neighbours: of the vote.
  """
  num_train: int = 256
  num_neighbours: int = 5

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "eval.text_classification",
                     at_least=dict(num_train=2, num_neighbours=1))


class TextClassification(embedded.Embedded):
  """Accuracy of nearest neighbours and of logistic regression on frozen embeddings."""
  table, fields = "text_classification", _Classes
  names = ("knn_accuracy", "logistic_accuracy")

  def read(self):
    """Texts of both splits, and their labels."""
    train = dataclasses.replace(self.own, limit=self.own.num_train).records("train")
    test = self.own.records()
    _check_number(test, 1, self.table)
    labels = _classes([*train, *test])
    return train, test, labels[:len(train)], labels[len(train):]

  def embedded(self, params):
    """Of the texts of each split."""
    return {name: self.vectors(params, _texts_of(records, 0))
            for name, records in zip(("train", "test"), self.data)}

  def figures(self, found):
    """Of the texts of the evaluated split."""
    train, test = found.values()
    _, _, labels, gold = self.data
    near = embeddings.neighbours(train, labels, test, self.own.num_neighbours)
    return {"knn_accuracy": float((near == gold).mean()), "logistic_accuracy": float(
        (embeddings.logistic(train, labels, test) == gold).mean())}


class Clustering(embedded.Embedded):
  """V-measure of k-means with as many clusters as labels."""
  table, fields, names = "clustering", Texts, ("v_measure",)

  def read(self):
    """Texts and their labels."""
    records = self.own.records()
    _check_number(records, 1, self.table)
    return records, _classes(records)

  def embedded(self, params):
    """Of the texts."""
    return {"texts": self.vectors(params, _texts_of(self.data[0], 0))}

  def figures(self, found):
    """Of all texts."""
    labels = self.data[1]
    clusters = embeddings.clusters(embeddings.unit(found["texts"]), int(labels.max()) + 1)
    return {"v_measure": embeddings.v_measure(labels, clusters)}


class PairClassification(embedded.Embedded):
  """Average precision of the cosines of pairs: which belong together.

  Of records with two texts the last label in order (1 of 0 and 1) says that they do; of records
  with one text all pairs count, and those of one label belong together.
  """
  table, fields, names = "pair_classification", Texts, ("pair_ap",)

  def read(self):
    """Texts and their labels."""
    records = self.own.records()
    return records, _classes(records)

  def embedded(self, params):
    """Of the texts of each place."""
    records = self.data[0]
    return {str(i): self.vectors(params, _texts_of(records, i))
            for i in range(len(records[0].get("texts", ("",))))}

  def figures(self, found):
    """Of the pairs."""
    labels, (one, *other) = self.data[1], found.values()
    if other:
      scores, right = embeddings.cosine(one, other[0]), labels == labels.max()
    else:
      first, second = np.triu_indices(len(labels), 1)
      x = embeddings.unit(one)
      scores, right = (x @ x.T)[first, second], labels[first] == labels[second]
    return {"pair_ap": embeddings.average_precision(scores, right)}
