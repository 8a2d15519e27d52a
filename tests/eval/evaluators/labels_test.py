"""Fine-tuning as a user starts it: from nothing, from a run, from Hugging Face; best and test."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tokenizers

import mdx
from mdx import checkpoint as checkpoint_lib
from mdx import modes
from mdx.build import setup as setup_lib
from mdx.build import source as source_lib
from mdx.configs import finetune
from mdx.configs import predict as predict_config
from mdx.data.sources import labelled
from mdx.eval import best as best_lib
from mdx.eval import measures
from mdx.modes import table
from mdx.utils import tree

_BERT = pathlib.Path(__file__).parents[2] / "golden" / "bert-tiny"


def _files(folder):
  """A task of ten words in three files."""
  rows = [f"{word} {other}\t{label}\n" for word, label in (("good", "up"), ("bad", "down"))
          for other in ("day", "night", "tea", "sea")]
  for name in ("train", "dev", "test"):
    (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
  return dict(path=str(folder / "train.tsv"), validation_path=str(folder / "dev.tsv"),
              test_path=str(folder / "test.tsv"))


def _config(folder, **changes):
  cfg = finetune.get_config("glue")
  cfg.data.source.update(_files(folder))
  cfg.network.update(num_layers=1, width=16, num_heads=2, mlp_width=16)
  cfg.tokenizer.path = "char"
  return tiny.changed(cfg, dict(steps=6, batch_size=8, eval_steps=2, checkpoint_steps=2, log_steps=1)
                      | {"data.length": 16, "optimizer.learning_rate": 0.02} | {
                          k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finetune")
  cfg = _config(folder)
  return cfg, folder / "run", modes.run("train", cfg, str(folder / "run"))


@pytest.mark.slow
def test_the_best_weights_on_validation_are_tested_once(run):
  cfg, workdir, results = run
  best = json.loads((workdir / "best.json").read_text())
  lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
  seen = {x["step"]: x["accuracy"] for x in lines if x["kind"] == "eval" and x["step"] < 6}
  assert best["step"] in (2, 4, 6) and best["figures"]["accuracy"] >= max(seen.values())
  assert results["accuracy"] == best["figures"]["accuracy"]
  assert results["test_accuracy"] == results["accuracy"]  # the files are the same
  labels = json.loads((workdir / "config.json").read_text())["config"]["objective"]["labels"]
  assert labels == ["down", "up"]
  p = measures.load(workdir / "test_predictions.jsonl", labels)
  assert measures.value("accuracy", p) == results["test_accuracy"] and len(p.gold) == 8
  # Asked again, the figures are read, not made.
  (workdir / "test_results.json").write_text('{"test_accuracy": 7}')
  assert table.test_split(cfg, str(workdir)) == {"test_accuracy": 7}


def _sentences(rows):
  return [row["texts"][0] for row in rows]


@pytest.mark.slow
def test_new_texts_are_labelled_as_the_evaluation_labels_them(run, tmp_path):
  cfg, workdir, _ = run
  model = mdx.load(str(workdir))
  assert model.source.startswith(str(workdir / "best"))
  rows = list(labelled.table_records(cfg.data.source.test_path, fields=("sentence",), label="label"))
  stored = measures.load(workdir / "test_predictions.jsonl", model.objective.labels)
  found = model.predict(_sentences(rows), batch_size=3)
  assert len(found) == 8 and all(abs(sum(x.probabilities.values()) - 1) < 1e-12 for x in found)
  for one, scores in zip(found, stored.scores):
    assert one.label == ["down", "up"][int(scores.argmax())]
    odds = np.log(one.probabilities["up"]) - np.log(one.probabilities["down"])
    assert abs(odds - (scores[1] - scores[0])) < 1e-5
  assert model.predict("good tea")[0].label in ("up", "down") and model.predict([]) == []
  with pytest.raises(ValueError, match="text 0 is .*; expected a text, as in training"):
    model.predict([("good", "tea")])
  model.save(str(tmp_path / "saved"))
  assert mdx.load(str(tmp_path / "saved")).predict(_sentences(rows)) == model.predict(
      _sentences(rows))
  (tmp_path / "new.csv").write_text("sentence,more\n" + "".join(f"{x},1\n" for x in _sentences(rows)))
  new = predict_config.get_config()
  new.path, new.init.checkpoint = str(tmp_path / "new.csv"), str(workdir)
  assert modes.run("predict", new, str(tmp_path / "out")) == {"num_rows": 8}
  lines = [json.loads(x) for x in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
  assert [x["predicted"] for x in lines] == [x.label for x in found]
  assert [x["sentence"] for x in lines] == _sentences(rows)
  new.fields = ("text",)
  with pytest.raises(ValueError, match="new.csv, line 2: no column 'text'; it has sentence, more"):
    modes.run("predict", new, str(tmp_path / "out"))


def test_the_test_split_is_read_where_there_is_one(tmp_path, capsys):
  cfg = _config(tmp_path, data__source__test_path="")
  assert not setup_lib.setup(cfg, str(tmp_path / "a")).config["eval"]["test"]
  assert "no test split (data.source.test_path)" in capsys.readouterr().out
  assert setup_lib.setup(_config(tmp_path), str(tmp_path / "a")).config["eval"]["test"]
  with pytest.raises(ValueError, match="no data file 'nowhere.tsv'"):
    setup_lib.setup(_config(tmp_path, data__source__test_path="nowhere.tsv"), str(tmp_path / "a"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(run, tmp_path):
  cfg, workdir, results = run
  shutil.copytree(workdir, tmp_path / "killed")
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
  (tmp_path / "killed" / "results.json").unlink()
  again = modes.run("train", cfg, str(tmp_path / "killed"))
  same = ("accuracy", "nats_per_token", "best_step", "test_accuracy")
  assert [again[k] for k in same] == [results[k] for k in same]
  params = [tree.fingerprint(tiny.stored(x)[1]["params"]) for x in (workdir, tmp_path / "killed")]
  assert params[0] == params[1]


@pytest.mark.slow
def test_a_run_is_started_from_with_its_own_network_and_tokenizer(run, tmp_path):
  _, workdir, _ = run
  cfg = _config(tmp_path, init__checkpoint=str(workdir), network__width=64, steps=1,
                tokenizer__path="byte", optimizer__learning_rate=1e-9)
  modes.run("train", cfg, str(tmp_path / "next"))
  stored = json.loads((tmp_path / "next" / "config.json").read_text())["config"]
  assert stored["network"]["width"] == 16 and stored["tokenizer"]["path"] == str(workdir)
  old, new = (tiny.stored(x)[1]["params"] for x in (workdir, tmp_path / "next"))
  assert np.allclose(old["model"]["embed"]["embedding"], new["model"]["embed"]["embedding"],
                     atol=1e-6)
  # What is new begins from the seed.
  assert not np.allclose(old["task"]["out"]["kernel"], new["task"]["out"]["kernel"], atol=1e-4)


@pytest.fixture(name="bert", scope="module")
def _bert(tmp_path_factory):
  """The stored model with a WordPiece vocabulary of its own."""
  folder = tmp_path_factory.mktemp("bert") / "bert"
  shutil.copytree(_BERT, folder)
  words = "good bad day night tea sea".split()
  specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  vocab = {w: i for i, w in enumerate([*specials, *words])}
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  backend.add_special_tokens(specials)
  backend.save(str(folder / "tokenizer.json"))
  return folder


@pytest.mark.slow
def test_a_model_of_hugging_face_is_started_from(bert, tmp_path):
  cfg = _config(tmp_path, init__checkpoint=str(bert))
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  jax.set_mesh(run.mesh)
  assert run.config["network"]["post_norm"] and run.tokenizer.encode("good tea").tolist() == [5, 9]
  state = setup_lib.start_state(run, checkpoint_lib.Checkpoints(tmp_path / "run", keep=1), None)[1]
  wanted = source_lib.open_source(bert).load({"model": run.shapes.params["model"]}, "raw")
  assert tree.fingerprint(state.params["model"]) == tree.fingerprint(wanted["model"])
  assert set(state.params["task"]) == {"dense", "out"}


def test_wrong_tasks_are_refused_before_anything_is_written(tmp_path):
  for changes, message in (
      (dict(eval__measures=("entity_f1",)), "'entity_f1'; for labels of text choose from"),
      (dict(objective__labels=("up", "sideways")), "train.tsv, line 6: the label 'down' is none"),
      (dict(data__source__label="kind"), "train.tsv, line 2: no column 'kind'"),
      (dict(objective=dict(name="tagging")), "labels of words, but data source table labels text"),
      (dict(objective=dict(name="mlm")), "records are labelled; train it with an objective for labels")):
    with pytest.raises(ValueError, match=message) as error:
      modes.run("train", _config(tmp_path, **changes), str(tmp_path / "run"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
  with pytest.raises(ValueError, match="takes one of book, .* or table, got 'squad'"):
    finetune.get_config("squad")


def test_the_best_weights_are_the_first_of_the_best(tmp_path):
  best = best_lib.Best(tmp_path, "accuracy", {})
  for step, value in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6)):
    best.offer(step, {"accuracy": value}, {"a": {"kernel": jnp.full(2, float(step))}})
  again = best_lib.Best(tmp_path, "accuracy", {})
  assert (again.step, again.value) == (2, 0.7)
  assert [p.name for p in (tmp_path / "best").iterdir()] == ["2"]
  shapes = {"a": {"kernel": jax.ShapeDtypeStruct((2,), np.float32)}}
  assert np.asarray(again.load(shapes)["a"]["kernel"]).tolist() == [2, 2]
