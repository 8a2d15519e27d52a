"""Mode compile: the contract of compile.json, what does not fit, what is refused."""

import importlib
import importlib.util
import json

import jax
import numpy as np
import pytest
import tiny

from mdx import main
from mdx import modes
from mdx import sharding
from mdx.build import programs
from mdx.build import setup
from mdx.configs import common
from mdx.configs import diffusion
from mdx.configs import llada_8b
from mdx.configs import mdpo
from mdx.costs import budget
from mdx.costs import chips
from mdx.data import pipeline
from mdx.modes import compile as aot
from mdx.utils import tree

_NETWORK = {"network.num_layers": 2, "network.width": 16, "network.num_heads": 2,
            "network.mlp_width": 32}
_KEYS = {"name", "bytes_per_chip", "fits", "flops_per_chip", "collectives", "estimated_seconds",
         "estimated_mfu"}
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                                  reason="libtpu is not installed (extra aot)")


def _training(**changes):
  cfg = diffusion.get_config()
  return tiny.changed(cfg, _NETWORK | {
      "mode": "compile", "tokenizer.path": "char", "batch_size": 16, "data.length": 16,
      "compile.topology": "gpu:8", "data.source.path": "/not/here.txt", "ema_decay": 0.0,
      **{k.replace("__", "."): v for k, v in changes.items()}})


def _rl(**changes):
  cfg = mdpo.get_config("mdpo")
  base = {f"init.base.{k}": v for k, v in _NETWORK.items()}
  return tiny.changed(cfg, base | {
      "mode": "compile", "compile.topology": "gpu:8", "rollout.num_prompts": 4,
      "rollout.group_size": 4, "rollout.sampler.steps": 2, "task.num_train": 16,
      **{k.replace("__", "."): v for k, v in changes.items()}})


def _report(config, workdir):
  returned = modes.run("compile", config, str(workdir))
  report = json.loads((workdir / "compile.json").read_text())
  assert report == returned and report.keys() >= {"topology", "num_chips", "hbm_bytes", "programs"}
  for one in report["programs"]:
    assert one.keys() >= _KEYS
    size = one["bytes_per_chip"]
    assert size.keys() == {"arguments", "temporaries", "total"}
    assert size["total"] == size["arguments"] + size["temporaries"] > 0
    assert (one["flops_per_chip"] > 0) == (one["name"] != "placement")
  return report


@pytest.mark.slow
def test_the_train_step_of_a_config_without_its_data(tmp_path):
  config = _training(mesh__data=2, mesh__fsdp=4, microbatches=2)
  report = _report(config, tmp_path)
  assert (report["topology"], report["num_chips"], report["hbm_bytes"]) == ("gpu:8", 8, None)
  (one,) = report["programs"]
  assert one["name"] == "train_step" and one["fits"] is None and one["estimated_mfu"] is None
  # Matrices are cut in four, norms are not; Adam has two more of each.
  per_layer, vocab, width, hidden = 2, 104, 16, 32  # "char" has 100 ids
  matrices = per_layer * (4 * width * width + 3 * width * hidden) + vocab * width
  parameters = 4 * (matrices / 4 + 5 * width)
  assert one["bytes_by_kind"]["parameters"] == parameters
  assert one["bytes_by_kind"]["optimizer"] == pytest.approx(2 * parameters, abs=8)
  assert sum(v for k, v in one["bytes_by_kind"].items() if k != "activations") == pytest.approx(
      one["bytes_per_chip"]["arguments"], rel=0.02)
  # Every matrix is gathered in float32, at least once each way, and its gradient reduced.
  assert one["collectives"]["all-gather"] >= 2 * 4 * (matrices - vocab * width)
  assert sum(one["collectives"].values()) >= 3 * 4 * (matrices - vocab * width)


