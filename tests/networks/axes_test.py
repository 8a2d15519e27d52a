"""The axes of the transformer's parameters: one rule each, and every rule in use."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import types
from mdx.networks import attention
from mdx.networks import axes
from mdx.networks import presets
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

NETWORKS = {name: presets.preset(name) for name in presets.PRESETS} | {
    "everything": dict(num_layers=2, width=16, num_heads=2, use_bias=True, norm="layer",
                       position="learned", tied=False, head_bias=True, time_conditioning=True),
    "encoder": dict(num_layers=2, width=16, num_heads=2, qk_norm=True, token_types=2, embed_width=8,
                    embed_norm=True, head_transform=True, use_bias=True),
    "disentangled": dict(num_layers=2, width=16, num_heads=2, use_bias=True, position="none",
                         disentangled=dict(max_distance=8, buckets=0, is_shared=False)),
    "mixture": dict(num_layers=2, width=16, num_heads=2, experts=dict(
        number=2, per_token=1, width=8, has_bias=True, shared_width=8, first_dense=1)),
    "conformer": dict(num_layers=2, width=16, num_heads=2, conv_kernel=3, use_bias=True),
    "reader": dict(num_layers=2, width=16, num_heads=2, use_bias=True, context_width=12),
    "discriminator": dict(num_layers=2, width=16, num_heads=2, use_bias=True, head="rtd"),
    "adapted": dict(num_layers=2, width=16, num_heads=2,
                    adaptations=(dict(name="lora", rank=2), dict(name="int8"))),
    "experts": dict(num_layers=2, width=16, num_heads=2, experts=dict(
        number=4, per_token=2, width=8, shared_width=8, has_bias=True, first_dense=1)),
    "plain_mlp": dict(num_layers=2, width=16, num_heads=2, mlp="relu", head_bias=True)}


def _network(fields):
  return transformer.Transformer(**dict(mlp_width=32) | fields, vocab_size=64).network()


def _shapes(fields):
  return tree.flatten(jax.eval_shape(_network(fields).init, rng.root(0)))


@pytest.mark.parametrize("name", tiny.first(NETWORKS, 3))
def test_every_parameter_of_every_network_matches_exactly_one_rule(name):
  shapes = _shapes(NETWORKS[name])
  assert shapes
  for path, leaf in shapes.items():
    assert len(_network(NETWORKS[name]).part.axes(path, leaf.shape)) == len(leaf.shape)


@pytest.mark.slow
def test_every_rule_is_used():
  paths = [path for fields in NETWORKS.values() for path in _shapes(fields)]
  for pattern, _ in axes.RULES:
    assert any(re.fullmatch(pattern, path) for path in paths), pattern


def test_a_parameter_without_a_rule_with_two_rules_or_of_another_rank_is_refused(monkeypatch):
  with pytest.raises(ValueError, match=r"parameter head/kernel matches 0 rules"):
    axes.axes("head/kernel", (2, 2))
  with pytest.raises(ValueError, match="has 3 dimensions, its sharding rule"):
    axes.axes("lm_head/kernel", (2, 2, 2))
  monkeypatch.setattr(axes, "RULES", axes.RULES + ((r".*/kernel", (None,)),))
  with pytest.raises(ValueError, match="lm_head/kernel matches 2 rules"):
    axes.axes("lm_head/kernel", (2, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_and_the_embeddings_of_tokens_alone_decay(name):
  for path in _shapes(NETWORKS[name]):
    is_matrix = path.rpartition("/")[2] in ("kernel", "lora_a", "lora_b")
    decays = _network(NETWORKS[name]).part.decays(path)
    assert decays == (is_matrix or path == "embed/embedding"), path


@pytest.mark.parametrize("name", tiny.mostly_slow(
    ["everything", "mixture", "encoder", "disentangled", "conformer", "reader", "plain_mlp"],
    ["mixture"]))
@pytest.mark.slow
def test_parameters_that_are_rounded_give_the_same_answers(name):
  network = _network(NETWORKS[name] | {"dtype": "bfloat16"})
  noise = iter(jax.random.split(rng.root(1), 99))
  params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(noise), x.shape),
                        network.init(rng.root(0)))
  rounded = tree.map_with_path(
      lambda path, x: x.astype(jnp.bfloat16) if network.part.is_rounded(path) else x, params)
  tokens = jnp.arange(6).reshape(2, 3) + 5
  options = {"time": jnp.array([0.2, 0.7])} if network.reads_time else {}
  context = jnp.ones((2, 3, network.context_width)) if network.context_width else None

  @jax.jit
  def answer(params):
    hidden = network.encode(params, types.Inputs(tokens, context=context),
                            attention=attention.Full(), **options).last
    return network.head(params, hidden)

  np.testing.assert_array_equal(answer(params), answer(rounded))
  halved = sum(x.size for x in jax.tree.leaves(rounded) if x.dtype == jnp.bfloat16)
  assert halved > 0.75 * tree.count(rounded)


def test_kernels_that_an_adaptation_reads_are_not_rounded():
  put = lambda name: _network(dict(num_layers=1, width=16, num_heads=2, adaptations=(
      dict(name=name, rank=2, targets=("q",)),))).part.is_rounded
  q, k = "layers/attention/q/kernel", "layers/attention/k/kernel"
  assert put("lora")(q) and put("lora")(k)
  assert not put("dora")(q) and put("dora")(k)
  assert not put("lora")("layers/attention/q/lora_a")
  assert not put("lora")("layers/mlp/router/kernel")  # which is read in float32
