"""`rollout.mesh`: what cannot be is one line, before a base model is trained."""

import jax
from jax.sharding import PartitionSpec as P
import pytest
import tiny

from mdx import config as config_lib
from mdx import modes
from mdx import sharding
from mdx.build import decoding_mesh
from mdx.build import programs
from mdx.build import rl as rl_setup
from mdx.configs import mdpo


def _config(sizes, **changes):
  cfg = tiny.changed(mdpo.get_config("mdpo"), {
      "init.base.network.num_layers": 1, "init.base.network.width": 16,
      "init.base.network.num_heads": 4, "init.base.network.mlp_width": 16, "task.num_train": 16,
      "rollout.num_prompts": 4, "rollout.group_size": 2, "rollout.sampler.steps": 2,
      "mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 4})
  config = config_lib.to_dict(tiny.changed(cfg, changes))
  config["rollout"] |= {"mesh": sizes}
  return config


@pytest.fixture(scope="module")
def model():
  """The base model as shapes, on fsdp 2 x tensor 4."""
  return programs._rl_model(_config({}), sharding.make_mesh({"fsdp": 2, "tensor": 4}), plain=False)  # pylint: disable=protected-access


def test_zeros_are_no_mesh_and_beside_others_one():
  assert decoding_mesh.sizes({}) == decoding_mesh.sizes({"mesh": None}) == {}
  assert decoding_mesh.sizes(mdpo.get_config("mdpo").rollout.to_dict()) == {}
  assert decoding_mesh.sizes({"mesh": {"data": -1, "fsdp": 0, "tensor": 2}}) == {
      "data": -1, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize("sizes, changes, message", [
    ({"tensor": 2}, {}, r"config.rollout.mesh \(all 0 = none\): mesh .* does not fit 8 devices; their product must "
     "equal the number of devices"),
    ({"tensor": 8}, {}, r"config.rollout.mesh .*: mesh axis tensor=8 does not divide 4 key-value heads"),
    ({"data": -1}, {"rollout.num_prompts": 2},
     "2 prompts x 2 rollouts are not divisible by 8 batch shards of rollout.mesh"),
    ({"data": -1}, {"rollout.batch_size": 4},
     "config.rollout.batch_size 4 must divide .* a multiple of the 8 batch shards of rollout.mesh"),
    ({"data": -1, "sequence": 2}, {}, "config.rollout.mesh has 'sequence'; the axes that decoding "
     "is cut over are data, fsdp, tensor"),
    ({"tensor": 1.5}, {}, "config.rollout.mesh.tensor must be a whole number"),
    (2, {}, "config.rollout.mesh must be a table, or None, got 2")])
def test_a_mesh_that_cannot_be_is_one_line(sizes, changes, message, model):
  config = _config(sizes, **changes)
  with pytest.raises(ValueError, match=message) as error:
    rl_setup.check(config)
    rl_setup.assemble(config, "unused", model, None)
  assert "\n" not in str(error.value)


def test_it_is_said_before_the_base_is_trained(tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  with pytest.raises(ValueError, match="tensor=8 does not divide 4 key-value heads"):
    modes.run("rl", _config({"tensor": 8}), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_the_programs_of_both_placements():
  mesh = sharding.make_mesh({"fsdp": 8})
  rollout, moved, update, in_place = programs.of_config(_config({"data": 4, "tensor": 2}), "unused",
                                                        mesh)
  assert [x.name for x in (rollout, moved, update, in_place)] == [
      "rollout", "placement", "rl_update", "rollout_in_place"]
  assert (rollout.repeats, moved.repeats, update.repeats, in_place.repeats) == (1, 1, 1, 0)
  q = lambda params: params["model"]["layers"]["attention"]["q"]["kernel"].sharding
  assert rollout.mesh.shape == moved.mesh.shape != in_place.mesh.shape == mesh.shape
  assert q(rollout.arguments[0]).spec == P(None, "fsdp", "tensor")
  assert q(rollout.arguments[0]).mesh.shape["data"] == 4
  assert q(in_place.arguments[0]) == q(moved.arguments[0]) == q(update.arguments[0].params)
  assert update.kinds["batch"]["tokens"].sharding.mesh.shape == mesh.shape
  beside = lambda x: len(jax.tree.leaves(x.beside))
  assert beside(rollout) == beside(in_place) + len(jax.tree.leaves(in_place.arguments[0]))
