"""The sharding table: one rule a parameter, one line an error, whole states, batches."""


import jax
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from mdx import sharding
from mdx import types
from mdx.networks import transformer
from mdx.train import state as state_lib
from mdx.utils import rng
from mdx.utils import tree

EVERYTHING = dict(use_bias=True, norm="layer", position="learned", tied=False, head_bias=True,
                  time_conditioning=True)


def _shapes(vocab_size=64, **fields):
  spec = transformer.Transformer(**dict(num_layers=2, width=16, num_heads=2, mlp_width=32) | fields,
                                 vocab_size=vocab_size)
  return {"model": jax.eval_shape(spec.network().init, rng.root(0))}


def _mesh(**sizes):
  return sharding.make_mesh(sizes)


def _one_line(error) -> str:
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_parameter_of_no_part_or_of_another_rank_is_refused():
  shapes = {"value": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}}
  with pytest.raises(ValueError, match="value/kernel belongs to no part; the parts are model"):
    sharding.specs(shapes, tiny.PARTS, _mesh(data=8))
  parts = {"value": types.Part(None, lambda path, shape: ("embed",))}
  with pytest.raises(ValueError, match="has 2 dimensions, its part gives axes of 1"):
    sharding.specs(shapes, parts, _mesh(data=8))


def test_a_part_says_how_its_parameters_are_cut():
  shapes = {"value": {"kernel": jax.ShapeDtypeStruct((8, 3), jnp.float32)}}
  parts = {"value": types.Part(None, lambda path, shape: ("embed", None))}
  assert sharding.specs(shapes, parts, _mesh(fsdp=8))["value"]["kernel"] == P("fsdp", None)
  alike = {"value": types.Part(None)}
  assert sharding.specs(shapes, alike, _mesh(fsdp=8))["value"]["kernel"] == P(None, None)


@pytest.mark.parametrize("sizes,message", [
    (dict(tensors=2), "unknown mesh axis 'tensors'; the axes are replica, data, fsdp, tensor"),
    (dict(data=3), "does not fit 8 devices"),
    (dict(data=2, tensor=2), "does not fit 8 devices; their product must equal"),
    (dict(data=16), "does not fit 8 devices"),
    (dict(data=-1, tensor=3), "does not fit 8 devices"),
    (dict(data=-1, fsdp=-1), "at most one -1"),
    (dict(data=0), "must be positive"),
    (dict(data=-2), "must be positive"),
])
def test_a_wrong_mesh_is_refused_in_one_line(sizes, message):
  with pytest.raises(ValueError, match=message) as error:
    sharding.make_mesh(sizes)
  _one_line(error)


def test_minus_one_takes_the_remaining_devices():
  mesh = _mesh(data=-1, tensor=2, replica=1)
  assert dict(mesh.shape) == dict(replica=1, data=4, fsdp=1, tensor=2, sequence=1)


