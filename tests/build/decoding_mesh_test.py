"""`rollout.mesh`: what cannot be is one line, before a base model is trained."""

import jax
import pytest
import tiny

from mdx import modes
from mdx import sharding
from mdx.build import decoding_mesh
from mdx.build import programs
from mdx.configs import mdpo


def _config(**changes):
  cfg = tiny.changed(mdpo.get_config("mdpo"), {
      "init.base.network.num_layers": 1, "init.base.network.width": 16,
      "init.base.network.num_heads": 4, "init.base.network.mlp_width": 16, "task.num_train": 16,
      "rollout.num_prompts": 4, "rollout.group_size": 2, "rollout.sampler.steps": 2,
      "mesh.data": 1, "mesh.fsdp": 8})
  return tiny.changed(cfg, {k.replace("__", "."): v for k, v in changes.items()})


def test_zeros_are_no_mesh_and_beside_others_one():
  assert decoding_mesh.sizes({}) == decoding_mesh.sizes({"mesh": None}) == {}
  assert decoding_mesh.sizes(mdpo.get_config("mdpo").rollout.to_dict()) == {}
  assert decoding_mesh.sizes({"mesh": {"data": -1, "fsdp": 0, "tensor": 2}}) == {
      "data": -1, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize("changes, message", [
    ({"rollout__mesh": {"tensor": 2}}, "config.rollout.mesh: mesh .* does not fit 8 devices; their "
     "product must equal the number of devices"),
    ({"rollout__mesh": {"data": -1, "tensor": 3}}, "does not fit 8 devices"),
    ({"rollout__mesh": {"data": 1, "tensor": 8}},
     r"config.rollout.mesh: mesh axis tensor=8 does not divide 4 key-value heads"),
    ({"rollout__mesh": {"data": -1, "sequence": 2}}, "config.rollout.mesh has 'sequence'; the axes "
     "that decoding is cut over are data, fsdp, tensor"),
    ({"rollout__mesh": {"data": -1}, "mesh__fsdp": 2, "mesh__tensor": 4,
      "rollout__num_prompts": 2}, "2 prompts x 2 rollouts are not divisible by 8 batch shards of "
     "rollout.mesh"),
    ({"rollout__mesh": {"data": -1}, "mesh__fsdp": 2, "mesh__tensor": 4, "rollout__batch_size": 4},
     "config.rollout.batch_size 4 must divide .* a multiple of the 8 batch shards of rollout.mesh"),
    ({"rollout__mesh__tensor": 1.5}, "config.rollout.mesh.tensor must be a whole number"),
    ({"rollout__mesh": 2}, "config.rollout.mesh must be a table, or None, got 2")])
def test_a_mesh_that_cannot_be_is_one_line_before_the_base_is_trained(changes, message, tmp_path,
                                                                      monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  with pytest.raises(ValueError, match=message) as error:
    modes.run("rl", _config(**changes), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_the_programs_of_both_placements():
  mesh = sharding.make_mesh({"fsdp": 8})
  config = _config(rollout__mesh={"data": 4, "tensor": 2})
  rollout, moved, update, in_place = programs.of_config(config, "unused", mesh)
  assert [x.name for x in (rollout, moved, update, in_place)] == [
      "rollout", "placement", "rl_update", "rollout_in_place"]
  assert (rollout.repeats, moved.repeats, update.repeats, in_place.repeats) == (1, 1, 1, 0)
  q = lambda params: params["model"]["layers"]["attention"]["q"]["kernel"].sharding
  assert rollout.mesh.shape == moved.mesh.shape != in_place.mesh.shape == mesh.shape
  assert q(rollout.arguments[0]).spec == (None, "fsdp", "tensor")
  assert q(rollout.arguments[0]).mesh.shape["data"] == 4
  assert q(in_place.arguments[0]) == q(moved.arguments[0]) == q(update.arguments[0].params)
  assert update.kinds["batch"]["tokens"].sharding.mesh.shape == mesh.shape
  plain, same = programs.of_config(_config(), "unused", mesh)
  shapes = lambda x: [(y.shape, y.dtype, y.sharding) for y in jax.tree.leaves(x.arguments)]
  assert shapes(plain) == shapes(in_place) and shapes(update) == shapes(same)
