"""Claims: what is compared, the test, and that a claim that was stopped goes on."""

import copy
import itertools
import json
import math

import pytest

from mdx import config as config_lib
from mdx import modes
from mdx import objectives
from mdx import samplers
from mdx.build import rl as rl_setup
from mdx.build import rl_checks
from mdx.build import setup as setup_lib
from mdx.configs.claims import ask2mask
from mdx.configs.claims import bitimebert
from mdx.configs.claims import block_size
from mdx.configs.claims import carry_over
from mdx.configs.claims import drbert
from mdx.configs.claims import electra
from mdx.configs.claims import ernie_gram
from mdx.configs.claims import finetuned
from mdx.configs.claims import half_finetuning
from mdx.configs.claims import hidden_states
from mdx.configs.claims import infalign
from mdx.configs.claims import joint
from mdx.configs.claims import lattice_times
from mdx.configs.claims import looking_right
from mdx.configs.claims import mdpo
from mdx.configs.claims import masked_finetuning
from mdx.configs.claims import mask_tuning
from mdx.configs.claims import meap
from mdx.configs.claims import peft
from mdx.configs.claims import rcr
from mdx.configs.claims import recurrent
from mdx.configs.claims import rts
from mdx.configs.claims import schedules
from mdx.configs.claims import search
from mdx.configs.claims import seq2seq
from mdx.configs.claims import slm
from mdx.configs.claims import sparsity
from mdx.configs.claims import structural
from mdx.configs.claims import time_density
from mdx.configs.claims import unlearn
from mdx.configs.claims import unmasking
from mdx.configs.claims import w2v_bert
from mdx.eval import comparison as comparison_lib
from mdx.modes import claim
from mdx.objectives.signals import ask

import tiny

def test_speedups_do_not_reward_the_luckiest_point():
  at = lambda *accuracies: {"curve": [dict(updates=10 * i, accuracy=a)
                                      for i, a in enumerate(accuracies)]}
  compared = comparison_lib.Comparison(name="c", left="a", right="b", speedup=True)
  # The right arm stays at 0.5 +- 0.1 from update 20 on; its best point alone says 0.6.
  noisy, fast = at(0.1, 0.3, 0.5, 0.6, 0.4, 0.5, 0.5), at(0.1, 0.5, 0.55, 0.55, 0.55, 0.55, 0.55)
  row = comparison_lib.compare(compared, [fast, fast], [noisy, noisy])
  assert row["speedups"] == pytest.approx([2.0, 2.0])
  assert [p["accuracy"] for p in comparison_lib.rising(noisy["curve"])] == pytest.approx(
      [0.1, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5])
  assert comparison_lib.rising(fast["curve"]) == fast["curve"]  # one that rises stays as it is


def test_fields_of_a_component_within_a_component_keep_the_others():
  run = dict(objective=dict(name="x", attention=dict(name="groups", code="00"), rate=1))
  claim.set_key(run, "objective.attention.code", "01")
  assert run["objective"] == dict(name="x", attention=dict(name="groups", code="01"), rate=1)
  claim.merge(run, dict(objective=dict(attention=dict(name="full"))))
  assert run["objective"]["attention"] == dict(name="full")


def test_a_ratio_to_zero_is_inconclusive_and_no_p_is_printed_as_zero():
  runs = [{"x": value} for value in (1.0, 0.0, 2.0)], [{"x": 1.0}] * 3
  comparison = comparison_lib.Comparison(name="n", left="a", right="b", measure="x", ratio=True)
  row = comparison_lib.compare(comparison, *runs)
  assert row["verdict"] == "inconclusive"
  results = {"statement": "", "chosen": {}, "seeds": [0], "arms": {}, "comparisons": [
      {**row, "p_corrected": 1.0},
      {**row, "ratio": False, "difference": 1.0, "spread": 1e-5, "p": 1e-9, "p_corrected": 2e-9}]}
  text = claim.table_text(results)
  assert "no finite difference, p = 1.000" in text and "p < 0.001" in text


def _config(**changes):
  return dict(
      mode="claim", statement="b beats a", seeds=[0, 1, 2], choose_by="bits",
      run=dict(mode="train", seed=9, rate=1.0, objective=dict(name="x", depth=2)),
      arms=dict(a=dict(), b=dict(objective=dict(name="y"))), grids=dict(b=dict(
          key="rate", values=[1.0, 2.0])), measures=["bits"],
      comparisons=[dict(name="b beats a", left="b", right="a", measure="bits")]) | changes


def _run(monkeypatch, config, workdir, fakes):
  """The claim, without its report, whose runs are fakes."""
  monkeypatch.setattr(modes, "run", lambda mode, *rest: fakes[mode](*rest))
  return claim.run.__wrapped__(config, workdir)


