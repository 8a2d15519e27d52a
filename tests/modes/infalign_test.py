"""configs/infalign.py as a user starts it: calibration, win rates, resume, bad input."""

import json

import numpy as np
import pytest
import tiny

from mdx import config as config_lib
from mdx import modes
from mdx.build import rl as rl_setup
from mdx.configs import infalign
from mdx.configs import mdpo
from mdx.rl import rewards as rewards_lib

_TASK = dict(name="translation", min_length=2, max_length=2, num_train=20, num_validation=3,
             num_test=3)


def _config(**changes):
  cfg = infalign.get_config("ar")
  base = cfg.init.base
  with cfg.unlocked():
    cfg.task = _TASK
    base.data.source.task = _TASK
    base.tokenizer.path = "symbols:A B C D E F G H a b c d e f g h i j k l m n o p q r s t u v w x = ."
  tiny.changed(base, {"steps": 150, "batch_size": 16, "optimizer.learning_rate": 1e-2,
                      "optimizer.warmup_steps": 5, "network.num_layers": 1, "network.width": 16,
                      "network.num_heads": 2, "network.mlp_width": 16, "network.max_length": 8,
                      "data.length": 7, "eval.final_samples": 1, "eval_steps": 0,
                      "checkpoint_steps": 150, "log_steps": 50})
  return tiny.changed(cfg, {
      "updates": 2, "eval_steps": 1, "checkpoint_steps": 1, "log_steps": 1,
      "rollout.num_prompts": 4, "rollout.group_size": 4, "rollout.calibration_samples": 4,
      "rollout.sampler.gen_length": 4, "eval.nfe": (4,), "eval.curve_nfe": 4,
      "eval.pass_samples": 4, "eval.pass_examples": 3, "eval.num_examples": 3,
      "eval.batch_size": 8, "eval.win_sizes": (1, 2)} | {
          k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.slow
def test_a_run_calibrates_by_the_base_and_measures_win_rates_and_divergence(tmp_path, monkeypatch):
  seen, transform = [], rewards_lib.transform
  monkeypatch.setattr(rewards_lib, "transform", lambda names, reward, facts: (
      seen.append((reward, facts)), transform(names, reward, facts))[1])
  results = modes.run("rl", _config(), str(tmp_path))
  assert [facts.baseline.shape for _, facts in seen] == [(4, 4)] * 2
  assert json.loads((tmp_path / "calibration.json").read_text())["rewards"]
  first = results["curve"][0]
  assert first["kl"] == pytest.approx(0, abs=1e-6) and results["kl"] > 0
  assert all(0 <= results[name] <= 1 for name in ("win_rate", "best_of_2", "worst_of_2"))
  assert {"win_rate", "best_of_2", "worst_of_2", "kl"} <= set(results["curve"][-1])
  assert [row["remasking"] for row in results["table"]] == ["left_to_right"] * 2
  other = modes.run("rl", _config(), str(tmp_path))
  assert other == results


@pytest.mark.parametrize("changes, message", [
    ({"rollout.calibration_samples": 1}, "calibration_samples is 1; expected at least 2"),
    ({"rollout.rewards": ("inference",)}, "inference transforms calibrated rewards"),
    ({"rollout.rewards": ("identity",)}, "is for rewards that are calibrated"),
    ({"rollout.inference.transform": "cube"}, "transform is 'cube'; choose from identity"),
    ({"rollout.inference.num_samples": 0}, "num_samples must be a whole number of at least 1"),
    ({"eval.win_sizes": (0,)}, r"win_sizes\[0\] must be a whole number of at least 1"),
    ({"eval.win_sizes": (64,)}, "has N = 64, of pools of 16 answers"),
    ({"rollout.sampler.name": "beam"}, "beam searches for likely texts, and rollouts are draws")])
def test_bad_input_is_one_line_before_the_base_is_trained(changes, message, tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  cfg = tiny.changed(infalign.get_config("ar"), changes)
  with pytest.raises(ValueError, match=message) as error:
    modes.run("rl", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["diffu_grpo", "trace_rl"])
def test_policies_of_diffusion_models_do_not_train_an_autoregressive_one(method, tmp_path,
                                                                         monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  cfg = _config()
  with cfg.unlocked():
    cfg.objective = mdpo.get_config(method).objective
  with pytest.raises(ValueError, match=f"{method} does not train causal models; use causal_grpo"):
    modes.run("rl", cfg, str(tmp_path / "run"))


@pytest.mark.parametrize("arg", [None, "ar"])
def test_both_configs_are_runs_that_could_start(arg):
  config = config_lib.to_dict(infalign.get_config(arg))
  rl_setup.check(config)
  assert config["init"]["base"]["objective"]["name"] == ("ar" if arg else "diffusion")
  assert config["init"]["base"]["data"]["source"]["task"] == config["task"]
  assert np.all(np.array(config["eval"]["win_sizes"]) <= config["eval"]["pass_samples"])
