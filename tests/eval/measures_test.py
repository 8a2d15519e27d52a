"""Measures against other libraries and hand counts, and tests against enumeration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mdx.eval import measures
from mdx.eval import significance

_LABELS = ("a", "b", "c")


def _classes(num=200, seed=0):
  draw = np.random.default_rng(seed)
  gold = draw.integers(0, 3, num)
  scores = draw.normal(size=(num, 3)) + 0.8 * np.eye(3)[gold]
  return measures.Predictions(_LABELS, gold, scores=scores)


def test_measures_of_classes_are_those_of_scikit_learn():
  metrics = pytest.importorskip("sklearn.metrics")
  p = _classes()
  predicted = p.scores.argmax(axis=1)
  assert measures.value("accuracy", p) == pytest.approx(metrics.accuracy_score(p.gold, predicted))
  assert measures.value("macro_f1", p) == pytest.approx(
      metrics.f1_score(p.gold, predicted, average="macro"))
  assert measures.value("mcc", p) == pytest.approx(metrics.matthews_corrcoef(p.gold, predicted))
  two = measures.Predictions(("0", "1"), p.gold % 2, scores=p.scores[:, :2])
  assert measures.value("f1", two) == pytest.approx(
      metrics.f1_score(two.gold, two.scores.argmax(axis=1)))
  # A class that occurs nowhere is left out of the mean.
  rare = p._replace(labels=(*_LABELS, "d"), scores=np.pad(p.scores, ((0, 0), (0, 1)),
                                                          constant_values=-9))
  assert measures.value("macro_f1", rare) == pytest.approx(measures.value("macro_f1", p))


def test_correlations_are_those_of_scipy_also_with_ties():
  draw = np.random.default_rng(0)
  gold = draw.integers(0, 6, 300).astype(float)
  p = measures.Predictions((), gold, scores=np.round(gold + draw.normal(size=300) + 100, 1))
  pearson, spearman = stats.pearsonr(p.scores, gold)[0], stats.spearmanr(p.scores, gold)[0]
  assert measures.value("pearson", p) == pytest.approx(pearson)
  assert measures.value("spearman", p) == pytest.approx(spearman)
  assert measures.value("pearson_spearman", p) == pytest.approx((pearson + spearman) / 2)
  assert measures.value("pearson", p._replace(scores=np.ones(300))) == 0.0


def test_entity_f1_is_seqevals_strict_one_and_counts_whole_entities():
  seqeval = pytest.importorskip("seqeval.metrics")
  scheme = pytest.importorskip("seqeval.scheme")
  draw = np.random.default_rng(0)
  tags = np.array(["O", "B-X", "I-X", "B-Y", "I-Y"])
  rows = lambda: [tags[draw.integers(0, 5, n)].tolist() for n in draw.integers(1, 9, 120)]
  gold = rows()
  predicted = [[t if draw.random() < 0.6 else str(draw.choice(tags)) for t in row] for row in gold]
  p = measures.Predictions(tuple(tags), gold, tags=predicted)
  assert measures.value("entity_f1", p) == pytest.approx(
      seqeval.f1_score(gold, predicted, mode="strict", scheme=scheme.IOB2))
  # By hand: an entity that is too short is wrong, as is one of another type.
  one = measures.Predictions(tuple(tags), [["B-X", "I-X", "O", "B-Y"]],
                             tags=[["B-X", "O", "O", "B-Y"]])
  assert measures.units("entity_f1", one).tolist() == [[1, 2, 2]]
  assert measures.value("entity_f1", one) == 0.5 and measures.value("word_accuracy", one) == 0.75


def test_rankings_by_hand():
  log = lambda *p: np.stack([np.log1p(-np.array(p)), np.log(p)], axis=1)
  scores = log(0.9, 0.8, 0.7, 0.2, 0.6, 0.6, 0.1, 0.4)
  gold = [0, 1, 0, 1, 1, 0, 0, 0]
  groups = ["q"] * 4 + ["r"] * 2 + ["none right"] * 2
  p = measures.Predictions(("0", "1"), gold, scores=scores, groups=groups)
  # q: right at 2 and 4; r: the wrong one of two equal scores stands first.
  assert measures.value("map", p) == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1 / 2) / 2)
  assert measures.value("mrr", p) == pytest.approx((1 / 2 + 1 / 2) / 2)
  assert measures.value("p_at_1", p) == 0.0
  with pytest.raises(ValueError, match="nothing to rank"):
    measures.value("map", p._replace(gold=[0] * 8))
  with pytest.raises(ValueError, match="'map' is of group, which these predictions are not"):
    measures.value("map", p._replace(groups=None))


def test_predictions_survive_the_disk(tmp_path):
  for p in (_classes(5), _classes(5)._replace(groups=list("aabbc")),
            measures.Predictions((), np.array([1.5, 2.5]), scores=np.array([1.0, 2.0])),
            measures.Predictions(("O",), [["O"]], tags=[["O"]])):
    p.save(tmp_path / "p.jsonl", [{}] * len(p.gold))
    again = measures.load(tmp_path / "p.jsonl", p.labels)
    assert again.groups == p.groups and again.tags == p.tags
    if p.tags is None:
      assert (np.asarray(again.gold) == p.gold).all() and np.allclose(again.scores, p.scores)


def test_measures_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="'entity_f1'; for labels of text choose from accuracy"):
    measures.check({"measures": ("entity_f1",)}, "text")
  with pytest.raises(ValueError, match="'empty'; for labels of words choose from entity_f1"):
    measures.check({"measures": ()}, "words")


_SHARE = measures.MEASURES["accuracy"].value


def _units(right):
  return np.stack([right, np.ones(len(right))], axis=1).astype(float)


def test_permutation_is_that_of_all_sign_changes():
  draw = np.random.default_rng(3)
  left, right = (draw.integers(0, 4, (8, 3)).astype(float) for _ in range(2))
  f1 = measures.MEASURES["entity_f1"].value
  observed = abs(f1(left.sum(axis=0)) - f1(right.sum(axis=0)))
  extreme = 0
  for swaps in itertools.product((0, 1), repeat=8):
    swap = np.array(swaps, bool)[:, None]
    a, b = np.where(swap, right, left), np.where(swap, left, right)
    extreme += abs(f1(a.sum(axis=0)) - f1(b.sum(axis=0))) >= observed - 1e-12
  found = significance.paired_permutation(left, right, f1, num_resamples=20_000)
  assert found == pytest.approx(extreme / 256, abs=0.012)
  assert significance.paired_permutation(left, left, f1, num_resamples=100) == 1.0


def test_the_bootstrap_interval_covers_95_percent():
  draw, covered, trials = np.random.default_rng(0), 0, 200
  for i in range(trials):
    p = draw.random((200, 2)) < (0.8, 0.7)
    found = significance.paired_bootstrap(_units(p[:, 0]), _units(p[:, 1]), _SHARE,
                                          num_resamples=400, seed=i)
    covered += found.low <= 0.1 <= found.high
  assert 0.91 <= covered / trials <= 0.985
  same = _units(draw.random(50) < 0.5)
  assert significance.paired_bootstrap(same, same, _SHARE, num_resamples=100).p == 1.0
  with pytest.raises(ValueError, match="50 and 49 units"):
    significance.paired_bootstrap(same, same[:-1], _SHARE)


def test_corrections_by_hand():
  p = [0.04, 0.01, 0.03, 0.005]
  assert significance.holm(p) == pytest.approx([0.06, 0.03, 0.06, 0.02])
  assert significance.hochberg(p) == pytest.approx([0.04, 0.03, 0.04, 0.02])
  assert significance.holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_models_that_tie_on_every_task_are_alike():
  assert significance.friedman([[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]]).p == 1.0


def test_friedman_and_nemenyi_are_those_of_demsar():
  # Demsar 2006, table 6: AUC of four variants of C4.5 on 14 data sets; ranks 3.143, 2, 2.893, 1.964
  # and a critical difference of 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25.
  table = np.array([
      [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967],
      [.628, .661, .654, .657], [.882, .888, .886, .898], [.936, .931, .916, .931],
      [.661, .668, .609, .685], [.583, .583, .563, .625], [.775, .838, .866, .875],
      [1.0, 1.0, 1.0, 1.0], [.940, .962, .965, .962], [.619, .666, .614, .669],
      [.972, .981, .9751, .975], [.957, .978, .946, .970]])
  found = significance.friedman(table)
  assert found.average_ranks == pytest.approx([3.143, 2.0, 2.893, 1.964], abs=1e-3)
  assert found.critical_difference == pytest.approx(1.25, abs=0.01) and found.p < 0.05
  assert np.isnan(significance.friedman(table[:, :2]).p)
  assert significance.wilcoxon([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_the_expected_maximum_is_that_of_all_draws():
  values = [0.3, 0.9, 0.5]
  found = significance.expected_maximum(values)
  for n in (1, 2, 3):
    draws = [max(x) for x in itertools.product(values, repeat=n)]
    assert found[n - 1] == pytest.approx(np.mean(draws))
