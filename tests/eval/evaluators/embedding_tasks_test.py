"""Evaluators of embeddings: figures of known vectors, files of retrieval, and what is refused."""

import json
import types as py_types

import jax
import numpy as np
import pytest

from mdx import modes
from mdx.build import setup as setup_lib
from mdx.eval import evaluators
from mdx.networks import attention
from mdx.objectives import reading
from mdx.utils import rng

import tiny

OBJECTIVE = py_types.SimpleNamespace(
    network=py_types.SimpleNamespace(width=3),
    embedder=lambda: py_types.SimpleNamespace(vectors=lambda params, batch: None))
VECTORS = {"cat": [1, 0.1, 0], "dog": [1, 0, 0.2], "car": [0.05, 1, 0.1], "bus": [0.1, 1, 0],
           "red": [0, 0, 1], "blue": [0.1, 0, 1]}
KINDS = {"cat": "pet", "dog": "pet", "car": "ride", "bus": "ride", "red": "hue", "blue": "hue"}


def _table(folder, rows):
  """A source with the same rows in both splits."""
  columns = list(rows[0])
  for name in ("train.tsv", "dev.tsv"):
    (folder / name).write_text("".join("\t".join(map(str, r)) + "\n" for r in (
        columns, *([row[c] for c in columns] for row in rows))))
  fields = tuple(c for c in columns if c != "label")
  return dict(name="table", path=str(folder / "train.tsv"), fields=fields, label="label",
              validation_path=str(folder / "dev.tsv"))


def _classes(folder):
  return _table(folder, [dict(text=k, label=v) for k, v in KINDS.items()])


def _evaluator(name, fields, **common):
  """An evaluator that is given known vectors."""
  config = {"eval": {"evaluators": (name,), name: fields, "embedding": common}}
  cls = evaluators.EVALUATORS[name]
  cls.check(config, OBJECTIVE)
  found = cls(py_types.SimpleNamespace(config=config, objective=OBJECTIVE))
  found.vectors = lambda params, texts: np.array([VECTORS[t["text"]] for t in texts], np.float32)
  return lambda: found({}, {}, quick=True)


def test_similarity_is_of_cosines_with_scores_also_of_first_columns(tmp_path):
  rows = [dict(a="cat", b="dog", label=5), dict(a="cat", b="car", label=1.5),
          dict(a="red", b="blue", label=4), dict(a="dog", b="bus", label=1.6)]
  found = _evaluator("similarity", dict(source=_table(tmp_path, rows)), dims=(2,))()
  assert found["spearman"] == pytest.approx(0.6)  # two pairs of neighbouring ranks change places
  assert found["alignment"] == pytest.approx(2 - 2 / np.sqrt(1.01 * 1.04), rel=1e-5)
  assert {f"{name}_dim2" for name in found if "_dim" not in name} <= set(found)
  assert found["mean_cosine"] != found["mean_cosine_dim2"]


def test_labels_are_found_by_neighbours_clusters_and_pairs(tmp_path):
  source = _classes(tmp_path)
  found = _evaluator("text_classification", dict(source=source, num_neighbours=1))()
  assert found == {"knn_accuracy": 1.0, "logistic_accuracy": 1.0}
  assert _evaluator("clustering", dict(source=source))() == {"v_measure": pytest.approx(1.0)}
  assert _evaluator("pair_classification", dict(source=source))() == {"pair_ap": 1.0}
  rows = [dict(a="cat", b="dog", label=1), dict(a="cat", b="car", label=0),
          dict(a="red", b="bus", label=1)]
  found = _evaluator("pair_classification", dict(source=_table(tmp_path, rows)))()
  assert found == {"pair_ap": pytest.approx((1 + 2 / 3) / 2)}


def test_a_text_finds_the_others_of_its_label_and_not_itself(tmp_path):
  found = _evaluator("retrieval", dict(source=_classes(tmp_path)))()
  assert found["ndcg_at_10"] == found["mrr_at_10"] == found["map"] == found["recall_at_1"] == 1.0


