"""Confusion matrices and the examples that are most wrong."""

import json

import numpy as np

from mdx.eval import measures
from mdx.report import predictions
from mdx.report import page


def _rows(tmp_path, found, records):
  found.save(tmp_path / "test_predictions.jsonl", records)
  return predictions.read(tmp_path / "test_predictions.jsonl")


def test_the_matrix_counts_gold_by_predicted_and_its_diagonal_is_the_accuracy(tmp_path):
  names, rng = ("a", "b", "c"), np.random.default_rng(0)
  p = measures.Predictions(names, rng.integers(3, size=50), scores=rng.normal(size=(50, 3)))
  rows = _rows(tmp_path, p, [{"texts": [f"text {i}"]} for i in range(50)])
  head, table = predictions.confusion(rows, names)
  assert head[1:] == list(names) and [row[0] for row in table] == list(names)
  counts = np.array([row[1:] for row in table])
  expected = np.zeros((3, 3), int)
  np.add.at(expected, (p.gold, p.scores.argmax(1)), 1)
  assert (counts == expected).all()
  assert np.trace(counts) / 50 == measures.value("accuracy", p)
  head, worst = predictions.examples(rows, names)
  assert head == ["text", "label", "predicted", "probability"] and len(worst) == 10
  assert all(row[1] != row[2] for row in worst)
  assert [row[3] for row in worst] == sorted((row[3] for row in worst), reverse=True)
  i = int(worst[0][0].removeprefix("text "))
  assert worst[0][1] == names[p.gold[i]] and worst[0][2] == names[p.scores[i].argmax()]


def test_many_labels_are_listed_as_confused_pairs():
  names = [str(i) for i in range(30)]
  rows = [{"gold": "3", "scores": np.eye(30)[4].tolist()}] * 2 + [
      {"gold": "5", "scores": np.eye(30)[5].tolist()}]
  assert predictions.confusion(rows, names) == (["label", "predicted", "count"], [["3", "4", 2]])


def test_words_and_scores(tmp_path):
  p = measures.Predictions(("O", "B-x"), [["O", "B-x"], ["O"]], tags=[["O", "O"], ["O"]])
  rows = _rows(tmp_path, p, [{"words": ["in", "Rome"]}, {"words": ["no"]}])
  assert predictions.confusion(rows, p.labels)[1] == [["O", 2, 0], ["B-x", 1, 0]]
  assert predictions.examples(rows, p.labels)[1] == [["in Rome", "Rome: B-x, not O"]]
  p = measures.Predictions((), np.array([1.0, 2.0]), scores=np.array([1.5, 5.0]))
  rows = _rows(tmp_path, p, [{"texts": ["a", "b"]}, {"texts": ["c"]}])
  assert predictions.confusion(rows, ()) == ([], [])
  assert predictions.examples(rows, ())[1] == [["c", 2.0, 5.0], ["a | b", 1.0, 1.5]]


def test_the_report_has_them_as_text(tmp_path):
  config = {"mode": "train", "objective": {"name": "classification", "labels": ["no", "yes"]}}
  (tmp_path / "config.json").write_text(json.dumps({"config": config}))
  p = measures.Predictions(("no", "yes"), np.array([0, 1]), scores=np.array([[0.0, 2.0]] * 2))
  p.save(tmp_path / "test_predictions.jsonl", [{"texts": ["<b>bold</b>"]}, {"texts": ["fine"]}])
  text = page.write(tmp_path).read_text()
  assert "Labels: test" in text and "Most wrong: test" in text and "validation" not in text
  assert "&lt;b&gt;bold" in text and "<b>bold" not in text and "0.8808" in text
