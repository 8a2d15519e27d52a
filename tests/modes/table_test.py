"""Tables: what is refused, what is chosen on what, and how models are compared."""

import json

import numpy as np
import pytest

from mdx import modes
from mdx.configs import finetune
from mdx.configs import looking_right
from mdx.eval import measures
from mdx.modes import claim
from mdx.modes import table

_MODELS = ("a", "b", "c")
_GOLD = np.arange(60) % 2


def _config(**changes):
  run = finetune.get_config("book").to_dict()
  return dict(run=run, models={m: {} for m in _MODELS}, seeds=[0, 1], num_resamples=200,
              tasks={"t": dict(data=dict(source=dict(task="book"))),
                     "u": dict(data=dict(source=dict(task="next")))},
              grid=[dict(key="optimizer.learning_rate", values=[1e-3, 1e-4])]) | changes


@pytest.fixture(name="faked")
def _faked(monkeypatch):
  """Runs whose validation and test figures are functions of model, cell and seed."""
  calls = {"train": [], "test": []}

  def run_once(run, directory, root, *, title):
    del root
    calls["train"].append(title)
    directory.mkdir(parents=True, exist_ok=True)
    config = {**run, "objective": {**run["objective"], "labels": ["x", "y"]}}
    (directory / "config.json").write_text(json.dumps({"config": config}))
    rate = run["optimizer"]["learning_rate"]
    better = (rate == 1e-4) == ("/b/" in str(directory))  # model b wants the lower rate
    value = {"a": 0.6, "b": 0.7, "c": 0.6}[directory.parts[-4]] + 0.1 * better
    return dict(accuracy=value, macro_f1=value, mcc=value, best_step=1, steps=1, seconds=0.0,
                parameters=1, matmul_flops=1.0)

  def test(config, workdir):
    calls["test"].append(workdir)
    is_b = "/b/" in workdir
    draw = np.random.default_rng(config["seed"])
    wrong = draw.random(60) < (0.02 if is_b else 0.45)
    scores = np.eye(2)[np.where(wrong, 1 - _GOLD, _GOLD)]
    p = measures.Predictions(("x", "y"), _GOLD, scores=scores)
    p.save(f"{workdir}/test_predictions.jsonl", [{}] * len(p.gold))
    return {f"test_{m}": measures.value(m, p) for m in ("accuracy", "macro_f1", "mcc")}

  monkeypatch.setattr(claim, "run_once", run_once)
  monkeypatch.setattr(table, "test_split", test)
  return calls


def test_cells_are_chosen_on_validation_and_only_they_are_tested(faked, tmp_path):
  results = table.run.__wrapped__(_config(num_resamples=2000), str(tmp_path))
  assert len(faked["train"]) == 3 * 2 * 2 * 2 and len(faked["test"]) == 3 * 2 * 2
  assert len(faked["test"]) and all(("0.0001" in w) == ("/b/" in w) for w in faked["test"])
  assert results["selection"]["b/t"] == {"cell": {"optimizer.learning_rate": 1e-4},
                                         "validation": pytest.approx(0.8)}
  lines = [json.loads(x) for x in (tmp_path / "cells.jsonl").read_text().splitlines()]
  assert len(lines) == 24 and not any("test" in key for line in lines for key in line)
  scores = results["scores"]["t"]
  assert scores["b"]["accuracy"]["mean"] > 0.9 > scores["a"]["accuracy"]["mean"]
  assert scores["a"]["expected_maximum"] == pytest.approx([0.65, 0.675])
  pairs = {(r["task"], r["left"], r["right"]): r for r in results["pairs"]}
  assert pairs["t", "a", "b"]["verdict"] == "loss" and pairs["t", "b", "c"]["verdict"] == "win"
  assert pairs["t", "a", "c"]["difference"] == 0 and pairs["t", "a", "c"]["verdict"] == "tie"
  assert pairs["t", "a", "b"]["p_permutation"] < 0.01
  over = results["over_tasks"]
  assert over["average_ranks"] == {"a": 2.5, "b": 1.0, "c": 2.5} and results["flips"] == 0.0
  text = (tmp_path / "table.txt").read_text()
  assert "t: a - b = -" in text and "average ranks: a 2.50, b 1.00" in text


def test_the_test_split_is_refused_before_the_choice(tmp_path):
  with pytest.raises(ValueError, match="selection.json is not there: the test split is read when"):
    table._test(_config(), tmp_path, "a", "t", 0)


def test_a_choice_is_not_made_again_with_another_grid(faked, tmp_path):
  del faked
  table.run.__wrapped__(_config(), str(tmp_path))
  with pytest.raises(ValueError, match="holds another table, whose choices are made"):
    table.run.__wrapped__(_config(seeds=[0, 1, 2]), str(tmp_path))


@pytest.mark.parametrize("changes, message", [
    (dict(models={"a": dict(steps=9)}), "model 'a' sets steps, which must be the same for every"),
    (dict(models={"a": dict(objective=dict(labels=("x",)))}), "sets objective.labels, which must"),
    (dict(models={}), "config.models is empty"),
    (dict(seeds=[1, 1]), "seeds names one twice"),
    (dict(grid=[dict(key="steps", values=[])]), "a part of config.grid is dict"),
    (dict(grid=[dict(key="optimizer.rate", values=[1])], num_resamples=9), "num_resamples must"),
    (dict(tasks={"t": dict(datum=1)}), "config.datum, which its run does not have")])
def test_unfair_tables_are_refused(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    table.run.__wrapped__(_config(**changes), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_a_model_may_be_read_with_another_attention_where_the_objective_has_it():
  changes = dict(objective=dict(attention=dict(name="causal"), pooling="last"))
  config = _config(models={"a": changes}, tasks={
      "words": dict(objective=dict(name="tagging")), "texts": dict()})
  words, texts = (table._run(config, "a", task, {}, 5) for task in ("words", "texts"))
  assert words["objective"] == dict(name="tagging", attention=dict(name="causal"))
  assert texts["objective"]["pooling"] == "last" and texts["seed"] == 5
  assert not texts["eval"]["test"]


def test_codes_of_layers_are_cells_of_a_grid():
  config = looking_right.get_config("groups=3").to_dict()
  table.check(config)
  cells = table._cells(config)
  assert len(cells) == 8 and cells[1] == {"objective.attention.code": "001"}
  run = table._run(config, "decoder", "tagging", cells[1], 0)
  assert run["objective"]["attention"] == dict(name="groups", code="001")
  assert run["network"]["num_layers"] == 6 == run["init"]["base"]["network"]["num_layers"]
  table.check(looking_right.get_config("groups=4,conll").to_dict())


@pytest.mark.slow
def test_the_shipped_table_runs_and_goes_on_where_it_was(tmp_path):
  config = finetune.get_config("table")
  config.run.update(steps=4, eval_steps=2)
  config.run.data.length = config.models.mlm.init.base.data.length = 32
  config.run.data.source.num_train = 64
  config.models.mlm.init.base.update(steps=3)
  del config.models["causal"], config.tasks["overlap"]
  config.grid[0]["values"] = (1e-3,)
  config.seeds, config.num_resamples = (0, 1), 200
  results = modes.run("table", config, str(tmp_path))
  assert set(results["scores"]) == {"next", "speech"}
  before = {p: p.stat().st_mtime for p in tmp_path.rglob("results.json") if p.parent != tmp_path}
  assert len(before)
  assert modes.run("table", config, str(tmp_path)) == results
  assert before == {p: p.stat().st_mtime for p in before}
