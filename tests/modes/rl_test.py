"""Mode rl, as a user starts it: table, resume, meshes, bad input."""

import json
import shutil
import zlib

import jax
import numpy as np
import pytest
import tiny

import mdx
from mdx import config as config_lib
from mdx import modes
from mdx import objectives
from mdx import tasks
from mdx.build import rl as rl_setup
from mdx.configs import mdpo as mdpo_config
from mdx.eval import task_decoder
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import sites
from mdx.rl import rollout as rollout_lib
from mdx.tasks import sudoku
from mdx.train import step as step_lib
from mdx.utils import tree

_TASK = {"num_train": 40, "num_validation": 8, "num_test": 8}
_BASE = {"steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
         "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1}
_SMALL = {"updates": 4, "rollout.num_prompts": 4, "rollout.group_size": 2, "eval.num_examples": 8,
          "eval.batch_size": 8, "eval.nfe": (2, 4), "rollout.sampler.steps": 2, "log_steps": 1,
          "rollout.sampler.mixture": (),
          "eval_steps": 2, "checkpoint_steps": 2, "eval.curve_nfe": 2, "eval.curve_also": (),
          "eval.pass_k": ()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """Workdir of a base model that has hardly been trained."""
  path = tmp_path_factory.mktemp("base")
  cfg = tiny.changed(mdpo_config.get_config().init.base, _BASE)
  with cfg.unlocked():
    cfg.data.source.task.update(_TASK)
  modes.run("train", cfg, str(path))
  return path


@pytest.fixture
def rewarding(monkeypatch):
  """A reward that untrained models earn often: of cells that equal their left neighbour."""
  def score(self, examples, completions):
    del self, examples
    share = np.array([sum(a == b for a, b in zip(c, c[1:])) / 15 for c in completions], np.float32)
    return {"reward": share, "correct": share > 0.2}

  monkeypatch.setattr(sudoku.Sudoku, "score", score)


def _is_adapter(path):
  return sites.owner(path, (lora.LoRA(),)) is not None


def _config(base, **changes):
  cfg = mdpo_config.get_config("mdpo")
  with cfg.unlocked():
    cfg.task.update(_TASK)
  cfg.init.checkpoint = str(base)
  return tiny.changed(cfg, _SMALL | {k.replace("__", "."): v for k, v in changes.items()})


def _lines(workdir, kind):
  lines = [x for x in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
           if x["kind"] == kind]
  assert lines, f"no line of kind {kind}"
  return lines


@pytest.mark.slow
def test_a_run_writes_the_table_plots_and_the_viewer(base, rewarding, tmp_path):
  cfg = _config(base, eval__pass_k=(1, 2), eval__pass_samples=2, eval__pass_examples=4,
                eval__curve_also=(4,))
  results = modes.run("rl", cfg, str(tmp_path))
  assert json.loads((tmp_path / "results.json").read_text()) == results
  assert [(x["model"], x["k"], x["num_samples"], x["num_examples"], x["nfe"])
          for x in results["pass_at_k"]] == [(m, k, 2, 4, 2.0) for m in ("base", "mdpo")
                                             for k in (1, 2)]
  for one, two in zip(results["pass_at_k"][::2], results["pass_at_k"][1::2]):
    assert 0 <= one["pass_at_k"] <= two["pass_at_k"] <= 1
    assert one["best_of_k"] == pytest.approx(one["pass_at_k"]) and two["best_of_k"] <= 1
  assert all(x["tokens_per_second"] > 0 for x in results["tokens_per_second"])
  assert all(0 <= x["accuracy_4_steps"] <= 1 and x["nfe"] == 2 for x in results["curve"])
  arms = [(row["model"], row["remasking"], row["nfe"]) for row in results["table"]]
  assert arms == [(m, r, n) for m in ("base", "mdpo") for r in ("low_confidence", "rcr")
                  for n in (2, 4)]
  for row in results["table"]:
    assert set(row) == {"model", "remasking", "nfe", "accuracy", "stderr", "over_denoising",
                        "num_examples"}
    assert 0 <= row["accuracy"] <= 1 and 0 <= row["over_denoising"] <= 1
    assert row["num_examples"] == 8
  assert results["updates"] == 4 and results["rollouts"] == 4 * 8
  assert results["nfe_rollout"] == 4 * 8 * 2
  curve = results["curve"]
  assert [(p["updates"], p["rollouts"], p["nfe_rollout"]) for p in curve] == [
      (0, 0, 0), (2, 16, 32), (4, 32, 64)]
  assert curve[1]["seconds"] > 0 and curve[2]["seconds"] == pytest.approx(2 * curve[1]["seconds"])
  assert set(results["seconds"]) == {"base", "evaluate", "rollout", "score", "update"}
  assert [x["step"] for x in _lines(tmp_path, "rollout")] == [1, 2, 3, 4]
  assert [x["step"] for x in _lines(tmp_path, "eval")] == [0, 2, 4]
  assert all(x["ratio"] == pytest.approx(1, abs=1e-5) for x in _lines(tmp_path, "train"))
  for name in ("accuracy.png", "learning_curve.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  assert "before and after MDPO" in (tmp_path / "trajectories.html").read_text()
  picture = (tmp_path / "denoising.svg").read_text()
  assert "after MDPO" in picture and picture.count("translate(") == 2 * 8
  assert results["task"]["noun"] == "4x4 Sudokus"
  assert "correct 4x4 Sudokus in 2 steps" in (tmp_path / "report.html").read_text()
  # A finished run is not run again, and its model can be sampled from.
  before = (tmp_path / "metrics.jsonl").read_text()
  assert modes.run("rl", cfg, str(tmp_path)) == results
  assert (tmp_path / "metrics.jsonl").read_text() == before
  sample = mdx.load(str(tmp_path), params="raw").sample("1" + 15 * "[MASK]", gen_length=16,
                                                        name="rcr", steps=4)[0]
  assert sample.tokens.shape == (16,) and sample.text[0] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("objective, epochs", [
    ("mdpo", 1), tiny.releases("branch_mdpo", 1), tiny.releases("diffu_grpo", 2)])
def test_a_run_killed_and_resumed_is_bitwise_the_uninterrupted_run(objective, epochs, base,
                                                                  rewarding, tmp_path):
  cfg = _config(base, rollout__epochs=epochs, eval__nfe=(2,), eval__remasking=("rcr",))
  cfg.objective = dict(name=objective)
  cfg.eval.curve_nfe = 4  # not in the table
  modes.run("rl", cfg, str(tmp_path / "whole"))
  shutil.copytree(tmp_path / "whole", tmp_path / "killed")
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
  (tmp_path / "killed" / "results.json").unlink()
  modes.run("rl", cfg, str(tmp_path / "killed"))
  (_, a), (_, b) = (tiny.stored(tmp_path / run) for run in ("whole", "killed"))
  assert a.pop("data") == b.pop("data") == []
  assert {k: tree.fingerprint(v) for k, v in a.items()} == {
      k: tree.fingerprint(v) for k, v in b.items()}
  strip = lambda run: [{k: v for k, v in x.items() if "second" not in k}
                       for kind in ("rollout", "train") for x in _lines(tmp_path / run, kind)]
  assert strip("whole") == strip("killed")


@pytest.mark.slow
def test_meshes_agree_on_rollouts_and_losses(base, rewarding, tmp_path):
  losses, rewards = [], []
  for name, mesh in (("data", dict(data=8)), ("cut", dict(data=2, fsdp=2, tensor=2))):
    cfg = _config(base, eval__nfe=(2,), eval__remasking=("rcr",), microbatches=1)
    cfg.mesh.update(dict(replica=1, data=1, fsdp=1, tensor=1, sequence=1) | mesh)
    modes.run("rl", cfg, str(tmp_path / name))
    losses.append([x["loss"] for x in _lines(tmp_path / name, "train")])
    rewards.append([x["reward"] for x in _lines(tmp_path / name, "rollout")])
  np.testing.assert_allclose(*losses, atol=1e-5)
  np.testing.assert_allclose(*rewards, atol=1e-6)


def _run_on(base, workdir, sizes, **changes):
  """A run with updates on fsdp 4 x tensor 2 and decoding on a mesh of its own, {} = on theirs.

  Returns its lines but for seconds, by kind, and its last state.
  """
  cfg = _config(base, eval__nfe=(2,), eval__remasking=("rcr",), **changes)
  cfg.mesh.update(data=1, fsdp=4, tensor=2)
  cfg.rollout.mesh.update(sizes)
  modes.run("rl", cfg, str(workdir))
  lines = {kind: [{k: v for k, v in x.items() if "second" not in k} for x in _lines(workdir, kind)]
           for kind in ("rollout", "train", "eval")}
  _, state = tiny.stored(workdir)
  return lines, {k: v for k, v in state.items() if k != "data"}


def _figures(lines, name):
  found = [x[name] for kind in lines.values() for x in kind if name in x]
  assert found
  return found


@pytest.mark.slow
def test_rollouts_on_a_mesh_like_that_of_updates_are_the_same_to_the_bit(base, rewarding,
                                                                         tmp_path):
  run = lambda name, sizes: _run_on(base, tmp_path / name, sizes, updates=2, objective__kl=0.1,
                                    ema_decay=0.5)
  (old, before), (new, after) = run("home", {}), run("own", dict(fsdp=4, tensor=2))
  assert old["rollout"] == new["rollout"] and old["eval"] == new["eval"]
  for name in ("loss", "kl", "grad_norm"):
    np.testing.assert_allclose(_figures(old, name), _figures(new, name), rtol=1e-5)
  assert {"params", "ema", "opt_state"} <= set(before)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after)


@pytest.mark.release
@pytest.mark.slow
def test_rollouts_on_another_mesh_agree_and_a_killed_run_is_resumed(base, rewarding, tmp_path):
  run = lambda name, sizes: _run_on(base, tmp_path / name, sizes, lora__rank=2, objective__kl=0.1)
  (old, _), (new, state) = run("home", {}), run("own", dict(data=-1, tensor=2))
  for name in ("reward", "loss", "kl", "accuracy", "grad_norm"):
    np.testing.assert_allclose(_figures(old, name), _figures(new, name), atol=1e-5)
  shutil.copytree(tmp_path / "own", tmp_path / "killed")
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
  (tmp_path / "killed" / "results.json").unlink()
  lines, resumed = run("killed", dict(data=4, tensor=2))
  assert lines == new and tree.fingerprint(resumed) == tree.fingerprint(state)


@pytest.mark.slow
@pytest.mark.parametrize("objective", tiny.mostly_slow(
    ["wd1", "coupled_grpo", "branch_mdpo", "espo", "gdpo", "spg", "vrpo"], [], ci=["espo", "vrpo"]))
def test_baselines_run_on_the_same_machinery(objective, base, rewarding, tmp_path):
  cfg = _config(base, updates=2, eval__nfe=(2,), eval__remasking=("low_confidence",),
                rollout__num_prompts=16)  # whose pairs, in vrpo, the devices divide
  cfg.objective = dict(name=objective)
  results = modes.run("rl", cfg, str(tmp_path))
  assert [row["model"] for row in results["table"]] == ["base", objective]
  assert all(np.isfinite(x["loss"]) and x["grad_norm"] > 0 for x in _lines(tmp_path, "train"))


def _branch(base, **changes):
  cfg = _config(base, **{"rollout__num_prompts": 8, "rollout__group_size": 1} | changes)
  cfg.objective = dict(name="branch_mdpo", num_predictions=3, num_steps=1)
  return cfg


@pytest.mark.slow
def test_branch_credit_needs_no_group(base, rewarding, tmp_path):
  cfg = _branch(base, updates=2, eval__nfe=(2,), eval__remasking=("low_confidence",),
                eval_steps=0)
  results = modes.run("rl", cfg, str(tmp_path))
  assert [row["model"] for row in results["table"]] == ["base", "branch_mdpo"]
  assert results["rollouts"] == 16 and results["nfe_rollout"] == 32
  lines = _lines(tmp_path, "rollout")
  assert len(lines) == 2 and all(
      0 <= x["dead_canvases"] < 1 and "dead_groups" not in x for x in lines)
  train = _lines(tmp_path, "train")
  assert train[0]["kl"] == pytest.approx(0, abs=1e-6) and train[1]["kl"] > 0
  assert all(0 < x["live_canvases"] <= 1 and x["grad_norm"] > 0 for x in train)


@pytest.mark.parametrize("changes, message", [
    ({"objective.num_predictions": 1}, "objective.num_predictions must be at least 2, got 1"),
    ({"objective.num_steps": 0}, "objective.num_steps must be at least 1, got 0"),
    ({"objective.kl": -0.1}, "objective.kl must be at least 0, got -0.1"),
    ({"objective.clip": 0.2}, "has no field 'clip'"),
    ({"objective.kl_form": "k2"}, "has no field 'kl_form'"),
    ({"rollout.group_size": 0}, "group_size must be a whole number of at least 1"),
    ({"rollout.epochs": 2}, "has no ratio that corrects for the draws of an older policy"),
    ({"rollout.dynamic_sampling": True}, "branch_mdpo compares no group; leave it out"),
    ({"rollout.tree": "uniform"}, "branch_mdpo does not score the steps after that; use none"),
    ({"rollout.sampler.guidance_scale": 1.0}, "draws tokens from another distribution than"),
    ({"rollout.sampler.cache": "dual"}, "branch_mdpo reads the prediction of every step"),
    ({"rollout.sampler.temperature": 0.0}, "positive temperature"),
    ({"rollout.sampler.top_p": 0.9}, "sampler.top_p cuts the distribution"),
    ({"rollout.rewards": ("calibrated",)}, "branch_mdpo reads that of every step"),
    ({"rollout.max_turns": 2}, "branch_mdpo; use 1")])
def test_branch_credit_refuses_what_it_cannot_score_before_the_base_is_trained(
    changes, message, tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  cfg = _branch("")
  with cfg.unlocked():
    cfg.objective.update({k.partition(".")[2]: v for k, v in changes.items()
                          if k.startswith("objective.")})
  cfg = tiny.changed(cfg, {k: v for k, v in changes.items() if not k.startswith("objective.")})
  with pytest.raises(ValueError, match=message) as error:
    modes.run("rl", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective, sampler, tree", [
    ("trace_rl", {}, "none"), *(tiny.releases(*case) for case in (
        ("d2", {}, "none"), ("agrpo", {"confidence": "random"}, "uniform"),
        ("cj_grpo", {"schedule": "doubling"}, "uniform"),
        ("just_grpo", {"name": "autoregressive"}, "none")))])
@pytest.mark.slow
def test_policies_that_replay_trajectories_run_on_the_same_machinery(objective, sampler, tree, base,
                                                                    rewarding, tmp_path):
  cfg = _config(base, updates=2, eval__nfe=(2,), eval__remasking=("low_confidence",), eval_steps=0,
                rollout__epochs=2, rollout__pass_rate=(0.0, 0.9), rollout__tree=tree)
  cfg.objective = dict(name=objective)
  cfg.rollout.sampler.update(sampler)
  modes.run("rl", cfg, str(tmp_path))
  lines = _lines(tmp_path, "train")
  assert all(np.isfinite(x["loss"]) and x["grad_norm"] > 0 for x in lines)
  # The second update on a rollout has another policy than the one it was drawn with.
  assert lines[0]["ratio"] == pytest.approx(1, abs=1e-5) and lines[1]["ratio"] != 1
  assert all(0 <= x["kept_groups"] <= 1 for x in _lines(tmp_path, "rollout"))


@pytest.mark.slow
def test_a_value_head_is_trained_and_kept_and_its_run_is_sampled_from(base, rewarding, tmp_path):
  cfg = _config(base, updates=2, eval__nfe=(2,), eval__remasking=("low_confidence",), eval_steps=0)
  cfg.objective = dict(name="trace_rl", value=True)
  modes.run("rl", cfg, str(tmp_path))
  assert all(np.isfinite(x["loss"]) and x["grad_norm"] > 0 for x in _lines(tmp_path, "train"))
  head = tiny.stored(tmp_path)[1]["params"]["value"]
  assert head["kernel"].shape == (16, 1) and np.abs(head["kernel"]).max() > 0
  assert mdx.load(str(tmp_path), params="raw").sample("1" + 15 * "[MASK]", gen_length=16,
                                                      steps=2)[0].text[0] == "1"
  cfg.lora.rank = 2
  with pytest.raises(ValueError, match="has parameters 'value' of its own"):
    modes.run("rl", cfg, str(tmp_path / "lora"))


@pytest.mark.parametrize("objective, changes, message", [
    ("cj_grpo", {"sampler.name": "rcr"}, "RunningConfidence revises them"),
    ("trace_rl", {"sampler.name": "remdm"}, "Remdm revises them"),
    ("agrpo", {"sampler.cache": "dual"}, "cache dual draws from another distribution"),
    ("d2", {"max_turns": 2}, "replays the steps of one turn, got rollout.max_turns 2"),
    ("just_grpo", {}, "needs rollouts from left to right, and rollout.sampler is Confidence"),
    ("branch_mdpo", {"pass_rate": (0.2, 0.8), "group_size": 1}, "branch_mdpo compares no group"),
    ("trace_rl", {"pass_rate": (0.8, 0.2)}, r"must be \(low, high\), low <= high"),
    ("trace_rl", {"pass_rate": (0.2, 1.2)}, r"pass_rate\[1\] must be a number"),
    ("trace_rl", {"pass_rate": (0.2,)}, "pass_rate must be")])
def test_decodings_that_a_policy_cannot_replay_are_refused_before_the_base_is_trained(
    objective, changes, message, tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  cfg = tiny.changed(_config(""), {f"rollout.{k}": v for k, v in changes.items()})
  cfg.objective = dict(name=objective)
  with pytest.raises(ValueError, match=message) as error:
    modes.run("rl", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def _grpo(base, **changes):
  cfg = _config(base, updates=2, eval__nfe=(2,), eval__remasking=("low_confidence",), **changes)
  cfg.objective = dict(name="diffu_grpo")
  return cfg


@pytest.mark.slow
def test_policies_of_final_answers_learn_the_same_from_commits_as_from_full_records(
    base, rewarding, tmp_path, monkeypatch):
  lines = []
  for record in ("commits", "full"):
    monkeypatch.setattr(objectives.POLICIES["diffu_grpo"], "record", record)
    modes.run("rl", _grpo(base), str(tmp_path / record))
    lines.append([x for kind in ("train", "rollout") for x in _lines(tmp_path / record, kind)])
  assert len(lines[0]) == 4
  for short, full in zip(*lines):
    for name in ("loss", "grad_norm", "reward", "dead_groups", "nfe"):
      assert short.get(name) == pytest.approx(full.get(name), abs=1e-6)
  assert "best_of_steps" in lines[1][2] and "best_of_steps" not in lines[0][2]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dual", pytest.param("prefix", marks=pytest.mark.slow)])
def test_rollouts_may_have_a_cache_where_final_answers_are_read(cache, base, rewarding, tmp_path):
  results = modes.run("rl", _grpo(base, rollout__sampler__cache=cache,
                                  rollout__sampler__block_length=4, rollout__sampler__steps=8),
                      str(tmp_path))
  assert all(np.isfinite(x["loss"]) and x["grad_norm"] > 0 for x in _lines(tmp_path, "train"))
  assert 4 < _lines(tmp_path, "rollout")[0]["nfe"] <= 8
  assert results["table"][0]["over_denoising"] >= 0  # measured without a cache


@pytest.mark.slow
def test_refills_replace_groups_without_variance_and_resume_bitwise(base, tmp_path, monkeypatch):
  def rare(self, examples, completions):
    del self
    hit = np.array([zlib.crc32((e["prompt"] + c).encode()) % 8 == 0
                    for e, c in zip(examples, completions)])
    return {"reward": hit.astype(np.float32), "correct": hit}

  monkeypatch.setattr(sudoku.Sudoku, "score", rare)
  cfg = _config(base, rollout__dynamic_sampling=True, rollout__max_refills=2, eval__nfe=(2,),
                eval__remasking=("rcr",))
  cfg.objective = dict(name="diffu_grpo")
  modes.run("rl", cfg, str(tmp_path / "whole"))
  rollouts = _lines(tmp_path / "whole", "rollout")
  assert any(x["refills"] for x in rollouts)
  assert all(x["num_rollouts"] == 8 * (1 + x["refills"]) for x in rollouts)
  assert all(x["dead_groups_left"] <= x["dead_groups"] for x in rollouts)
  assert any(x["dead_groups_left"] < x["dead_groups"] for x in rollouts)
  shutil.copytree(tmp_path / "whole", tmp_path / "killed")
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
  (tmp_path / "killed" / "results.json").unlink()
  modes.run("rl", cfg, str(tmp_path / "killed"))
  (_, a), (_, b) = (tiny.stored(tmp_path / run) for run in ("whole", "killed"))
  assert a.pop("data") == b.pop("data") == []
  assert {k: tree.fingerprint(v) for k, v in a.items()} == {
      k: tree.fingerprint(v) for k, v in b.items()}


@pytest.mark.slow
def test_over_denoised_problems_are_kept_and_gone_through_again_after_a_restart(
    base, tmp_path, capsys, monkeypatch):
  def coin(self, examples, completions):
    del self, examples
    heads = np.array([zlib.crc32(c.encode()) % 2 for c in completions])
    return {"reward": heads.astype(np.float32), "correct": heads.astype(bool)}

  monkeypatch.setattr(sudoku.Sudoku, "score", coin)
  cfg = _config(base, rollout__filter="over_denoising", rollout__filter_examples=30, updates=2,
                eval__nfe=(2,), eval__remasking=("rcr",))
  modes.run("rl", cfg, str(tmp_path))
  kept = json.loads((tmp_path / "over_denoised_0.json").read_text())
  assert f"{len(kept)} of 30 training problems are over-denoised" in capsys.readouterr().out
  assert 0 < len(kept) < 30 and kept == sorted(set(kept)) and max(kept) < 40


@pytest.mark.slow
def test_a_verifier_without_signal_is_told(base, tmp_path, capsys, monkeypatch):
  never = lambda self, examples, completions: {
      "reward": np.zeros(len(examples), np.float32), "correct": np.zeros(len(examples), bool)}
  monkeypatch.setattr(sudoku.Sudoku, "score", never)
  modes.run("rl", _config(base, eval__nfe=(2,), eval__remasking=("rcr",)), str(tmp_path))
  out = capsys.readouterr().out
  assert "  reward 0  " in out  # the console says what the rollouts earn
  assert out.count("there is no signal to learn from") == 1 and "the reward 0" in out


@pytest.mark.parametrize("changes, message", tiny.first([
    ({"rollout.group_size": 1}, "group_size must be at least 2"),
    ({"rollout.sampler.guidance_scale": 1.0}, "draws tokens from another distribution than"),
    ({"rollout.epochs": 3}, "updates 4 is not a multiple of rollout.epochs 3"),
    ({"rollout.num_prompts": 3}, "3 prompts x 2 rollouts are not divisible by 8 batch shards"),
    ({"rollout.sampler.cache": "dual"}, "objective mdpo reads the prediction of every step, which "
     "rollout.sampler.cache dual leaves out"),
    ({"rollout.rewards": ("rank",)}, "rewards has 'rank'; choose from identity, calibrated"),
    ({"rollout.rewards": ("calibrated",)}, "objective mdpo reads that of every step"),
    ({"rollout.sampler.eta": 0.5}, "'confidence' has no field 'eta'; it is a field of remdm"),
    ({"rollout.filter": "hard"}, "choose from none, over_denoising"),
    ({"rollout.sampler.temperature": 0.0}, "positive temperature"),
    ({"rollout.sampler.gen_length": 60, "rollout.sampler.steps": 60}, "fill in have 16 tokens"),
    ({"rollout.mixture_draw": "each"}, "choose from per_rollout, per_group, per_problem"),
    ({"rollout.long_prompts": "drop"}, "choose from cut, skip"),
    ({"rollout.max_turns": 2, "rollout.filter": "over_denoising"}, "filter over_denoising is for"),
    ({"rollout.max_prompt_length": 8}, "has 16 tokens, more than 8"),
    ({"rollout.sampler.mixture": ((16, 0),)}, "pairs \\(block_length, steps\\)"),
    ({"updates": -1}, "updates must be a whole number of at least 0"),
    ({"objective.name": "ppo"}, "choose from action_grpo, agrpo"),
    ({"eval.remasking": ("low",)}, "choose from low_confidence, rcr"),
    ({"task.num_train": 0}, "the train split has no examples"),
    ({"task.size": 9, "task.max_givens": 20, "task.min_givens": 20, "task.num_train": 2},
     "cannot write the prompts of this task")], 3))
def test_bad_input_is_one_line_before_anything_is_written(changes, message, base, tmp_path):
  cfg = tiny.changed(_config(base), changes)
  with pytest.raises(ValueError, match=message) as error:
    modes.run("rl", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_wrong_config_is_refused_before_the_base_model_is_trained(tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  for changes, message in (({"objective.name": "ppo"}, "choose from action_grpo, agrpo"),
                           ({"objective.kl_form": "k9"}, "choose from k2, k3"),
                           ({"rollout.sampler.name": "beams"}, "unknown sampler"),
                           ({"rollout.sampler.name": "beam"}, "searches for likely texts"),
                           ({"rollout.sampler.name": "speculative"}, "from the causal reading"),
                           ({"rollout.sampler.eos_penalty": 1.0}, "eos_penalty 1.0 changes the"),
                           ({"rollout.sampler.eos": "forbid"}, "use allow or last"),
                           ({"rollout.sampler.guidance_scale": 0.5}, "guidance_scale 0.5 .* use 0"),
                           ({"rollout.sampler.top_k": 1}, "top_k cuts the distribution"),
                           ({"ema_decay": 1.5}, r"ema_decay must lie in \[0, 1\)"),
                           ({"eval.nfe": ("abc",)}, r"config.eval.nfe\[0\] must be a whole number"),
                           ({"rollout.sampler.gen_length": 60, "rollout.sampler.steps": 60},
                            "fill in have 16 tokens"),
                           ({"mesh.data": 3}, "devices"),
                           ({"optimizer.trainable": "nothing"}, "trainable"),
                           ({"rollout.sampler.schedule": "fast"}, "choose from even")):
    cfg = tiny.changed(_config(""), changes)
    with pytest.raises(ValueError, match=message):
      modes.run("rl", cfg, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_default_problems_of_training_and_test_share_no_givens():
  task = tasks.build(dict(mdpo_config.get_config().task))
  prompts = {split: {e["prompt"] for e in task.examples(split)}
             for split in ("train", "validation", "test")}
  assert len(prompts["test"]) >= 512 and not prompts["train"] & prompts["test"]
  assert not prompts["validation"] & (prompts["train"] | prompts["test"])


@pytest.mark.slow
def test_adapters_alone_are_trained_and_the_reference_is_the_base(base, rewarding, tmp_path,
                                                                  monkeypatch):
  """With a KL, so that the reference is read; the base's parameters are never changed or copied."""
  seen = []
  call = step_lib.Compiled.__call__

  def watched(self, state, batch, frozen):
    seen.append((state.params, frozen))
    return call(self, state, batch, frozen)

  monkeypatch.setattr(step_lib.Compiled, "__call__", watched)
  config = _config(base, lora__rank=2, objective__kl=0.1, updates=2)
  modes.run("rl", config, str(tmp_path / "rl"))
  (before, frozen), (after, _) = seen
  reference = tree.flatten(frozen["reference"])
  assert reference and all(map(_is_adapter, reference))
  first = {path: leaf for path, leaf in tree.flatten(before).items() if not _is_adapter(path)}
  assert all(tree.flatten(after)[path] is leaf for path, leaf in first.items())
  trained = tree.flatten(mdx.load(str(tmp_path / "rl")).params)
  changed = {path for path, leaf in tree.flatten(mdx.load(str(base)).params).items()
             if not np.array_equal(leaf, trained[path])}
  assert not changed and any(
      np.asarray(leaf).any() for path, leaf in trained.items() if "lora_b" in path)
  kl = [line["kl"] for line in _lines(tmp_path / "rl", "train")]
  assert kl[0] == 0 and kl[1] > 0


@pytest.mark.parametrize("name", objectives.POLICIES)
def test_every_method_has_a_config_that_a_run_takes(name):
  config = config_lib.to_dict(mdpo_config.get_config(f"countdown,{name}"))
  rl_setup.check(config)
  assert config["objective"]["name"] == name and config["task"]["name"] == "countdown"
  assert mdpo_config.get_config(name).task.name == "sudoku"
  assert mdpo_config.get_config("branch_mdpo").to_dict() == mdpo_config.get_config().to_dict()
  with pytest.raises(ValueError, match=f"one of {', '.join(objectives.POLICIES)} after a comma"):
    mdpo_config.get_config(f"{name},nope")


@pytest.mark.parametrize("choice", tiny.mostly_slow(["skip", "cut"], ["skip"]))
@pytest.mark.slow
def test_prompts_that_are_too_long_are_skipped_or_cut_and_counted(choice, base, rewarding, tmp_path,
                                                                  capsys, monkeypatch):
  is_long = lambda e: zlib.crc32(e["key"].encode()) % 3 == 0
  monkeypatch.setattr(sudoku.Sudoku, "prompt",
                      lambda self, e: e["prompt"][:16] * (2 if is_long(e) else 1))
  drawn, examples_of = [], rollout_lib.Rollouts.examples_of

  def watched(self, *args):
    found = examples_of(self, *args)
    drawn.extend(self._examples[i] for i in found)
    return found

  monkeypatch.setattr(rollout_lib.Rollouts, "examples_of", watched)
  cfg = _grpo(base, rollout__max_prompt_length=16, rollout__long_prompts=choice,
              rollout__num_prompts=16, task__in_place=False)
  modes.run("rl", cfg, str(tmp_path))
  train = tasks.build(dict(cfg.task)).examples("train")
  done = {"skip": "skipped", "cut": "cut on the left"}[choice]
  out = capsys.readouterr().out
  assert (f"{sum(map(is_long, train))} of 40 train prompts have more than 16 tokens and are {done}."
          in out) and "test prompts have more than 16 tokens and are cut on the left" in out
  assert len(drawn) == 2 * 16 * 2 and any(map(is_long, drawn)) == (choice == "cut")


def test_when_all_prompts_are_too_long_to_be_trained_on_it_is_said(base, tmp_path):
  cfg = _grpo(base, rollout__max_prompt_length=8, rollout__long_prompts="skip")
  cfg.task.in_place = False
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sudoku.Sudoku, "prompt", lambda self, e: e["prompt"][:16])
    with pytest.raises(ValueError, match="every training prompt has more tokens than .* 8; raise"):
      modes.run("rl", cfg, str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False])
def test_a_problem_keeps_its_component_from_the_filter_on_and_epochs_may_keep_the_filter_s_outcome(
    once, base, tmp_path, monkeypatch):
  def coin(self, examples, completions):
    del self, examples
    heads = np.array([zlib.crc32(c.encode()) % 2 for c in completions])
    return {"reward": heads.astype(np.float32), "correct": heads.astype(bool)}

  monkeypatch.setattr(sudoku.Sudoku, "score", coin)
  calls, call = [], task_decoder.TaskDecoder.__call__

  def watched(self, params, examples, iteration, **options):
    found = call(self, params, examples, iteration, **options)
    if self._prompts.component is not None:
      calls.append([(tuple(self._prompts.tokens[i]), int(n))
                    for i, n in zip(examples, np.asarray(found[0].nfe))])
    return found

  monkeypatch.setattr(task_decoder.TaskDecoder, "__call__", watched)
  cfg = _config(base, rollout__filter="over_denoising", rollout__filter_once=once, updates=8,
                rollout__sampler__mixture=((4, 4), (16, 2)), rollout__mixture_draw="per_problem",
                rollout__num_prompts=8, eval__nfe=(2,), eval__remasking=("rcr",))
  modes.run("rl", cfg, str(tmp_path))
  steps = {}
  for problem, nfe in sum(calls, []):
    steps.setdefault(problem, set()).add(nfe)
  assert steps and all(len(found) == 1 for found in steps.values())
  assert set.union(*steps.values()) == {2, 3, 4}  # blocks of 4 of the 12 to 14 cells, or all
  in_filter = {problem for problem, _ in sum((x for x in calls if len(x) != 16), [])}
  in_rollouts = {problem for problem, _ in sum((x for x in calls if len(x) == 16), [])}
  assert in_rollouts and in_rollouts <= in_filter
  files = sorted(x.name for x in tmp_path.glob("over_denoised_*.json"))
  assert files[0] == "over_denoised_0.json" and (len(files) == 1) == once


@pytest.mark.parametrize("method, epochs, temperature, rank, rate, rows", [
    ("mdpo", 1, 0.4, 0, 7e-7, 16), ("diffu_grpo", 12, 0.9, 128, 3e-6, 96),
    ("wd1", 12, 0.9, 128, 3e-6, 48), ("coupled_grpo", 2, 1.0, 0, 1e-6, 80)])
def test_the_published_recipes_are_presets_of_their_methods(method, epochs, temperature, rank, rate,
                                                            rows):
  config = mdpo_config.get_config(f"llada_8b,{method}").to_dict()
  rl_setup.check(config)
  rollout = config["rollout"]
  assert config["objective"]["name"] == method and config["lora"]["rank"] == rank
  assert (rollout["epochs"], rollout["sampler"]["temperature"]) == (epochs, temperature)
  assert config["optimizer"]["learning_rate"] == rate
  assert rollout["num_prompts"] * rollout["group_size"] == rows
  steps = config["objective"].get("num_steps", 1)
  assert rows % 16 == 0 and rows * steps % (16 * config["microbatches"]) == 0  # 64 chips by 4
  if method == "mdpo":
    assert config == mdpo_config.get_config("llada_8b").to_dict()
    # 2,840 problems, 2 an update: the paper's count of AdamW's steps.
    assert config["updates"] == 2840 // rollout["num_prompts"] and rows * steps == 2 * 8 * 8