@pytest.mark.parametrize("table,fields,message", [
    (dict(vocab="model"), {}, "config.sharding.vocab is 'model'; choose from replica, data"),
    (dict(vocabulary="tensor"), {}, "unknown config.sharding.vocabulary; choose from vocab, embed"),
    (dict(vocab="fsdp", embed="fsdp"), {}, "over the same mesh axis fsdp"),
    (dict(mlp="tensor"), dict(mlp_width=33), "tensor=4 does not divide dimension 33 of parameter "
                                             "model/layers/mlp/down/kernel"),
])
def test_a_wrong_table_is_refused_in_one_line(table, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    sharding.specs(_shapes(**fields), tiny.PARTS, _mesh(fsdp=2, tensor=4), table)
  _one_line(error)


def test_an_axis_that_is_mapped_to_nothing_is_not_cut():
  found = sharding.specs(_shapes(), tiny.PARTS, _mesh(fsdp=2, tensor=4),
                         dict(vocab="", embed="fsdp", mlp="tensor", heads=""))["model"]
  assert found["embed"]["embedding"] == P(None, "fsdp")
  assert found["layers"]["attention"]["q"]["kernel"] == P(None, "fsdp", None)
  assert found["layers"]["mlp"]["down"]["kernel"] == P(None, "tensor", "fsdp")


def test_a_vocabulary_is_padded_so_that_the_tensor_axis_divides_it():
  mesh = _mesh(tensor=8)
  with pytest.raises(ValueError, match="tensor=8 does not divide dimension 12 of parameter model/"):
    sharding.specs(_shapes(vocab_size=11, vocab_multiple=4, num_heads=8), tiny.PARTS, mesh)
  shapes = _shapes(vocab_size=11, vocab_multiple=8, num_heads=8)
  assert sharding.specs(shapes, tiny.PARTS, mesh)["model"]["embed"]["embedding"] == P("tensor", "fsdp")
  assert shapes["model"]["embed"]["embedding"].shape == (16, 16)


def _state(params, extra):
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  return state_lib.State(jnp.int32(0), params, params,
                         jax.eval_shape(optimizer.init, params), extra)


def test_average_and_moments_are_sharded_like_their_parameter_and_scalars_replicated():
  mesh, params = _mesh(fsdp=2, tensor=4), _shapes(**EVERYTHING)
  state = _state(params, {})
  specs = tree.flatten(sharding.specs(params, tiny.PARTS, mesh))
  found = {p: s.spec for p, s in tree.flatten(sharding.state_sharding(state, params, tiny.PARTS, mesh)).items()}
  assert len(found) == len(jax.tree.leaves(state))
  for part in ("params", "ema", "mu", "nu"):
    part_of = {p.split(f"{part}/", 1)[1]: s for p, s in found.items() if f"{part}/" in p}
    assert part_of == specs, part
  scalars = {p: s for p, s in found.items() if p.endswith(("step", "count"))}
  assert len(scalars) >= 2 and set(scalars.values()) == {P()}


def test_the_untrained_state_of_an_objective_is_replicated_whatever_its_shape():
  mesh, params = _mesh(fsdp=2, tensor=4), _shapes()
  embedding = params["model"]["embed"]["embedding"]
  extra = {"counts": jax.ShapeDtypeStruct((3, 5), jnp.float32), "key": jax.eval_shape(rng.root, 0),
           "model": {"embed": {"embedding": embedding}}}  # looks like a parameter, is none
  found = sharding.state_sharding(_state(params, extra), params, tiny.PARTS, mesh)
  assert {s.spec for s in jax.tree.leaves(found.extra)} == {P()}
  alone = _state(params, jax.ShapeDtypeStruct((7,), jnp.float32))
  assert sharding.state_sharding(alone, params, tiny.PARTS, mesh).extra.spec == P()


def test_a_state_leaf_that_belongs_to_no_parameter_is_refused():
  params = _shapes()
  state = _state(params, {})._replace(ema={"average": jax.ShapeDtypeStruct((3,), jnp.float32)})
  with pytest.raises(ValueError, match=r"ema/average \(3,\) belongs to no parameter") as error:
    sharding.state_sharding(state, params, tiny.PARTS, _mesh(data=8))
  _one_line(error)
  factored = {"model": {"embed": {"embedding": jax.ShapeDtypeStruct((64,), jnp.float32)}}}
  with pytest.raises(ValueError, match=r"opt_state/model/embed/embedding \(64,\) belongs to no"):
    sharding.state_sharding(state._replace(ema={}, opt_state=factored), params, tiny.PARTS, _mesh(data=8))


def test_rows_lie_over_replica_data_and_fsdp_and_positions_over_sequence():
  mesh = _mesh(data=2, fsdp=2, sequence=2)
  batch = {"tokens": np.arange(64, dtype=np.int32).reshape(8, 8),
           "example_index": np.arange(8, dtype=np.int32)}
  placed = sharding.place_batch(batch, mesh)
  for name, value in batch.items():
    np.testing.assert_array_equal(placed[name], value)
  assert {s.data.shape for s in placed["tokens"].addressable_shards} == {(2, 4)}
  assert {s.data.shape for s in placed["example_index"].addressable_shards} == {(2,)}


@pytest.mark.parametrize("batch_size,length,microbatches,message", [
    (6, 8, 1, "batch_size 6 is not divisible by 4 batch shards"),
    (8, 8, 4, "4 batch shards .* x 4 microbatches; use a multiple of 16"),
    (8, 7, 1, "sequence=2 does not divide length 7"),
])
def test_a_batch_that_the_mesh_does_not_divide_is_refused(batch_size, length, microbatches,
                                                          message):
  mesh = _mesh(data=2, fsdp=2, sequence=2)
  sharding.check_batch(mesh, 16, 8, 4)
  with pytest.raises(ValueError, match=message) as error:
    sharding.check_batch(mesh, batch_size, length, microbatches)
  _one_line(error)


def test_constrain_is_the_identity_without_a_mesh_and_on_one_device():
  x = jnp.ones((4, 4))
  assert sharding.constrain(x, "batch", "tensor") is x
  jax.set_mesh(sharding.make_mesh({}, devices=jax.devices()[:1]))
  assert sharding.constrain(x, "batch", "tensor") is x


def test_constrain_cuts_what_the_axes_divide_and_leaves_other_dimensions_to_the_compiler():
  jax.set_mesh(_mesh(data=2, tensor=4))
  out = jax.jit(lambda x: sharding.constrain(x, "batch", None, "tensor"))(jnp.ones((4, 3, 8)))
  assert {s.data.shape for s in out.addressable_shards} == {(2, 3, 2)}
  out = sharding.constrain(jnp.ones((4, 3, 2)), "batch", None, "tensor")  # eager: jax would refuse
  assert {s.data.shape for s in out.addressable_shards} == {(2, 3, 2)}


def test_the_mesh_in_context_says_how_rows_and_positions_are_cut():
  assert sharding.batch_shards() == 1 and not sharding.positions_sharded()
  jax.set_mesh(_mesh(replica=2, fsdp=2, sequence=2))
  assert sharding.batch_shards() == 4 and sharding.positions_sharded()
  jax.set_mesh(_mesh(replica=2, fsdp=2, tensor=2))
  assert sharding.batch_shards() == 4 and not sharding.positions_sharded()
