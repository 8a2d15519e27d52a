"""Measures of embeddings: similarity, retrieval, classification, clustering, pairs, geometry.

Contents: check_texts, unit, cosine, correlations, ranking, RANKINGS, neighbours, logistic,
clusters, v_measure, average_precision, uniformity, alignment.

Convention: embeddings are rows, float [N, D]; all is computed in float64. Definitions are those of
scipy, scikit-learn and trec_eval, and so those of MTEB. Larger is better for all but uniformity
and alignment.

References: Muennighoff et al. 2022, arXiv:2210.07316 (MTEB); Järvelin & Kekäläinen 2002 (nDCG);
Rosenberg & Hirschberg 2007, D07-1043 (V-measure); Arthur & Vassilvitskii 2007 (k-means++); Wang &
Isola 2020, arXiv:2005.10242 (uniformity and alignment).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import warnings

import numpy as np
from scipy import optimize
from scipy import special
from scipy import stats
from scipy.cluster import vq


def check_texts(texts: Sequence[str], what: str) -> None:
  """Raises ValueError for no texts, or for one without characters.

  Args:
    texts: to embed.
    what: their name, for messages.
  """
  if not len(texts):
    raise ValueError(f"{what}: there are no texts; expected one or more.")
  for i, text in enumerate(texts):
    if not text.strip():
      raise ValueError(f"{what}: text {i} is empty; an embedding is of one token or more, leave "
                       "the record out.")


def unit(x: np.ndarray) -> np.ndarray:
  """Rows of length 1, float64 [N, D]; rows of zeros stay."""
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Cosines of rows of the same number, float64 [N]."""
  return (unit(x) * unit(y)).sum(axis=-1)


def correlations(scores: np.ndarray, gold: np.ndarray) -> dict[str, float]:
  """{"spearman", "pearson"} of scores [N] with gold scores [N]; 0 where one of them is constant.

  Raises:
    ValueError: gold scores that are all equal, with which nothing correlates.
  """
  scores, gold = (np.asarray(x, np.float64) for x in (scores, gold))
  if np.ptp(gold) == 0:
    raise ValueError(f"the {len(gold)} gold similarities are all {gold[0]:g}; expected different "
                     "ones.")
  if np.ptp(scores) == 0:
    return {"spearman": 0.0, "pearson": 0.0}
  return {"spearman": float(stats.spearmanr(scores, gold).statistic),
          "pearson": float(stats.pearsonr(scores, gold).statistic)}


def _ndcg(gains: np.ndarray, best: np.ndarray, depth: int) -> float:
  gain = lambda x: (x[:depth] / np.log2(2 + np.arange(min(depth, len(x))))).sum()
  return float(gain(gains) / gain(best))


def _recall(gains: np.ndarray, best: np.ndarray, depth: int) -> float:
  return float((gains[:depth] > 0).sum() / (best > 0).sum())


def _reciprocal_rank(gains: np.ndarray, best: np.ndarray, depth: int) -> float:
  del best
  found = np.flatnonzero(gains[:depth] > 0)
  return float(1 / (1 + found[0])) if found.size else 0.0


def _precision(gains: np.ndarray, best: np.ndarray, depth: int) -> float:
  """Average precision."""
  ranks = np.flatnonzero(gains[:depth] > 0)
  return float((np.arange(1, len(ranks) + 1) / (ranks + 1)).sum() / (best > 0).sum())


# Name -> (gains in the order of the ranking [n], in the best order [n], depth) -> figure.
RANKINGS = {"ndcg": _ndcg, "recall": _recall, "mrr": _reciprocal_rank, "map": _precision}


def ranking(scores: np.ndarray, relevance: Sequence[Mapping[int, float]],
            depths: Mapping[str, Sequence[int]]) -> dict[str, float]:
  """Figures of retrieval, averaged over the queries.

  Args:
    scores: [Q, N], of N documents; ties count against relevant documents.
    relevance: for each query, number of a document -> its gain; other documents have gain 0.
    depths: name of RANKINGS -> ranks down to which it is measured; 0 = all documents.

  Returns:
    "ndcg_at_10" and the like; the name alone for all documents.

  Raises:
    ValueError: a query without a relevant document.
  """
  totals: dict[str, float] = {}
  for i, (row, known) in enumerate(zip(np.asarray(scores, np.float64), relevance, strict=True)):
    gain = np.zeros(len(row))
    gain[list(known)] = list(known.values())
    if not (gain > 0).any():
      raise ValueError(f"query {i} has no relevant document; give it one, or leave it out.")
    ranked, best = gain[np.lexsort((gain, -row))], np.sort(gain)[::-1]
    for name, ranks in depths.items():
      for depth in ranks:
        key = f"{name}_at_{depth}" if depth else name
        totals[key] = totals.get(key, 0.0) + RANKINGS[name](ranked, best, depth or len(row))
  return {key: total / len(relevance) for key, total in totals.items()}


