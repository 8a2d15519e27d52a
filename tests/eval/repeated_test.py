"""pass@k and best of k against enumeration of all subsets."""

import itertools

import numpy as np
import pytest

from mdx.eval import repeated

DRAW = np.random.default_rng(0)
CORRECT = DRAW.random((6, 5)) < [[0.0], [0.2], [0.5], [0.8], [1.0], [0.5]]
SCORE = np.round(DRAW.normal(size=(6, 5)), 1)
SCORE[5] = [1, 1, 0, 0, 1]  # ties


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_figures_are_expectations_over_all_subsets(size):
  for correct, score, passed, best in zip(CORRECT, SCORE, repeated.pass_at_k(CORRECT, size),
                                          repeated.best_of_k(CORRECT, SCORE, size)):
    subsets = [list(s) for s in itertools.combinations(range(5), size)]
    assert passed == pytest.approx(np.mean([correct[s].any() for s in subsets]))
    tops = [correct[s][score[s] == score[s].max()].mean() for s in subsets]
    if len(set(score)) == 5:  # of ties the expectation is over an order drawn at random
      assert best == pytest.approx(np.mean(tops))
    else:
      orders = [score + 1e-6 * np.random.default_rng(i).permutation(5) for i in range(4000)]
      means = [np.mean([correct[s][np.argmax(o[s])] for s in subsets]) for o in orders]
      assert best == pytest.approx(np.mean(means), abs=0.03)


def test_one_answer_is_the_accuracy_and_its_error():
  answers = repeated.Repeated(CORRECT, SCORE.astype(np.float32))
  row, = repeated.figures(answers, (1,))
  assert row["pass_at_k"] == row["best_of_k"] == pytest.approx(CORRECT.mean())
  assert row["stderr"] == pytest.approx(CORRECT.mean(axis=1).std(ddof=1) / np.sqrt(6))
  assert (row["k"], row["num_samples"], row["num_examples"]) == (1, 5, 6)


def test_what_cannot_be_drawn_is_refused():
  with pytest.raises(ValueError, match="k = 8, of 4 answers"):
    repeated.check(4, (1, 8), 1.0, "config.eval.pass_k")
  with pytest.raises(ValueError, match="temperature 0 are all alike"):
    repeated.check(4, (1,), 0.0, "config.eval.pass_k")