@pytest.mark.slow
def test_the_cost_of_a_run_is_that_of_its_iterations():
  program = lambda seconds, repeats=1: {"estimated_seconds": seconds, "repeats": repeats}
  config = diffusion.get_config()
  config.update(steps=7200, batch_size=8)
  config.data.length = 100
  cost = budget.of_run(config, [program(2.0)], num_chips=16, price=0.5)
  assert cost == (7200, 4 / 24, 64.0, 7200 * 800, 32.0)
  config = _rl(updates=60, rollout__epochs=2, rollout__sampler__gen_length=10)
  cost = budget.of_run(config, [program(100.0, 3), program(30.0, 2)], num_chips=2)
  assert cost.iterations == 30 and cost.money is None
  assert cost.days * 24 * 3600 == pytest.approx(30 * (3 * 100 + 2 * 30))
  assert cost.tokens == 30 * 16 * 10 and cost.chip_hours == pytest.approx(cost.days * 48)
  assert budget.of_run(config, [program(None)], num_chips=2) is None


@pytest.mark.parametrize("name", ["sft", "finetune", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("structural", "bitimebert"))])
def test_a_program_takes_the_batches_of_its_data(name, tmp_path):
  config = importlib.import_module(f"mdx.configs.{name}").get_config()
  tiny.changed(config, _NETWORK | {"batch_size": 8})
  config.init.base = None
  (program,) = programs.of_config(config, str(tmp_path), sharding.make_mesh({"data": 8}))
  run = setup.setup(config, str(tmp_path / "run"))
  batch = next(iter(pipeline.build(run.config["data"], run.tokenizer, split="train", batch_size=8,
                                   seed=0)))
  batch["example_index"] = np.arange(8, dtype=np.int32)  # as the loop places it
  kinds = lambda tree: {k: (x.shape, x.dtype) for k, x in tree.items()}
  assert kinds(program.arguments[1]) == kinds(batch)
  state, _ = jax.eval_shape(program.function, *program.arguments)
  assert kinds(tree.flatten(state.params)) == kinds(tree.flatten(run.shapes.params))


@pytest.mark.slow
def test_the_rollout_and_the_update_of_rl(tmp_path):
  report = _report(_rl(mesh__data=1, mesh__fsdp=-1), tmp_path)
  rollout, update = report["programs"]
  assert [rollout["name"], update["name"]] == ["rollout", "rl_update"]
  assert update["bytes_by_kind"].keys() >= {"parameters", "optimizer", "reference", "batch"}
  assert update["bytes_by_kind"]["reference"] == update["bytes_by_kind"]["parameters"]


def test_rollouts_on_a_mesh_of_their_own_are_compared_with_those_on_the_mesh_of_updates():
  program = lambda name, compute, links, repeats=1: {
      "name": name, "repeats": repeats,
      "seconds": {"compute": compute, "collectives": links, "sum": compute + links}}
  found = [program("rollout", 6.0, 1.0, 2), program("placement", 0.5, 0.5),
           program("rl_update", 9.0, 9.0), program("rollout_in_place", 6.0, 4.0, 0)]
  assert aot._placement_text(found) == (  # pylint: disable=protected-access
      "rollouts of an iteration: 15 s, 17 % of them collectives; without rollout.mesh 20 s, 40 % of "
      "them collectives")
  assert not aot._placement_text(found[2:3]) and not aot._placement_text(  # pylint: disable=protected-access
      [one | {"seconds": None} for one in found])


@pytest.mark.slow
def test_the_weights_of_rollouts_are_beside_the_state(tmp_path):
  report = _report(_rl(mesh__data=1, mesh__fsdp=-1, rollout__mesh__data=-1, rollout__mesh__tensor=2),
                   tmp_path)
  rollout, _, update, in_place = report["programs"]
  state = {"parameters", "optimizer"}
  kinds = {name: one["bytes_by_kind"] for name, one in zip(("own", "update", "home"), (
      rollout, update, in_place))}
  held = sum(kinds["update"][k] for k in state) + kinds["update"]["reference"]
  assert rollout["bytes_beside"] == pytest.approx(held, abs=8)
  assert in_place["bytes_beside"] == pytest.approx(held - kinds["home"]["parameters"], abs=8)
  assert kinds["own"]["parameters"] > 3 * kinds["home"]["parameters"]
  assert report["run"] is None  # the host has no estimates


