"""Measures of embeddings: by hand, and equal to those of scipy, scikit-learn and trec_eval."""

import math

import numpy as np
import pytest

from mdx.eval import embeddings


def _rows(num, width=6, seed=0):
  return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


def _labelled(num, spread=1.0, seed=0):
  """Rows around four centres, and the number of the centre."""
  draw = np.random.default_rng(seed)
  labels = draw.integers(4, size=num)
  centres = np.random.default_rng(9).normal(size=(4, 6))
  return (centres[labels] + spread * draw.normal(size=(num, 6))).astype(np.float32), labels


def test_figures_of_one_query_are_those_by_hand():
  scores = np.array([[0.9, 0.8, 0.7, 0.1]])  # the second and the fourth are relevant
  found = embeddings.ranking(scores, [{1: 2, 3: 1}], {
      "ndcg": (10, 2), "recall": (2,), "mrr": (10, 1), "map": (0,)})
  best = 2 / math.log2(2) + 1 / math.log2(3)
  assert found == pytest.approx({
      "ndcg_at_10": (2 / math.log2(3) + 1 / math.log2(5)) / best,
      "ndcg_at_2": 2 / math.log2(3) / best, "recall_at_2": 0.5, "mrr_at_10": 0.5, "mrr_at_1": 0.0,
      "map": (1 / 2 + 2 / 4) / 2})


def test_a_tie_counts_against_the_relevant_document():
  found = embeddings.ranking(np.zeros((1, 4)), [{0: 1}], {"mrr": (0,)})
  assert found == {"mrr": 0.25}


def test_retrieval_is_that_of_trec_eval():
  trec = pytest.importorskip("pytrec_eval")
  draw = np.random.default_rng(0)
  scores = draw.permutation(20 * 30).reshape(20, 30) / 1000
  relevance = [{int(j): int(draw.integers(1, 4)) for j in draw.permutation(30)[:1 + i % 12]}
               for i in range(20)]
  found = embeddings.ranking(scores, relevance, {
      "ndcg": (10,), "recall": (5, 10), "mrr": (0,), "map": (0,)})
  name = {"ndcg_at_10": "ndcg_cut_10", "recall_at_5": "recall_5", "recall_at_10": "recall_10",
          "mrr": "recip_rank", "map": "map"}
  evaluator = trec.RelevanceEvaluator(
      {str(i): {str(j): gain for j, gain in row.items()} for i, row in enumerate(relevance)},
      {"ndcg_cut.10", "recall.5,10", "recip_rank", "map"})
  rows = evaluator.evaluate({str(i): {str(j): float(x) for j, x in enumerate(row)}
                             for i, row in enumerate(scores)})
  assert len(rows) == 20
  for key, value in found.items():
    assert value == pytest.approx(np.mean([row[name[key]] for row in rows.values()])), key


def test_classification_clusters_and_pairs_are_those_of_scikit_learn():
  linear_model = pytest.importorskip("sklearn.linear_model")
  metrics = pytest.importorskip("sklearn.metrics")
  nearest = pytest.importorskip("sklearn.neighbors")
  (train, labels), (test, gold) = _labelled(60), _labelled(50, seed=1)
  one = nearest.KNeighborsClassifier(5, metric="cosine").fit(train, labels)
  np.testing.assert_array_equal(embeddings.neighbours(train, labels, test, 5), one.predict(test))
  one = linear_model.LogisticRegression(C=2.0, max_iter=100).fit(train, labels)
  np.testing.assert_array_equal(embeddings.logistic(train, labels, test, 2.0), one.predict(test))
  found = embeddings.clusters(test, 4)
  assert embeddings.v_measure(gold, found) == pytest.approx(metrics.v_measure_score(gold, found))
  scores = np.round(embeddings.cosine(train[:50], test), 1)  # with ties
  assert embeddings.average_precision(scores, gold == labels[:50]) == pytest.approx(
      metrics.average_precision_score(gold == labels[:50], scores))


def test_k_means_finds_clusters_that_lie_apart():
  x, labels = _labelled(40, spread=0.05)
  assert embeddings.v_measure(labels, embeddings.clusters(x, 4)) == pytest.approx(1.0)
  assert embeddings.v_measure(labels, np.zeros(40, int)) == 0.0


def test_correlation_is_one_for_any_rising_scale_and_zero_for_a_constant():
  gold = np.array([0, 1, 2, 3, 5.0])
  found = embeddings.correlations(gold ** 3, gold)
  assert found["spearman"] == pytest.approx(1.0) and 0.8 < found["pearson"] < 0.99
  assert embeddings.correlations(np.ones(5), gold) == {"spearman": 0.0, "pearson": 0.0}


def test_uniformity_and_alignment_are_those_of_the_definition():
  x, y = _rows(7), _rows(7, seed=1)
  unit = lambda v: v / np.linalg.norm(v)
  squared = [((unit(a) - unit(b)) ** 2).sum() for i, a in enumerate(x) for b in x[:i]]
  assert embeddings.uniformity(x) == pytest.approx(math.log(np.mean(np.exp(-2 * np.array(squared)))),
                                                   rel=1e-5)
  assert embeddings.alignment(x, y) == pytest.approx(
      np.mean([((unit(a) - unit(b)) ** 2).sum() for a, b in zip(x, y)]), rel=1e-5)
  assert embeddings.alignment(x, 3 * x) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda: embeddings.check_texts([], "data"), "data: there are no texts"),
    (lambda: embeddings.check_texts(["a", " "], "data"), "data: text 1 is empty"),
    (lambda: embeddings.ranking(np.ones((1, 2)), [{}], {"map": (0,)}),
     "query 0 has no relevant document; give it one"),
    (lambda: embeddings.correlations(np.arange(3), np.ones(3)), "3 gold similarities are all 1"),
    (lambda: embeddings.average_precision(np.ones(3), np.zeros(3)), "none of the 3 pairs is right")])
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