def neighbours(train: np.ndarray, labels: np.ndarray, test: np.ndarray, num: int) -> np.ndarray:
  """Labels by vote of the `num` nearest by cosine; the smallest label of those with most votes.

  Args:
    train: [n, D].
    labels: int [n].
    test: [m, D].
    num: of neighbours.

  Returns:
    int [m].
  """
  near = np.argsort(-unit(test) @ unit(train).T, axis=1, kind="stable")[:, :num]
  votes = np.zeros((len(test), int(labels.max()) + 1))
  np.add.at(votes, (np.arange(len(test))[:, None], labels[near]), 1)
  return votes.argmax(axis=1)


def logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray,
             inverse_penalty: float = 1.0) -> np.ndarray:
  """Labels by multinomial logistic regression with an intercept, int [m].

  Minimises half the squared weights plus `inverse_penalty` times the sum of the cross-entropies.

  Args:
    train: [n, D].
    labels: int [n].
    test: [m, D].
    inverse_penalty: C of scikit-learn.
  """
  train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
  one_hot = np.eye(int(labels.max()) + 1)[labels]
  shape = (train.shape[1] + 1, one_hot.shape[1])
  rows = np.concatenate([train, np.ones((len(train), 1))], axis=1)

  def loss_and_gradient(flat):
    weights = flat.reshape(shape)
    log_probs = special.log_softmax(rows @ weights, axis=1)
    decayed = weights * (np.arange(shape[0]) < shape[0] - 1)[:, None]
    gradient = decayed + inverse_penalty * rows.T @ (np.exp(log_probs) - one_hot)
    loss = 0.5 * (decayed ** 2).sum() - inverse_penalty * (one_hot * log_probs).sum()
    return loss, gradient.reshape(-1)

  found = optimize.minimize(loss_and_gradient, np.zeros(shape[0] * shape[1]), jac=True,
                            method="L-BFGS-B", options={"maxiter": 100})
  weights = found.x.reshape(shape)
  return (test @ weights[:-1] + weights[-1]).argmax(axis=1)


def clusters(x: np.ndarray, num: int, seed: int = 0, num_starts: int = 3,
             num_rounds: int = 100) -> np.ndarray:
  """Clusters of k-means, int [N]: the best of some starts with k-means++.

  Args:
    x: [N, D].
    num: of clusters, at most N.
    seed: of the starts.
    num_starts: starts, of which the one with the smallest squared distances counts.
    num_rounds: rounds of a start.
  """
  x, found = np.asarray(x, np.float64), []
  for start in range(num_starts):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", UserWarning)  # an empty cluster keeps its centre
      centres, own = vq.kmeans2(x, num, num_rounds, minit="++",
                                seed=np.random.default_rng([seed, start]))
    found.append((((x - centres[own]) ** 2).sum(), own))
  return min(found, key=lambda one: one[0])[1]


def v_measure(gold: np.ndarray, found: np.ndarray) -> float:
  """Harmonic mean of homogeneity and completeness of clusters int [N] against labels int [N]."""
  table = np.zeros((int(max(gold)) + 1, int(max(found)) + 1))
  np.add.at(table, (gold, found), 1 / len(gold))
  of_gold, of_found, joint = (stats.entropy(p.reshape(-1)) for p in (
      table.sum(axis=1), table.sum(axis=0), table))
  shared = max(of_gold + of_found - joint, 0.0)
  homogeneity = shared / of_gold if of_gold else 1.0
  completeness = shared / of_found if of_found else 1.0
  total = homogeneity + completeness
  return float(2 * homogeneity * completeness / total) if total else 0.0


def average_precision(scores: np.ndarray, is_pair: np.ndarray) -> float:
  """Area under precision by recall of scores [N], in steps; tied scores are one step.

  Raises:
    ValueError: no pair is right.
  """
  is_pair = np.asarray(is_pair, bool)
  if not is_pair.any():
    raise ValueError(f"none of the {len(is_pair)} pairs is right, so there is nothing to find.")
  values, step = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
  right = np.cumsum(np.bincount(step, is_pair, len(values)))
  precision = right / np.cumsum(np.bincount(step, minlength=len(values)))
  return float((np.diff(right, prepend=0) * precision).sum() / right[-1])


def uniformity(x: np.ndarray) -> float:
  """log of the mean of exp(-2 squared distance) over pairs of different rows of length 1."""
  x = unit(x)
  first, second = np.triu_indices(len(x), 1)
  squared = 2 - 2 * (x @ x.T)[first, second]
  return float(special.logsumexp(-2 * squared) - np.log(len(first)))


def alignment(x: np.ndarray, y: np.ndarray) -> float:
  """Mean squared distance of rows that belong together, of length 1."""
  return float((2 - 2 * cosine(x, y)).mean())