@pytest.mark.slow
def test_rollouts_in_parts_leave_the_update_as_it_is():
  mesh = aot.sharding.make_mesh({"data": 1, "fsdp": 8})
  found = [aot.programs_lib.of_config(_rl(rollout__batch_size=size), "unused", mesh)
           for size in (0, 8)]
  (whole, update), (half, same) = found
  assert (whole.repeats, half.repeats) == (1, 2)
  assert [x.arguments[2]["canvas"].shape[0] for x in (whole, half)] == [16, 8]
  shapes = lambda x: [(y.shape, y.dtype) for y in aot.jax.tree.leaves(x.arguments)]
  assert shapes(update) == shapes(same)


def _simulate_tpu(monkeypatch, hbm):
  """The host's devices with the figures of a chip, which is as small as one wants."""
  target = chips.Target("v5e:2x4", chips.CHIPS["v5e"]._replace(hbm=hbm),
                        chips.target("gpu:8").devices, 8)
  monkeypatch.setattr(chips, "target", lambda name, slices: target)
  monkeypatch.setattr(chips, "transfer_seconds", lambda *args: 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("hbm, status", [(16 << 30, main.OK), (1 << 10, main.TOO_LARGE)])
def test_a_program_that_does_not_fit_is_status_3_and_says_what_to_turn(hbm, status, tmp_path,
                                                                       monkeypatch, capsys):
  _simulate_tpu(monkeypatch, hbm)
  code = main._run(_training(), str(tmp_path), False, False)  # pylint: disable=protected-access
  assert code == status
  report = json.loads((tmp_path / "compile.json").read_text())
  (one,) = report["programs"]
  assert one["fits"] is (status == main.OK)
  assert one["estimated_seconds"] == one["seconds"]["sum"] >= one["seconds"]["max"] > 0
  assert one["estimated_mfu"] == pytest.approx(
      one["flops_per_chip"] / 197e12 / one["seconds"]["sum"])
  message = capsys.readouterr().err
  if status:
    assert message.count("\n") == 1 and "train_step does not fit v5e:2x4: 0.00 GiB a chip over" in (
        message), message
    assert "more chips, or a larger mesh.fsdp" in message


@pytest.mark.parametrize("error", [
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 29.50G of 15.75G hbm. Exceeded hbm capacity by 13.75G.",
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(29.50G) exceeds available HBM (15.75G)."])
def test_what_the_compiler_itself_finds_too_large(error, tmp_path, monkeypatch):
  _simulate_tpu(monkeypatch, 16 << 30)

  def compiled(self):
    raise aot.jax.errors.JaxRuntimeError(error)

  monkeypatch.setattr(aot.jax.stages.Lowered, "compile", compiled)
  with pytest.raises(chips.TooLarge, match=r"train_step does not fit v5e:2x4: 13.50 GiB a chip over "
                     r"its 16 GiB; activations are most of it: more microbatches"):
    modes.run("compile", _training(), str(tmp_path))
  report = json.loads((tmp_path / "compile.json").read_text())
  total = report["programs"][0]["bytes_per_chip"]["total"]
  assert total == pytest.approx(29.5 * 2 ** 30, rel=1e-4)


@pytest.mark.slow
def test_a_sweep_is_a_table_and_takes_the_best(tmp_path, capsys):
  config = _training(compile__sweep=True, compile__data=(1, 2), compile__tensor=(1, 3),
                     compile__remat=("full",), compile__microbatches=(2,))
  report = _report(config, tmp_path)
  rows = report["sweep"]
  assert [(row["mesh"], row["remat"], row["microbatches"]) for row in rows] == [
      ("fsdp rest", "full", 2), ("tensor 3, fsdp rest", "full", 2),
      ("data 2, fsdp rest", "full", 2), ("data 2, tensor 3, fsdp rest", "full", 2)]
  assert "does not fit 8 devices" in rows[1]["error"]
  one, two = (row["programs"][0]["bytes_by_kind"]["parameters"] for row in rows[::2])
  assert report["programs"] == rows[0]["programs"] and 1.5 < two / one < 2
  out = capsys.readouterr().out
  assert "| fsdp rest | full | 2 | train_step |" in out


@pytest.mark.parametrize("make, changes, message", [
    (_training, {"compile__topology": "v5p:4x4x"}, "topology 'v5p:4x4x' does not exist"),
    (_training, {"mesh__data": 3}, "does not fit 8 devices"),
    (_training, {"batch_size": 12}, "batch_size 12 is not divisible by 8 batch shards"),
    (_training, {"tokenizer__path": "/not/here.json"}, "no tokenizer file"),
    (_rl, {"rollout__num_prompts": 3}, "not divisible by 8 batch shards"),
    (_rl, {"rollout__batch_size": 12}, "rollout.batch_size 12 must divide the 16 rollouts"),
    (_rl, {"init__checkpoint": "/not/here"}, "is not here; name a model's size"),
])
def test_what_cannot_be_is_one_line(make, changes, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    modes.run("compile", make(**changes), str(tmp_path))
  assert "\n" not in str(error.value) and not (tmp_path / "compile.json").exists()


def test_a_config_of_another_mode_is_told_what_to_take():
  config = tiny.changed(common.get_config(), {"mode": "compile"}).to_dict()
  del config["compile"]
  with pytest.raises(ValueError, match="needs config.compile"):
    modes.run("compile", config, "unused")


@pytest.mark.parametrize("arg", [None, "v5e", "multislice"])
def test_llada_builds_and_shards_without_tokenizer_weights_and_data(arg, monkeypatch):
  """Up to the compiler, which takes minutes."""
  config = llada_8b.get_config(arg).to_dict()
  mesh = aot.sharding.make_mesh({"data": 1, "fsdp": 8})
  with aot.backends.compiling_for("tpu"):
    (program,) = aot.programs_lib.of_config(config | {"batch_size": 1280}, "unused", mesh)
  assert 8.0e9 < tree.count(program.kinds["parameters"]) < 8.1e9


def test_llada_mdpo_builds_and_shards_without_weights_and_problems():
  config = mdpo.get_config("llada_8b").to_dict()
  mesh = aot.sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 4})
  rollout, moved, update, _ = aot.programs_lib.of_config(config, "unused", mesh)
  assert rollout.mesh.shape["data"] == moved.mesh.shape["data"] == 2
  assert rollout.kinds["parameters"]["model"]["embed"]["embedding"].dtype == "bfloat16"
  assert rollout.trips == 128 and update.kinds["batch"]["canvas"].shape == (16, 128, 512)
  assert update.kinds["batch"]["tokens"].shape == (16, 320 + 512)


@pytest.mark.parametrize("method, rows, prompt, length", tiny.mostly_slow(
    [("diffu_grpo", 96, 200, 256), ("wd1", 48, 200, 256), ("coupled_grpo", 80, 320, 256),
     ("espo", 96, 200, 256), ("spg", 96, 200, 256), ("agrpo", 128, 320, 384),
     ("trace_rl", 256, 320, 512), ("just_grpo", 128, 320, 256)], [("diffu_grpo", 96, 200, 256)]))
@pytest.mark.slow
def test_llada_recipes_of_baselines_build_and_shard(method, rows, prompt, length):
  config = mdpo.get_config(f"llada_8b,{method}").to_dict()
  mesh = aot.sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 4})
  _, _, update, _ = aot.programs_lib.of_config(config, "unused", mesh)
  assert update.kinds["batch"]["tokens"].shape == (rows, prompt + length)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("make", [_training, _rl])
def test_tpus_have_estimates(make, tmp_path):
  config = make(compile__topology="v5e:2x4")
  report = _report(config, tmp_path)
  assert (report["num_chips"], report["hbm_bytes"]) == (8, 16 << 30)
  for one in report["programs"]:
    assert one["fits"] is True and 0 < one["estimated_mfu"] < 1
    assert one["seconds"]["compute"] > 0 and one["seconds"]["collectives"] > 0
