"""Losses that compare rows: the same whatever the microbatches and devices; others are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.networks import attention
from mdx.networks import heads
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.train import coupling
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

import tiny

SPEC = transformer.Transformer(num_layers=2, width=32, num_heads=2, mlp_width=48, vocab_size=32)


def _pooled(objective, params, rows, name, context):
  hidden = reading.encode(objective.network, params["model"], rows, tokens=rows[name],
                          attention=attention.Full(), noise=reading.noise_for(context.noise, name))
  return hidden.astype(jnp.float32).mean(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InBatch(types.Coupled):
  """InfoNCE: the other rows of the global batch are the negatives."""
  network: types.Network
  temperature: float = 0.1
  scales = {"nce": 1.0}

  def prepare(self, params, batch, key, context):
    return batch, {"nce": jnp.float32(len(batch["example_index"]))}

  def represent(self, params, rows, context):
    return [_pooled(self, params, rows, name, context) for name in ("tokens", "other")]

  def compare(self, params, reps, batch, context):
    one, two = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in reps)
    nats = heads.cross_entropy(one @ two.T / self.temperature, jnp.arange(len(one)))
    return {"nce": nats.sum()}, types.Aux({}, {}, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silent(types.Objective):
  """Loss of pooled states that interact in a way of their own."""
  network: types.Network
  how: str = "pairs"
  scales = {"x": 1.0}

  def prepare(self, params, batch, key, context):
    return batch, {"x": jnp.float32(len(batch["example_index"]))}

  def __call__(self, params, batch, context):
    x = _pooled(self, params, batch, "tokens", context)
    total = {
        "pairs": lambda: jax.nn.logsumexp(x @ x.T, axis=-1).sum(),
        "covariance": lambda: jnp.square(x.T @ x).sum(),
        "centred": lambda: jnp.square(x - x.mean(axis=0, keepdims=True)).sum(),
        "largest": lambda: jnp.tanh(x.max(axis=0)).sum(),
        "square of the sum": lambda: jnp.square(x.sum()),
        "rows": lambda: 2.0 * jnp.square(x).sum() / 3.0 - x.sum(axis=0).sum()}[self.how]()
    return {"x": total}, types.Aux({}, {}, {})


def _batch(rows=32):
  draw = np.random.default_rng(0)
  return {name: draw.integers(0, 32, (rows, 12), np.int32) for name in ("tokens", "other")} | {
      "example_index": np.arange(rows, dtype=np.int32)}


def _loss_and_grad(objective, params, batch, num_microbatches, key=None):
  context = types.context(0, key=key)
  batch, weights = objective.prepare(params, batch, rng.root(0), context)
  loss, _, grads = step_lib.loss_and_grad(objective, params, batch, weights, context,
                                          num_microbatches)
  return loss, grads


@pytest.fixture(scope="module", name="expected")
def _expected():
  objective = InBatch(network=SPEC.network())
  params = jax.device_get(objective.init(rng.root(0)))
  return objective, params, jax.device_get(jax.jit(
      lambda params, batch: _loss_and_grad(objective, params, batch, 1))(params, _batch()))


@pytest.mark.parametrize("mesh, num_microbatches", tiny.first([
    (dict(data=1), 4), (dict(data=8), 2), (dict(data=2, fsdp=4), 4)], 1))
def test_microbatches_and_devices_leave_loss_and_gradient_as_they_are(expected, mesh,
                                                                      num_microbatches):
  objective, params, (loss, grads) = expected
  mesh = sharding.make_mesh(mesh, devices=jax.devices()[:int(np.prod(list(mesh.values())))])
  with jax.set_mesh(mesh):
    found = jax.device_get(jax.jit(lambda params, batch: _loss_and_grad(
        objective, params, batch, num_microbatches))(params, sharding.place_batch(_batch(), mesh)))
  assert found[0] == pytest.approx(loss, rel=1e-6)
  for path, leaf in tree.flatten(grads).items():
    other = tree.flatten(found[1])[path]
    np.testing.assert_allclose(other, leaf, atol=3e-6 * np.abs(leaf).max() + 1e-9, err_msg=path)


def test_the_loss_is_that_of_all_rows(expected):
  objective, params, (loss, _) = expected
  one, two = (np.asarray(x, np.float64) for x in jax.jit(
      lambda rows: objective.represent(params, rows, types.context(0)))(_batch()))
  one, two = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, two))
  scores = np.exp(one @ two.T / 0.1)
  assert loss == pytest.approx(-np.log(np.diag(scores) / scores.sum(axis=1)).mean(), rel=1e-5)


def _check(objective, num_microbatches=2):
  shapes = {name: (x.shape, x.dtype) for name, x in _batch().items()}
  coupling.check(objective, jax.eval_shape(objective.init, rng.root(0)), shapes, {},
                 num_microbatches)


@pytest.mark.parametrize("how", ["pairs", "covariance", "centred", "largest", "square of the sum"])
def test_rows_that_interact_are_refused_with_microbatches(how):
  with pytest.raises(ValueError, match="microbatches is 2, but rows of objective Silent interact"):
    _check(Silent(network=SPEC.network(), how=how))
  _check(Silent(network=SPEC.network(), how=how), num_microbatches=1)


def test_sums_over_rows_and_coupled_losses_are_not_refused():
  _check(Silent(network=SPEC.network(), how="rows"))
  _check(InBatch(network=SPEC.network()))
