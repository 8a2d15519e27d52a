"""Targets by refinement: their figures, and settings that are refused."""

import jax
import numpy as np
import pytest

from mdx.build import setup as setup_lib
from mdx.utils import rng

import tiny


def _config(name="seq2seq", **changes):
  return tiny.config(name, **{"network__num_layers": 1, **changes})


@pytest.mark.slow
def test_figures_are_shares_of_the_held_out_targets(tmp_path, monkeypatch):
  config = _config(eval__num_batches=1, data__source__num_train=8, data__source__num_validation=12)
  run = setup_lib.setup(config, str(tmp_path))
  jax.set_mesh(run.mesh)
  evaluator = run.evaluation().members["refined"]
  params = jax.jit(run.objective.init)(rng.root(0))
  found = evaluator(params, {}, quick=False)
  assert set(found) == {"exact_match", "probe_accuracy", "token_accuracy", "length_accuracy"}
  assert 0 <= found["exact_match"] <= found["token_accuracy"] < 0.5
  assert "exact match         0.000 after 8 steps" in evaluator.text(found)

  def gold(params, batch):  # the first eight rows as they are, the others a token too short
    del params
    is_late = np.array(batch["example_index"]) >= 8
    return {"tokens": np.array(batch["tokens"]),
            "length": np.array(batch["loss_mask"]).sum(axis=1) - is_late}

  monkeypatch.setattr(type(evaluator), "_decode", property(lambda self: gold))
  assert evaluator(params, {}, quick=True) == {
      "exact_match": 1, "probe_accuracy": 1, "token_accuracy": 1, "length_accuracy": 1}
  whole = evaluator(params, {}, quick=False)
  assert whole["length_accuracy"] == whole["exact_match"] == pytest.approx(8 / 12)
  assert 8 / 12 < whole["token_accuracy"] < 1


@pytest.mark.parametrize("config, message", [
    (lambda: _config("ar", eval__evaluators=("refined",)), "which objective ar does not; leave it"),
    (lambda: _config(eval__refined=dict(num_lengths=13)), "num_lengths 13 exceeds data.length 12"),
    (lambda: _config(eval__refined=dict(steps=0)), "eval.refined.steps must be at least 1")])
def test_settings_without_meaning_are_one_line(config, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(config(), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