@pytest.mark.slow
def test_every_arm_runs_with_every_seed_and_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
  runs = []

  def train(config, workdir):
    runs.append((workdir.split("/")[-2:], config["seed"], config["rate"], config["objective"]))
    bits = config["seed"] + 10 * (config["objective"]["name"] == "y") * config["rate"]
    if len(runs) == 5:
      raise KeyboardInterrupt
    (tmp_path / workdir).mkdir(parents=True)
    (tmp_path / workdir / "results.json").write_text(json.dumps({"bits": bits}))
    return {"bits": bits}

  with pytest.raises(KeyboardInterrupt):
    _run(monkeypatch, _config(), str(tmp_path), {"train": train})
  results = _run(monkeypatch, _config(), str(tmp_path), {"train": train})
  assert len(runs) == 1 + 9  # the one that was stopped, twice
  assert runs[0] == (["a", "seed_0"], 0, 1.0, {"name": "x", "depth": 2})
  assert [run[1] for run in runs] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]  # arms take turns
  assert runs[-1] == (["b_2", "seed_2"], 2, 2.0, {"name": "y"})
  assert results["chosen"]["b"]["value"] == 2.0
  assert results["arms"]["b"]["bits"]["values"] == [20, 21, 22]
  assert results["comparisons"][0]["difference"] == 20
  # Three equal differences: their signs alone would be so one time in four.
  assert results["comparisons"][0]["verdict"] == "inconclusive"
  assert json.loads((tmp_path / "results.json").read_text())["statement"] == "b beats a"
  assert "INCONCLUSIVE: b beats a" in (tmp_path / "claim.txt").read_text()
  other = _config(run=_config()["run"] | {"rate": 3.0})
  with pytest.raises(ValueError, match="has a run of another config; remove it"):
    _run(monkeypatch, other, str(tmp_path), {"train": train})


@pytest.mark.parametrize("changes, message", [
    (dict(seeds=[0, 0, 1]), "needs 3 different seeds"),
    (dict(arms=dict(a=dict(), b=dict(rats=1))), "config.rats, which its run does not have.*rate"),
    (dict(grids=dict(c=dict(key="rate", values=[1]))), "'c', which is no arm"),
    (dict(comparisons=[dict(name="n", left="a", right="z")]), "names the arm 'z'"),
    (dict(comparisons=[dict(name="n", left="a", right="b", equal="joules")]),
     "choose from updates"),
    (dict(run=dict(mode="sample")), "runs of mode train, rl or eval")])
def test_a_claim_that_cannot_be_tested_is_refused(changes, message, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=message):
    _run(monkeypatch, _config(**changes), str(tmp_path / "x"), {"train": None})
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arg", [None, "all", "countdown", "all,countdown"])
def test_every_arm_and_rate_of_the_claim_about_mdpo_is_a_run_that_could_start(arg):
  config = config_lib.to_dict(mdpo.get_config(arg))
  assert len(claim.check(config)) >= 20 and len(config["seeds"]) >= 5
  of_models = {name for name, policy in objectives.POLICIES.items()
               if "diffusion" in policy.of_models and not policy.trains_rule}
  assert (of_models <= set(config["arms"])) == ("all" in (arg or ""))
  for arm in config["arms"]:
    for _, changes in claim._grid(config, arm):
      run = claim._run_config(config, arm, changes, 0)
      rl_setup.check(run)
      rollout = run["rollout"]
      assert rollout["num_prompts"] * rollout["group_size"] == 256
  with pytest.raises(ValueError, match="takes all, countdown or both"):
    mdpo.get_config("x")


@pytest.mark.parametrize("module", tiny.first([rcr, block_size, carry_over, lattice_times, schedules,
                                    looking_right, meap, bitimebert, finetuned, infalign, joint,
                                    search, peft, unlearn, masked_finetuning, w2v_bert, recurrent,
                                    seq2seq, time_density, hidden_states, sparsity,
                                    mask_tuning, half_finetuning], 3))
def test_shipped_claims_are_well_formed(module, tmp_path, monkeypatch):
  monkeypatch.setattr(setup_lib.pipeline, "check", lambda *args, **fields: None)  # takes seconds
  config = config_lib.to_dict(module.get_config())
  assert len(claim.check(config)) >= 2
  if config["run"]["mode"] != "rl":
    for changes in config["arms"].values():  # every arm is a run that could start
      run = copy.deepcopy(config["run"])
      claim.merge(run, changes)
      if run["mode"] == "eval" and "task" in run:
        samplers.check_fields(run["sampler"])
        run = run["init"]["base"]
      setup_lib.setup(run, str(tmp_path / "run"))
  with pytest.raises(ValueError, match="takes no argument, got 'x'"):
    module.get_config("x")


