"""The axes of the transformer's parameters: one rule each, and every rule in use."""

import re

import jax
import pytest

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


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_every_network_matches_exactly_one_rule(name):
  shapes = _shapes(NETWORKS[name])
  assert shapes
  for path, leaf in shapes.items():
    assert len(_network(NETWORKS[name]).part.axes(path, leaf.shape)) == len(leaf.shape)


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
