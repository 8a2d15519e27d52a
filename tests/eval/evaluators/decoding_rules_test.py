"""Decoding rules compared by samples: figures by name, refusals before anything is built."""

import math

import numpy as np
import pytest
import tiny

from mdx import modes
from mdx.build import setup as setup_lib
from mdx.configs import joint
from mdx.eval.evaluators import rules


def _config(**changes):
  config = joint.get_config("tilted")
  small = {"steps": 2, "batch_size": 8, "log_steps": 1, "eval_steps": 0, "checkpoint_steps": 2,
           "network.num_layers": 1, "network.width": 16, "network.mlp_width": 16,
           "data.source.num_train": 64, "data.source.num_validation": 8, "eval.num_rows": 64,
           "eval.final_samples": 1, "init.base": None,
           "eval.rules": dict(joint=dict(tokens_per_call=(4,), confidence="entropy"),
                              confidence=dict(steps=(8,), confidence="entropy"))}
  return tiny.changed(config, small | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.release
@pytest.mark.slow
def test_every_rule_has_its_figures_at_the_end(tmp_path, capsys):
  results = modes.run("train", _config(), str(tmp_path))
  assert (results["nfe_joint_4"], results["nfe_confidence_8"]) == (2, 8)
  for name in ("joint_4", "confidence_8"):
    assert results[f"nll_{name}"] > 0 and 0 < results[f"entropy_{name}"] < math.log(16)
    assert 0 <= results[f"outside_{name}"] < 1 and math.isfinite(results[f"kl_{name}"])
  assert "joint, tokens_per_call 4" in capsys.readouterr().out


def test_the_divergence_is_that_of_the_texts_that_the_law_allows():
  law = {"a": 0.5, "b": 0.25, "c": 0.25}
  evaluator = object.__new__(rules.Rules)
  kl, outside = evaluator._divergence(["a", "a", "a", "b", "x"], law)
  assert outside == pytest.approx(0.2)
  assert kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(1))
  drawn = rules._exact(law, 4000)
  assert abs(np.mean([text == "a" for text in drawn]) - 0.5) < 0.04


@pytest.mark.parametrize("changes, message", [
    (dict(eval__rules={}), "config.eval.rules is empty; give at least one"),
    (dict(eval__rules=dict(joint=dict(confidence="entropy"))), "config.eval.rules.joint needs one"),
    (dict(eval__rules=dict(joint=dict(tokens_per_call=(2, 0)))), "tokens_per_call must be at least 1"),
    (dict(eval__rules=dict(joint=dict(cache=("none", "dual")))), "which cache dual"),
    (dict(eval__num_rows=0), "eval.num_rows"),
    (dict(objective=dict(name="diffusion")), "sampler joint needs a model with a trained joint head")])
def test_rules_that_cannot_be_are_refused_before_anything_is_written(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    setup_lib.setup(_config(**changes), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