def test_the_claim_about_guided_masks_has_a_run_of_the_scorer():
  config = config_lib.to_dict(ask2mask.get_config())
  assert len(claim.check(config)) == 3 and len(config["seeds"]) == 5
  scorer, run = ask2mask.get_config("scorer"), config["run"]
  assert scorer.tokenizer.path == run["tokenizer"]["path"]
  assert [*scorer.objective.frontend.strides] == run["objective"]["frontend"]["strides"]
  assert {config["arms"][arm]["objective"]["ask"]["temperature"] for arm in config["arms"]} == {
      0.1, float("inf")}
  for arm in config["arms"].values():
    assert ask.Ask.build(arm["objective"]["ask"], {"scorer": None}).scorer == "scorer"
  with pytest.raises(ValueError, match="takes scorer or no argument, got 'x'"):
    ask2mask.get_config("x")


def test_the_claim_about_unmasking_is_of_policies_that_could_be_trained():
  config = config_lib.to_dict(unmasking.get_config())
  assert len(claim.check(config)) == 20 and set(config["arms"]) == {"full", "blocks"}
  for arm in config["arms"]:
    run = claim._run_config(config, arm, {}, 0)
    rl_setup.check(run)
    assert len(rl_checks.rules(run)) >= 13
  assert set(unmasking.get_config("blocks").arms) == {"blocks"}
  with pytest.raises(ValueError, match="takes one of full, blocks, or nothing for both; got 'x'"):
    unmasking.get_config("x")


@pytest.mark.parametrize("module, data", tiny.first([
    *itertools.product([drbert, electra, ernie_gram, rts, slm], ["grammar", "intents", "text"]),
    (structural, "grammar"), (structural, "text")], 3))
def test_claims_about_encoders_are_well_formed(module, data, tmp_path, monkeypatch):
  monkeypatch.setattr(setup_lib.pipeline, "check", lambda *args, **fields: None)
  config = config_lib.to_dict(module.get_config(data))
  found = claim.check(config)
  assert {c.equal for c in found} >= {"updates", "cpu_seconds"}
  for changes in config["arms"].values():
    run = copy.deepcopy(config["run"])
    claim.merge(run, changes)
    setup_lib.setup(run, str(tmp_path / "run"))
  with pytest.raises(ValueError, match="takes one of grammar, .*text, got 'x'"):
    module.get_config("x")


@pytest.mark.slow
def test_evaluations_of_one_base_are_compared_and_kept(tmp_path, monkeypatch):
  calls = []

  def train(config, workdir):
    calls.append(("base", config["seed"]))
    (tmp_path / workdir).mkdir(parents=True)
    (tmp_path / workdir / "results.json").write_text("{}")

  def evaluate(config, workdir):
    calls.append((config["objective"]["name"], config["init"]["checkpoint"].split("/")[-1]))
    (tmp_path / workdir).mkdir(parents=True)
    return {"bits": 1.0 + config["seed"] + (config["objective"]["name"] == "y")}

  run = dict(mode="eval", seed=9, objective=dict(name="x"),
             init=dict(checkpoint="", base=dict(mode="train", seed=9)))
  for _ in range(2):  # the second time nothing is run
    found = _run(monkeypatch, _config(run=run, arms=dict(a=dict(), b=dict(objective=dict(name="y"))),
                                grids={}), str(tmp_path), {"train": train, "eval": evaluate})
  assert len(calls) == 3 + 6 and {("base", seed) for seed in range(3)} < set(calls)
  assert {name for name, source in calls if source == "base"} == {"x", "y"}
  assert found["comparisons"][0]["values"] == [(2, 1), (3, 2), (4, 3)]


@pytest.mark.slow
def test_figures_that_differ_by_a_factor_are_compared_by_their_logarithms(tmp_path, monkeypatch):
  def train(config, workdir):
    (tmp_path / workdir).mkdir(parents=True)
    scale = 10.0 ** config["seed"]
    factor = 2.0 + 0.01 * config["seed"] if config["objective"]["name"] == "y" else 1.0
    results = {"bits": scale * factor}
    (tmp_path / workdir / "results.json").write_text(json.dumps(results))
    return results

  rows = [dict(name=f"b is larger, {ratio}", left="b", right="a", measure="bits", ratio=ratio)
          for ratio in (False, True)]
  results = _run(monkeypatch, _config(comparisons=rows, grids={}), str(tmp_path), {"train": train})
  plain, logarithms = results["comparisons"]
  assert plain["verdict"] == "inconclusive" and logarithms["verdict"] == "reproduced"
  assert logarithms["difference"] == pytest.approx(math.log(2.01), rel=1e-4)
  assert "ratio 2.01 *: 1, p < 0.001" in (tmp_path / "claim.txt").read_text()
