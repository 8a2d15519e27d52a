"""Linear probes: the regression, average precision, and what is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.build import setup as setup_lib
from mdx.corruption import temporal
from mdx.eval.evaluators import linear_probe as linear
from mdx.utils import rng

import tiny


def test_ridge_is_the_minimum_of_its_objective():
  draw = np.random.default_rng(0)
  train, test = draw.normal(size=(9, 4)) * [1, 10, 0.1, 3] + 2, draw.normal(size=(5, 4))
  targets = draw.normal(size=(9, 2))
  found = linear.ridge_scores(train, targets, test, 0.7)
  scale = train.std(axis=0) * 2  # sqrt(D)
  x, y = (train - train.mean(axis=0)) / scale, targets - targets.mean(axis=0)
  weights = np.linalg.solve(x.T @ x + 0.7 * np.eye(4), x.T @ y)  # the primal problem
  np.testing.assert_allclose(
      found, (test - train.mean(axis=0)) / scale @ weights + targets.mean(axis=0), rtol=1e-8)


def test_average_precision_is_the_mean_of_the_precision_at_right_ones():
  scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.1, 0.1, 0.0]])
  right = np.array([[False, True, True], [True, False, False], [True, False, False]])
  np.testing.assert_allclose(linear.average_precision(scores, right),
                             [(1 / 2 + 2 / 3) / 2, 1.0, 1 / 2])  # ties: the right one is last


@pytest.mark.parametrize("fields, message", [
    (dict(num_labels=600), "num_labels 600 exceeds its pool 512"),
    (dict(num_draws=0), "num_draws must be at least 1")])
def test_probes_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    linear.Probe(**fields)


def _evaluator(tmp_path, source, **fields):
  cfg = tiny.config("mlm", **{"tokenizer__path": "grammar", "data__length": 24, **fields})
  cfg.data.source = source
  cfg.eval.probe.update(num_labels=60, num_draws=4, pool=128)
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  jax.set_mesh(run.mesh)
  evaluator = run.evaluation().members["linear_probe"]
  return lambda params: evaluator(params, {}, quick=True), evaluator, run


@pytest.mark.slow
def test_bags_of_embeddings_tell_the_topic_and_constant_states_do_not(tmp_path):
  source = dict(name="grammar", num_documents=200, num_validation=100, num_sentences=3)
  probed, evaluator, run = _evaluator(tmp_path, source, network__width=64)
  params = run.objective.init(rng.root(0))
  known = probed(params)["probe_accuracy"]
  params["model"]["final_norm"]["scale"] = jnp.zeros_like(params["model"]["final_norm"]["scale"])
  blind = probed(params)["probe_accuracy"]
  assert known > 0.3 and blind < 0.25  # one of eight topics
  # Padding is no part of the mean: the features of a text do not change with it.
  rows, _ = evaluator._pools["validation"]
  assert len(rows) == 100 and not all(row["loss_mask"].all() for row in rows)


def test_records_without_labels_are_refused(tmp_path):
  with pytest.raises(ValueError, match="needs records with labels"):
    _evaluator(tmp_path, dict(name="memory", documents=("ab",) * 40), tokenizer__path="char")


@pytest.mark.slow
def test_news_are_dated_from_texts_without_a_date(tmp_path):
  source = dict(name="news", num_documents=90, num_validation=60)
  probed, evaluator, run = _evaluator(tmp_path, source, tokenizer__path="news", data__packing="crop",
                              data__length=32)
  rows, labels = evaluator._pools["train"]
  assert len(rows) == 90 and set(labels) <= set(range(24))
  assert not any((row["spans"] == temporal.code(temporal.TEMPORAL, True)).any() for row in rows)
  assert 0 <= probed(run.objective.init(rng.root(0)))["probe_accuracy"] < 0.7


@pytest.mark.slow
def test_questions_are_ranked_by_states_of_their_rows(tmp_path):
  source = dict(name="structure", validation_size=20, documents=dict(
      name="grammar", num_documents=60, num_validation=60, num_paragraphs=2, num_sentences=3))
  probed, evaluator, run = _evaluator(tmp_path, source, data__packing="pad", data__append_eos=False,
                              network__token_types=2)
  found = probed(run.objective.init(rng.root(0)))["probe_map"]
  chance = np.mean(1 / np.arange(1, 6))
  assert chance - 0.12 < found < 1
  rows, labels = evaluator._pools["train"]
  assert labels.shape == (128, 5) and (labels.sum(axis=1) == 1).all() and len(rows) == 640
