"""Mode decoding: every rule at every value, one figure, nothing done twice."""

import json

import pytest
import tiny

from mdx import modes
from mdx.configs import decoding as decoding_config
from mdx.configs import mdpo
from mdx.modes import decoding


def _config(**rules):
  config = decoding_config.get_config()
  with config.unlocked():
    config.rules = rules
  return config


def test_a_cell_is_an_evaluation_of_a_rule_at_one_value():
  found = decoding.cells(_config(confidence=dict(steps=(2, 4)),
                                 careful=dict(name="threshold", threshold=(0.9,))))
  assert [(c.rule, c.knob, c.value) for c in found] == [  # in the order of their names
      ("careful", "threshold", 0.9), ("confidence", "steps", 2), ("confidence", "steps", 4)]
  assert found[2].config["sampler"]["steps"] == 4 and found[2].config["mode"] == "eval"
  assert found[0].config["sampler"]["name"] == "threshold" and "rules" not in found[0].config
  default = decoding.cells(decoding_config.get_config())
  assert len(default) == 3 * 6 + 5 + 4 + 3
  assert len(decoding.cells(decoding_config.get_config("gsm8k,llada"))) == 3 * 4 + 12


@pytest.mark.parametrize("rules, message", [
    ({}, "config.rules is empty"),
    (dict(confidence=dict(temperature=0.0)), "rules.confidence needs one field with several"),
    (dict(threshold=dict(steps=(1, 2), threshold=(0.5,))), "several values.*, got 2"),
    (dict(nope=dict(steps=(1,))), "nope"),
    (dict(confidence=dict(threshold=(0.5, 0.9))), "'confidence' has no field 'threshold'")])
def test_rules_that_cannot_be_are_refused_before_anything_is_written(rules, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    modes.run("decoding", _config(**rules), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_rules_are_compared_on_one_figure_and_finished_cells_stand(tmp_path, capsys):
  base = tiny.changed(mdpo.get_config().init.base, {
      "steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
      "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1,
      "data.source.task.num_train": 40, "data.source.task.num_test": 8,
      "data.source.task.num_validation": 8})
  modes.run("train", base, str(tmp_path / "base"))
  config = tiny.changed(_config(confidence=dict(steps=(2, 4)), threshold=dict(threshold=(0.9,))), {
      "init.checkpoint": str(tmp_path / "base"), "task.num_train": 40, "task.num_test": 8,
      "task.num_validation": 8, "batch_size": 8})
  results = modes.run("decoding", config, str(tmp_path / "run"))
  rows = results["rules"]
  assert [(r["rule"], r["value"]) for r in rows] == [
      ("confidence", 2), ("confidence", 4), ("threshold", 0.9)]
  assert [r["nfe"] for r in rows[:2]] == [2, 4] and all(0 <= r["accuracy"] <= 1 for r in rows)
  assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
  assert (tmp_path / "run" / "decoding.png").read_bytes().startswith(b"\x89PNG")
  assert "data:image/png" in (tmp_path / "run" / "report.html").read_text()
  assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["mode"] == "decoding"
  single = modes.run("eval", decoding.cells(config)[1].config, str(tmp_path / "single"))
  assert single["accuracy"] == rows[1]["accuracy"]
  capsys.readouterr()
  assert modes.run("decoding", config, str(tmp_path / "run")) == results
  assert capsys.readouterr().out.count("this evaluation is finished") == 3
