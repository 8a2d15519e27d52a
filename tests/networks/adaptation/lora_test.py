"""Adapters: their function, and merging."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import sites
from mdx.utils import rng
from mdx.utils import tree

SPEC = transformer.Transformer(num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=11,
                               adaptations=(lora.LoRA(rank=3, alpha=5.0, targets=(
                                   "q", "o", "up", "down")),))
PLAIN = dataclasses.replace(SPEC, adaptations=())
TOKENS = jnp.arange(10).reshape(2, 5) % 11


def _is_adapter(path):
  return sites.owner(path, SPEC.adaptations) is not None


def _logits(spec, params):
  network = spec.network()

  @jax.jit
  def score(params):
    return network.head(params, network.encode(params, types.Inputs(TOKENS),
                                               attention=attention.Full()).last)

  return np.asarray(score(params))


@pytest.fixture(name="params", scope="module")
def _params():
  """Of an adapted network, no B of which is zero."""
  params = SPEC.network().init(rng.root(0))

  def drawn(path, leaf):
    return (0.3 * jax.random.normal(rng.stream(rng.root(1), path), leaf.shape)
            if path.endswith("lora_b") else leaf)

  return tree.map_with_path(drawn, params)


@pytest.mark.slow
def test_a_new_adapter_changes_nothing_and_a_is_drawn_within_its_bound(params):
  fresh = SPEC.network().init(rng.root(0))
  base = tree.part(fresh, lambda path: not _is_adapter(path))
  np.testing.assert_array_equal(_logits(SPEC, fresh), _logits(PLAIN, base))
  assert np.abs(_logits(SPEC, params) - _logits(PLAIN, base)).max() > 0.1
  mesh = sharding.make_mesh({"data": -1})
  shapes = sharding.with_shardings(
      {"model": tree.part(jax.eval_shape(lambda: fresh), _is_adapter)},
      {"model": SPEC.network().part}, mesh)["model"]
  with jax.set_mesh(mesh):
    drawn = tree.flatten(jax.device_get(sites.fresh(shapes, SPEC.adaptations, seed=3)))
  assert set(drawn) == {path for path in tree.flatten(fresh) if _is_adapter(path)}
  for path, leaf in drawn.items():
    if path.endswith("lora_b"):
      assert not leaf.any()
    else:  # uniform: the largest of 100 and more draws lies close to the bound
      bound = leaf.shape[-2] ** -0.5
      assert 0.9 * bound < np.abs(leaf).max() <= bound
      assert abs(leaf.var() / (bound ** 2 / 3) - 1) < 0.5


def test_merging_gives_the_same_function(params):
  merged = sites.merge(params, SPEC.adaptations)
  assert not any(map(_is_adapter, tree.flatten(merged)))
  np.testing.assert_allclose(_logits(PLAIN, merged), _logits(SPEC, params), atol=2e-6)
  kernel, q = (x["layers"]["attention"]["q"] for x in (merged, params))
  want = np.asarray(q["kernel"], np.float64) + 5 / 3 * (
      np.asarray(q["lora_a"], np.float64) @ np.asarray(q["lora_b"], np.float64))
  np.testing.assert_allclose(kernel["kernel"], want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fields, message", [
    (dict(targets=("q", "head")), "targets of LoRA are .*'head'.*; choose some of q, k, v, o, gate"),
    (dict(targets=()), "targets of LoRA"), (dict(targets=("q", "mlp")), "targets of LoRA"),
    (dict(rank=0), "lora.rank must be at least 1, got 0"),
    (dict(ranks=3), "adaptation 'lora' has no field 'ranks'; its fields are alpha, freeze_a, rank, "
     "scaling, start, targets"),
    (dict(name="loro"), "unknown adaptation name 'loro'; choose from adalora, bitfit, bottleneck, "
     "compacter, diff_pruning, dora, gated_prefix, ia3")])
def test_an_adaptation_that_cannot_be_is_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    dataclasses.replace(SPEC, adaptations=(dict(name="lora") | fields,))
  assert "\n" not in str(error.value)
