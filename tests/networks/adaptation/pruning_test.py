"""One-shot masks: by brute force, by least squares; moments of what a map reads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import pruning
from mdx.utils import rng

import tiny

DRAW = np.random.default_rng(0)
KERNEL = DRAW.normal(size=(8, 5))
INPUTS = DRAW.normal(size=(40, 8)) @ DRAW.normal(size=(8, 8)) * np.linspace(0.2, 3, 8)
MOMENTS = INPUTS.T @ INPUTS


def _lost(kernel):
  """Squares of what the outputs lose."""
  return np.square(INPUTS @ (kernel - KERNEL)).sum(axis=0)


def test_wanda_keeps_the_largest_products_of_weight_and_norm_of_its_input():
  found = pruning.wanda(KERNEL, MOMENTS, 2, 4)
  norms = np.linalg.norm(INPUTS, axis=0)
  for group, column in itertools.product((0, 4), range(5)):
    sizes = {i: abs(KERNEL[i, column]) * norms[i] for i in range(group, group + 4)}
    kept = sorted(sizes, key=sizes.get)[-2:]
    assert {i for i in sizes if found[i, column]} == set(kept)
  assert (found != np.asarray(pruning.magnitude(KERNEL, 2, 4))).any()


def test_the_first_input_that_is_removed_is_made_up_for_by_least_squares():
  # One of two inputs, so that a removed first input leaves one weight to choose.
  kernel, inputs = KERNEL[:2] * [[0.1], [1.0]], INPUTS[:, :2]
  mask, updated = pruning.sparse_gpt(kernel, inputs.T @ inputs, 1, 2, damping=1e-12)
  assert not mask[0].any() and mask[1].all()
  best = np.linalg.lstsq(inputs[:, 1:], inputs @ kernel, rcond=None)[0]
  np.testing.assert_allclose(updated[1:], best, rtol=1e-6)


def test_sparse_gpt_loses_less_than_its_mask_alone_and_than_the_largest_weights():
  mask, updated = pruning.sparse_gpt(KERNEL, MOMENTS, 2, 4, damping=1e-6)
  assert (mask.reshape(2, 4, 5).sum(axis=1) == 2).all() and (updated[~mask] == 0).all()
  largest = np.asarray(pruning.magnitude(KERNEL, 2, 4))
  assert _lost(updated).sum() < _lost(KERNEL * mask).sum() < _lost(KERNEL * largest).sum()


@pytest.mark.parametrize("n, m", [(2, 4), (1, 2)])
def test_sparse_gpt_is_the_optimal_brain_surgeon_input_by_input(n, m):
  damped = MOMENTS + 0.01 * np.diag(MOMENTS).mean() * np.eye(8)
  weights, mask = KERNEL.copy(), np.ones(KERNEL.shape, bool)
  for i in range(8):
    if i % m == 0:  # what it costs to prune each weight of the group, those before it fixed
      cost = np.stack([weights[j] ** 2 / np.linalg.inv(damped[j:, j:])[0, 0]
                       for j in range(i, i + m)])
      mask[i:i + m] = np.argsort(np.argsort(-cost, axis=0), axis=0) < n
    weights[i] *= mask[i]
    if i < 7:  # the inputs behind it: least squares of the dense map, those up to here fixed
      later, fixed = slice(i + 1, 8), slice(0, i + 1)
      target = damped[later] @ KERNEL - damped[later, fixed] @ weights[fixed]
      weights[later] = np.linalg.solve(damped[later, later], target)
  found, updated = pruning.sparse_gpt(KERNEL, MOMENTS, n, m)
  np.testing.assert_array_equal(found, mask)
  np.testing.assert_allclose(updated, weights, atol=1e-8)
  assert (found != pruning.wanda(KERNEL, MOMENTS, n, m)).any()


def test_an_input_that_is_never_there_does_no_harm():
  moments = MOMENTS.copy()
  moments[3], moments[:, 3] = 0, 0
  mask, updated = pruning.sparse_gpt(KERNEL, moments, 2, 4)
  assert np.isfinite(updated).all() and not mask[3].any()


@pytest.mark.parametrize("scan_layers", tiny.first([True, False], 1))
def test_the_gradient_of_watched_leaves_is_the_moments_of_the_inputs(scan_layers):
  watch = pruning.InputMoments(targets=("q", "k", "down"))
  fields = dict(num_layers=2, width=8, num_heads=2, mlp_width=12, vocab_size=9, max_length=8, norm_eps=1e-6,
                scan_layers=scan_layers)
  plain = transformer.Transformer(**fields).network()
  network = transformer.Transformer(**fields, adaptations=(watch,)).network()
  params = network.init(rng.root(0))
  tokens = jnp.array([[1, 2, 3, 4], [5, 6, 7, 1]])
  read = lambda net, params: net.encode(params, types.Inputs(tokens),
                                        attention=attention.Full()).last
  found = jax.jit(jax.grad(lambda p: read(network, p).sum()))(params)["layers"]
  q, k = (found["attention"][name]["input_moments"] for name in ("q", "k"))
  np.testing.assert_array_equal(q, k)
  assert q.shape == (2, 8, 8) and found["mlp"]["down"]["input_moments"].shape == (2, 12, 12)
  # Inputs of the first block are the normalised embeddings; those of the second are others.
  embedded = network.embed(params, tokens).reshape(-1, 8)
  scale = params["layers"]["attention_norm"]["scale"][0]
  normal = embedded / jnp.sqrt(jnp.square(embedded).mean(axis=-1, keepdims=True) + 1e-6) * scale[None]
  np.testing.assert_allclose(q[0], normal.T @ normal, rtol=1e-3, atol=1e-4)
  assert np.abs(q[1] - q[0]).max() > 1e-2 and np.linalg.eigvalsh(q[1]).min() > -1e-4
  base = {**params, "layers": jax.tree.map(lambda x: x, params["layers"])}
  for above, name in (("attention", "q"), ("attention", "k"), ("mlp", "down")):
    base["layers"][above] = {**base["layers"][above], name: {
        k: v for k, v in base["layers"][above][name].items() if k != "input_moments"}}
  np.testing.assert_array_equal(read(network, params), read(plain, base))
