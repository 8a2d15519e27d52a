"""Learned unmasking as a user meets it: trained, sampled, moved to another model, and bad input."""

import json
import shutil

import numpy as np
import pytest
import tiny

import mdx
from mdx import config as config_lib
from mdx import modes
from mdx.build import rl as rl_setup
from mdx.configs import decoding as decoding_config
from mdx.configs import eval as eval_config
from mdx.configs import mdpo
from mdx.configs import unmasking
from mdx.utils import tree

_TASK = {"num_train": 40, "num_validation": 8, "num_test": 8}
_BASE = {"steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
         "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1}


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory):
  path = tmp_path_factory.mktemp("base")
  config = tiny.changed(mdpo.get_config().init.base, _BASE)
  with config.unlocked():
    config.data.source.task.update(_TASK)
  modes.run("train", config, str(path))
  return str(path)


def _config(base="", **changes):
  config = unmasking.get_config()
  with config.unlocked():
    config.task.update(_TASK)
    config.eval.rules = dict(unmasking=dict(speed_alpha=(0.5, 2.0)),
                             threshold=dict(threshold=(0.3,)))
  return tiny.changed(config, {
      "init.checkpoint": base, "updates": 4, "rollout.num_prompts": 4, "rollout.group_size": 2,
      "rollout.epochs": 2, "eval.num_examples": 8, "eval.batch_size": 8, "log_steps": 1,
      "eval_steps": 4, "checkpoint_steps": 2, "rollout.sampler.policy_width": 8,
      "rollout.sampler.policy_heads": 1} | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize("changes, message", [
    (dict(rollout__group_size=1), "rollout.group_size must be at least 2"),
    (dict(rollout__sampler__name="threshold", rollout__sampler__policy_width=0,
          rollout__sampler__policy_heads=0, rollout__sampler__speed_range=()),
     "rollout.sampler Threshold has none; use unmasking"),
    (dict(rollout__sampler__speed_range=(-1.0, 1.0)), "sampler.speed_range must be"),
    (dict(rollout__mixture_draw="per_rollout"), "mixture_draw per_group"),
    (dict(eval__rules={}), "config.eval.rules is empty"),
    (dict(eval__rules=dict(nope=dict(steps=(1,)))), "unknown sampler name 'nope'"),
    (dict(eval__pass_k=(1,)), "config.eval.pass_k is of answers that are drawn|positive temp")])
def test_a_run_that_cannot_be_is_refused_in_one_line(changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    rl_setup.check(config_lib.to_dict(_config(**changes)))
  assert "\n" not in str(caught.value)


def test_a_rule_with_actions_is_refused_by_an_objective_that_does_not_train_it():
  config = mdpo.get_config("diffu_grpo")
  config.rollout.sampler.name = "unmasking"
  with pytest.raises(ValueError, match="Unmasking draws actions, which objective diffu_grpo does"):
    rl_setup.check(config_lib.to_dict(config))


@pytest.mark.slow
def test_decoding_without_a_policy_is_refused_before_the_model_is_trained(tmp_path):
  config = eval_config.get_config()
  config.sampler.name = "unmasking"
  with pytest.raises(ValueError, match="has no trained policy .* give its run as sampler.policy"):
    modes.run("eval", config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / "base").exists()
  config.sampler.update(policy=tiny.policy(tmp_path / "policy", block_length=4), block_length=8)
  with pytest.raises(ValueError, match="block_length is 8, .* trained with blocks of 4 tokens"):
    modes.run("eval", config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / "base").exists()


@pytest.mark.slow
def test_the_model_s_parameters_are_not_trained(base, tmp_path):
  with pytest.raises(ValueError, match="trains the decoding rule alone, .* use unmasking/"):
    modes.run("rl", _config(base, optimizer__trainable=""), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [tiny.releases({}, id="plain"), pytest.param(
    dict(block_length=4, actions="plackett_luce", expert_rate=0.5, expert_threshold=0.3),
    id="experts")])
def test_a_policy_is_trained_and_decodes_its_model_and_others(fields, base, tmp_path):
  config = _config(base, **{f"rollout__sampler__{k}": v for k, v in fields.items()})
  results = modes.run("rl", config, str(tmp_path / "run"))
  assert [(r["rule"], r["value"]) for r in results["rules"]] == [
      ("threshold", 0.3), ("unmasking", 0.5), ("unmasking", 2.0)]
  assert "table" not in results and results["curve"][0]["nfe"] >= 1
  assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
  assert (tmp_path / "run" / "decoding.png").exists()
  lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  ratios = [x["ratio"] for x in lines if x["kind"] == "train"]
  assert ratios[0] == pytest.approx(1, abs=1e-4) == ratios[2] and len(ratios) == 4
  model, first = mdx.load(str(tmp_path / "run")), mdx.load(base)
  for one, two in zip(*(np.asarray(x.params["model"]["embed"]["embedding"])
                        for x in (model, first))):
    np.testing.assert_array_equal(one, two)
  blocks = {k: v for k, v in fields.items() if k == "block_length"}
  puzzle = "1" + 15 * "[MASK]"
  given = dict(name="unmasking", temperature=0.0, gen_length=16, speed_alpha=2.0, **blocks)
  sample = model.sample(puzzle, **given)[0]
  assert sample.nfe >= 1 and sample.text[0] == "1"
  moved = first.sample(puzzle, policy=str(tmp_path / "run"), **given)[0]
  assert moved.text == sample.text and moved.nfe == sample.nfe
  with pytest.raises(ValueError, match="has no trained policy"):
    first.sample(puzzle, **given)
  with pytest.raises(ValueError, match=r"speed_alpha is 11, .* trained on \[0, 10\]"):
    model.sample(puzzle, **given | dict(speed_alpha=11.0))
  if blocks:
    return
  assert modes.run("rl", config, str(tmp_path / "run")) == results  # it is finished
  cells = tiny.changed(decoding_config.get_config(), {
      "init.checkpoint": str(tmp_path / "run"), "batch_size": 8, "rules": dict(
          unmasking=dict(speed_alpha=(0.5, 2.0)))} | {f"task.{k}": v for k, v in _TASK.items()})
  rows = modes.run("decoding", cells, str(tmp_path / "cells"))["rules"]
  assert len(rows) == 2 and all(row["nfe"] >= 1 for row in rows)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise(base, tmp_path):
  config = _config(base, rollout__sampler__expert_rate=0.3)
  modes.run("rl", config, str(tmp_path))
  whole = tree.flatten(tiny.stored(tmp_path)[1]["params"])
  assert any(path.startswith("unmasking/") for path in whole)
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  (tmp_path / "results.json").unlink()
  modes.run("rl", config, str(tmp_path))
  for path, leaf in tree.flatten(tiny.stored(tmp_path)[1]["params"]).items():
    np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