def _beir(folder, relevance):
  write = lambda name, rows: (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
  write("corpus.jsonl", [{"_id": "d1", "text": "dog"}, {"_id": "d2", "title": "", "text": "car"},
                         {"_id": "d3", "text": "blue"}])
  write("queries.jsonl", [{"_id": "q1", "text": "cat"}, {"_id": "q2", "text": "red"}])
  (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + relevance)
  return dict(corpus=str(folder / "corpus.jsonl"), queries=str(folder / "queries.jsonl"),
              relevance=str(folder / "qrels.tsv"))


def test_files_of_retrieval_are_read_and_a_query_without_relevance_is_named(tmp_path):
  found = _evaluator("retrieval", _beir(tmp_path, "q1\td2\t1\nq2\td3\t2\n"))()
  assert found["mrr_at_10"] == 0.75 and found["recall_at_1"] == 0.5
  for relevance, message in (
      ("q1\td1\t1\nq2\td3\t0\n", "query 'q2' has no relevant document in .*qrels.tsv; give it one"),
      ("q1\td9\t1\n", "line 2: .*corpus.jsonl has no id 'd9'")):
    with pytest.raises(ValueError, match=message) as error:
      _evaluator("retrieval", _beir(tmp_path, relevance))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, rows, fields, common, message", [
    ("similarity", [dict(a="cat", b="dog", label="yes")], {}, {}, "needs scores, got the label 'yes'"),
    ("similarity", [dict(a="cat", label=1)], {}, {}, "reads records of 2 text.s. with a label"),
    ("similarity", [dict(a="cat", b=" ", label=1)], {}, {}, "text 1 is empty"),
    ("similarity", [dict(a="cat", b="dog", label=1)] * 2, {}, {}, "gold similarities are all 1"),
    ("clustering", [dict(a="cat", b="dog", label=1)], {}, {}, "reads records of 1 text.s."),
    ("retrieval", [dict(a="cat", label=1), dict(a="dog", label=2)], {}, {}, "only one of its label"),
    ("clustering", [dict(a="cat", label=1)], dict(best_by="map"), {}, "best_by is 'map'; choose"),
    ("clustering", [dict(a="cat", label=1)], {}, dict(dims=(4,)), "dims has 4; expected 1 to 3"),
    ("clustering", [dict(a="cat", label=1)], {}, dict(pooling=dict(name="latent", num_heads=1)),
     "pooling has parameters")])
def test_what_has_no_meaning_is_one_line(name, rows, fields, common, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    _evaluator(name, dict(source=_table(tmp_path, rows), **fields), **common)
  assert "\n" not in str(error.value)


def test_retrieval_needs_all_of_its_files(tmp_path):
  files = _beir(tmp_path, "q1\td1\t1\n") | {"queries": ""}
  with pytest.raises(ValueError, match="all three, or else a source; got 2 of the files"):
    _evaluator("retrieval", files)


def test_an_evaluator_without_its_table_is_named():
  with pytest.raises(ValueError, match="reads the table eval.clustering; give it a source"):
    evaluators.EVALUATORS["clustering"].check({"eval": {}}, OBJECTIVE)


@pytest.mark.slow
def test_vectors_are_the_mean_states_of_any_model_where_nothing_else_is_said(tmp_path):
  config = tiny.config("mlm", eval__evaluators=("clustering",), network__num_layers=1,
                       eval__clustering=dict(source=dict(name="packaged", task="intent"), limit=9))
  run = setup_lib.setup(config, str(tmp_path / "run"))
  jax.set_mesh(run.mesh)
  evaluator = run.evaluation().members["clustering"]
  params = run.objective.init(rng.root(0))
  texts = [{"text": text} for text in ("abc", "de", "It was the best of times, it was")] * 3
  found = evaluator.vectors(params, texts)
  np.testing.assert_array_equal(found[0], found[3])
  size = run.config["data"]["length"]
  for text, vector in zip(texts[:3], found):
    ids = run.tokenizer.encode(text["text"])[:size]
    batch = {"tokens": np.pad(ids, (0, size - len(ids)))[None], "example_index": np.zeros(1, int),
             "segment_ids": (np.arange(size) < len(ids)).astype(np.int32)[None]}
    states = jax.jit(lambda params, batch: reading.encode(
        run.objective.network, params["model"], batch, attention=attention.Full()))(params, batch)
    np.testing.assert_allclose(vector, states[0, :len(ids)].mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_weights_that_are_best_by_a_figure_are_kept(tmp_path):
  config = tiny.config("mirror", steps=4, eval_steps=2, checkpoint_steps=4, batch_size=8,
                       eval__clustering=dict(source=dict(name="packaged", task="intent"), limit=30,
                                             best_by="v_measure"),
                       eval__evaluators=("clustering",))
  results = modes.run("train", config, str(tmp_path / "run"))
  best = json.loads((tmp_path / "run" / "best.json").read_text())
  assert results["best_step"] == best["step"] in (2, 4)
  assert results["v_measure"] == pytest.approx(best["figures"]["v_measure"])
