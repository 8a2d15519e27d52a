"""Gradient dropout of a model of tokens: its terms, the step they make, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdx import objectives
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.networks.adaptation import mask_tuning
from mdx.objectives.tokens import mlm
from mdx.objectives.transfer import gradient_dropout
from mdx.train import gating
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

import tiny

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
NETWORK = transformer.Transformer(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=7,
                                  max_length=8, init_std=0.5).network()
BATCH = {"tokens": jnp.array([[0, 1, 2, 3], [3, 2, 1, 0]]), "loss_mask": jnp.ones((2, 4), bool),
         "segment_ids": jnp.ones((2, 4), jnp.int32),
         "positions": jnp.arange(4)[None] * jnp.ones((2, 1), jnp.int32),
         "example_index": jnp.arange(2)}


def _objective(name, share=1.0, network=NETWORK):
  model = objectives.build(dict(name=name), network, TOKENIZER)
  return gradient_dropout.GradientDropout(model=model, drop_share=share), model


@pytest.mark.parametrize("name", tiny.first(["ar", "diffusion"], 1))
def test_the_task_is_the_loss_of_the_model_and_the_reference_a_cross_entropy(name):
  objective, model = _objective(name)
  params = jax.jit(objective.init)(rng.root(0))
  other = jax.tree.map(lambda x: x * 1.1, params)

  @jax.jit
  def terms(params, reference):
    context = types.context(0, {"reference": reference})
    batch, weights = objective.prepare(params, BATCH, rng.root(1), context)
    plain, wanted = model.prepare(params, BATCH, rng.root(1), context)
    return (objective(params, batch, context), weights, model(params, plain, context), wanted)

  (totals, aux), weights, (loss, _), wanted = terms(params, other)
  weight, = wanted.values()
  np.testing.assert_allclose(totals["task"], *loss.values(), rtol=1e-5)
  assert weights["task"] == weights["reference"] == weight
  free, _ = _objective(name, share=0.0)
  assert free.gate is None and set(free.scales) == {"task"}  # and no second backward pass
  divergence, count = aux.metrics["reference_kl"]
  assert divergence > 1e-4 * count
  (_, aux), *_ = terms(params, params)
  np.testing.assert_allclose(aux.metrics["reference_kl"][0], 0, atol=1e-4)
  # The model that is its own reference has no gradient of the cross-entropy.
  slope = lambda reference: optax.tree.norm(jax.jit(jax.grad(
      lambda p: terms(p, reference)[0][0]["reference"]))(params))
  assert slope(params) < 1e-4 * slope(other)


@pytest.mark.slow
def test_a_step_applies_the_gated_gradient_of_the_task_alone():
  network = transformer.Transformer(
      num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=7, max_length=8, init_std=0.5,
      adaptations=(mask_tuning.MaskTuning(norm=0.0),)).network()
  objective, _ = _objective("ar", network=network)
  params = jax.jit(objective.init)(rng.root(0))
  frozen = {"reference": jax.tree.map(lambda x: x * 1.3, params)}
  trains = lambda path: path.endswith("mask_scores")
  state = jax.jit(state_lib.begin_fn(objective, optax.sgd(1.0), keep_ema=False, trains=trains))(
      params)
  step = lambda **fields: jax.jit(step_lib.make_step(
      objective, optax.sgd(1.0), seed=5, rate=lambda step: 1.0, trains=trains,
      parts=objective.parts(), **fields))
  after, metrics = step()(state, BATCH, frozen)
  key = rng.stream(rng.root(5), "train", 0)

  @jax.jit
  def grads():
    context = types.context(0, frozen, {}, key=key)
    batch, weights = objective.prepare(params, BATCH, key, context)
    one = lambda gates: step_lib.loss_and_grad(objective, params, batch, weights, context, 1,
                                               trains, gates=gates)
    return one(False)[0], one(False)[2], one(True)[2]

  loss, own, against = grads()
  expected = gating.dropped(rng.stream(key, "gate"), own, against, 1.0)
  np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-6)
  moved = {path: leaf - tree.flatten(params)[path]
           for path, leaf in tree.flatten(after.params).items()}
  for path, leaf in tree.flatten(expected).items():
    np.testing.assert_allclose(moved[path], -np.asarray(leaf), atol=1e-6)
    assert 0 < (np.asarray(leaf) == 0).mean() < 1
  assert all((leaf == 0).all() for path, leaf in moved.items() if not trains(path))
  halves, _ = step(num_microbatches=2)(state, BATCH, frozen)
  near = [np.isclose(a, b, atol=1e-5).mean() for a, b in zip(
      jax.tree.leaves(after.params), jax.tree.leaves(halves.params))]
  assert min(near) > 0.98  # a draw at the edge may fall on the other side


@pytest.mark.parametrize("fields, message", [
    (dict(drop_share=1.5), "drop_share must lie in"),
    (dict(model=mlm.MaskedLM(network=NETWORK, mask_id=6)), "MaskedLM has no targets that")])
def test_what_has_no_gate_is_refused(fields, message):
  fields = dict(model=objectives.build(dict(name="ar"), NETWORK, TOKENIZER)) | fields
  with pytest.raises(ValueError, match=message):
    gradient_dropout.GradientDropout(**fields)
  with pytest.raises(ValueError, match="set config.frozen.reference"):
    gradient_dropout.GradientDropout.complete({}, None)
  with pytest.raises(ValueError, match="start 0.001 is not above its threshold 0.005"):
    mask_tuning.MaskTuning(start=0.001)
