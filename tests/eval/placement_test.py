"""Weights placed for decoding: rounded where that changes nothing, and moved without a detour."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.costs import hlo
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import placement
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng

import tiny

_AXES = {"kernel": ("embed", "mlp"), "scale": (None,)}
PARTS = {"model": types.Part(None, lambda path, shape: _AXES[path],
                             is_rounded=lambda path: path == "kernel"),
         "value": types.Part(None)}


def _params():
  draw = np.random.default_rng(0)
  leaf = lambda *shape: draw.normal(size=shape).astype(np.float32)
  return {"model": {"kernel": leaf(16, 32), "scale": leaf(16)}, "value": {"kernel": leaf(16, 1)}}


def _placed(home, sizes, **options):
  mesh = sharding.make_mesh(home)
  place = placement.Placement(mesh, sharding.of_other_sizes(mesh, sizes), parts=PARTS, **options)
  shapes = sharding.with_shardings(_params(), PARTS, mesh)
  return place, jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), _params(), shapes)


def test_without_a_mesh_of_its_own_weights_stay_as_they_are():
  place = placement.Placement(sharding.make_mesh({"fsdp": 8}))
  params = _params()
  assert place.weights(params) is params and place.shapes(params) is params
  assert place.num_shards == 8


@pytest.mark.parametrize("home, sizes, cut", [
    (dict(fsdp=8), dict(data=4, tensor=2), P(None, "tensor")),
    (dict(fsdp=4, tensor=2), dict(data=8), P())])
def test_weights_are_rounded_and_each_device_receives_no_more_than_it_keeps(home, sizes, cut):
  place, params = _placed(home, sizes, dtype="bfloat16")
  found = place.weights(params)
  kernel = found["model"]["kernel"]
  np.testing.assert_array_equal(kernel, _params()["model"]["kernel"].astype(jnp.bfloat16))
  np.testing.assert_array_equal(found["model"]["scale"], _params()["model"]["scale"])
  np.testing.assert_array_equal(found["value"]["kernel"], _params()["value"]["kernel"])
  assert [x.dtype for x in jax.tree.leaves(found)] == [jnp.bfloat16, jnp.float32, jnp.float32]
  assert kernel.sharding.is_equivalent_to(jax.sharding.NamedSharding(place.mesh, cut), 2)
  assert place.num_shards == 8
  with jax.set_mesh(place.mesh):
    text = place.program(params).lower(params).compile().as_text()
  gathered = sum(x.size * x.count for x in hlo.read(text).collectives if x.kind == "all-gather")
  kept = 4 * np.prod(kernel.sharding.shard_shape(kernel.shape))  # the host gathers float32
  assert kept <= gathered <= kept + 64  # and the scale


def test_a_model_without_some_parts_has_a_program_of_its_own():
  place, params = _placed(dict(fsdp=8), dict(data=8))
  for names in (("model",), ("model", "value")):
    found = place.weights({name: params[name] for name in names})
    jax.tree.map(np.testing.assert_array_equal, found, {name: _params()[name] for name in names})


def test_a_mesh_that_does_not_divide_the_weights_is_one_line():
  with pytest.raises(ValueError, match="tensor=8 does not divide dimension 4 of parameter model/"):
    place, _ = _placed(dict(fsdp=8), dict(tensor=8))
    place.shapes({"model": {"kernel": jax.ShapeDtypeStruct((16, 4), jnp.float32)}})


@pytest.mark.parametrize("home, sizes, is_exact", tiny.first([
    (dict(fsdp=4, tensor=2), dict(fsdp=4, tensor=2), True),
    (dict(fsdp=4, tensor=2), dict(data=4, tensor=2), False)], 1))
@pytest.mark.slow
def test_records_are_those_of_the_home_mesh_and_lie_there(home, sizes, is_exact):
  tokenizer = tokenizer_lib.build("symbols:1 2 3 4")
  network = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16,
                                    max_length=16, vocab_size=tokenizer.vocab_size,
                                    scan_layers=False).network()
  objective = diffusion.MaskedDiffusion(network=network, mask_id=tokenizer.mask_id)
  mesh = sharding.make_mesh(home)
  with jax.set_mesh(mesh):
    shapes = sharding.with_shardings(jax.eval_shape(objective.init, rng.root(0)),
                                     objective.parts(), mesh)
    params = jax.jit(objective.init, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))(
        rng.root(0))
    sampler = samplers.build(dict(name="confidence", gen_length=4, steps=2), objective,
                             mask_id=tokenizer.mask_id)
    prompts = task_eval.encode_prompts(["13", "3"], tokenizer)
    other = placement.Placement(mesh, sharding.of_other_sizes(mesh, sizes),
                                parts=objective.parts())
    found = []
    for place, options in ((placement.Placement(mesh), {}), (other, {"home": mesh})):
      decoder = task_decoder.TaskDecoder(objective, sampler, prompts, place.mesh, name="rollout",
                                         seed=3, record="commits", **options)
      found.append(decoder(place.weights(params), np.arange(8) % 2, 5))
  (old, rows), (new, same) = found
  np.testing.assert_array_equal(old.tokens, new.tokens)
  np.testing.assert_array_equal(old.step, new.step)
  for name in ("confidence", "log_prob"):
    one, two = getattr(old, name), getattr(new, name)
    np.testing.assert_allclose(one, two, atol=0 if is_exact else 1e-5)
  assert jax.tree.map(np.array_equal, rows, same) == dict.fromkeys(rows, True)
  for array in (new.tokens, new.nfe, same["canvas"]):
    assert array.sharding.mesh.shape == mesh.shape and array.sharding.spec[0] == sharding.BATCH_AXES
