"""Noise in the network: its law, and that it depends on the row, the layer and the use alone.

Reference: Srivastava et al. 2014; Zhou et al. 2020, arXiv:2004.13342 (DropHead).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.eval import likelihood
from mdx.networks import attention
from mdx.networks import noise as noise_lib
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.objectives.tokens import mlm
from mdx.train import step as step_lib
from mdx.utils import rng

import tiny

RATES = dict(dropout=0.2, attention_dropout=0.1, drophead=0.25)
FULL = attention.Full()


def _spec(**fields):
  return transformer.Transformer(**dict(num_layers=2, width=16, num_heads=4, mlp_width=24,
                                        vocab_size=11, max_length=8) | fields)


def _batch(num_rows=8, length=8):
  draw = np.random.default_rng(0)
  return {"tokens": jnp.asarray(draw.integers(0, 10, (num_rows, length)), jnp.int32),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


def _draws(num, function):
  """Mean and standard error of function(noise of one row) over draws."""
  noise = lambda i: types.Noise(rng.root(0), jax.random.fold_in(rng.root(1), i)[None])
  values = np.asarray(jax.jit(jax.vmap(lambda i: function(noise(i))))(jnp.arange(num)), np.float64)
  return values.mean(axis=0), values.std(axis=0) / num ** 0.5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mean_of_dropout_is_what_is_dropped_from_and_its_variance_has_a_closed_form(rate):
  x = jnp.arange(1.0, 13.0).reshape(1, 3, 4)
  mean, error = _draws(4000, lambda noise: noise_lib.dropout(x, noise, rate, "use")[0])
  assert (np.abs(mean - x[0]) < 5 * error).all()
  np.testing.assert_allclose(error * 4000 ** 0.5, x[0] * (rate / (1 - rate)) ** 0.5, rtol=0.08)
  assert noise_lib.dropout(x, None, rate, "use") is x


def test_whole_heads_are_dropped_and_their_mean_stays():
  x = 1.0 + jnp.arange(24.0).reshape(1, 2, 4, 3)
  mean, error = _draws(4000, lambda noise: noise_lib.drop_heads(x, noise, 0.3)[0])
  assert (np.abs(mean - x[0]) < 5 * error).all()
  noise = types.Noise(rng.root(0), rng.per_example(rng.root(1), jnp.arange(50)))
  share = np.asarray(noise_lib.drop_heads(jnp.ones((50, 2, 4, 3)), noise, 0.3))
  assert ((share == share[:, :1, :, :1]).all(axis=(1, 3))).all() and set(np.unique(share)) == {
      0.0, np.float32(1 / 0.7)}


def test_the_mean_of_attention_with_dropped_probabilities_is_attention():
  query, key, value = (jax.random.normal(rng.stream(rng.root(0), name), (1, 3, 2, 4))
                       for name in ("q", "k", "v"))
  mean, error = _draws(4000, lambda noise: attention.attend(query, key, value, None, noise, 0.3)[0])
  wanted = np.asarray(attention.attend(query, key, value, None)[0])
  assert (np.abs(mean - wanted) < 5 * error).all() and (error > 0).all()


@functools.cache
def _params():
  return _spec().network().init(rng.root(0))


def _hidden(spec, batch, noise, **options):
  read = jax.jit(lambda params, batch: reading.encode(
      spec.network(), params, batch, attention=FULL, noise=noise, **options))
  return np.asarray(read(_params(), batch))


@pytest.mark.parametrize("scan_layers", tiny.first([True, False], 1))
@pytest.mark.slow
def test_the_noise_of_a_row_depends_neither_on_its_position_nor_on_its_batch(scan_layers):
  spec, batch = _spec(scan_layers=scan_layers, **RATES), _batch()
  whole = _hidden(spec, batch, rng.root(3))
  order = np.array([5, 2, 7])
  part = _hidden(spec, {k: x[order] for k, x in batch.items()}, rng.root(3))
  np.testing.assert_allclose(part, whole[order], rtol=1e-5, atol=1e-5)
  same = {"tokens": jnp.zeros_like(batch["tokens"]), "example_index": batch["example_index"]}
  rows = _hidden(spec, same, rng.root(3))
  assert np.abs(rows[0] - rows[1]).max() > 0.1
  assert np.abs(whole - _hidden(spec, batch, rng.root(4))).max() > 0.1


@pytest.mark.slow
def test_scanned_and_unstacked_layers_have_the_same_noise_and_each_layer_its_own():
  network, batch = _spec(scan_layers=False, **RATES).network(), _batch()
  noise = reading.noise_of(rng.root(3), batch)
  run = jax.jit(lambda params: network.encode(params, types.Inputs(batch["tokens"]), attention=FULL,
                                              noise=noise, keep_layers=True))
  one, other = run(_params()), run(network.unstack(_params()))
  np.testing.assert_allclose(one.layers, other.layers, rtol=1e-5, atol=1e-5)
  factors = [np.asarray(noise_lib.keep(noise_lib.of_layer(noise, layer), 0.5, (64,)))
             for layer in range(2)]
  assert (factors[0] != factors[1]).any()


def test_without_rates_noise_changes_nothing_and_without_noise_rates_change_nothing():
  batch = _batch()
  plain = _hidden(_spec(), batch, None)
  np.testing.assert_array_equal(_hidden(_spec(), batch, rng.root(3)), plain)
  np.testing.assert_array_equal(_hidden(_spec(**RATES), batch, None), plain)


@pytest.mark.slow
def test_the_states_after_each_block_are_kept_and_a_context_is_refused():
  network, batch = _spec().network(), _batch()
  params, inputs = _params(), types.Inputs(batch["tokens"])
  found = network.encode(params, inputs, attention=FULL, keep_layers=True)
  assert found.layers.shape == (2, 8, 8, 16) and found.cache is None
  first = _spec(num_layers=1).network()
  cut = params | {"layers": jax.tree.map(lambda x: x[:1], params["layers"])}
  wanted = first.encode(cut, inputs, attention=FULL, keep_layers=True).layers[0]
  np.testing.assert_allclose(found.layers[0], wanted, rtol=1e-5, atol=1e-5)
  again = first.encode(jax.tree.map(lambda x: x, params | {
      "layers": jax.tree.map(lambda x: x[1:], params["layers"])}), types.Inputs(
          None, states=found.layers[0]), attention=FULL)
  np.testing.assert_allclose(again.last, found.last, rtol=1e-5, atol=1e-5)
  with pytest.raises(ValueError, match="no cross-attention") as error:
    network.encode(params, inputs._replace(context=jnp.zeros((8, 3, 16))), attention=FULL)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields, message", [
    (dict(dropout=1.0), r"network.dropout must lie in \[0, 1\), got 1.0"),
    (dict(drophead=-0.1), r"network.drophead must lie in"),
    (dict(attention_dropout=0.1, attention_backend="splash"), "needs the attention_backend xla")])
def test_rates_that_cannot_be_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _spec(**fields)
  assert "\n" not in str(error.value)


def _objective(**fields):
  return mlm.MaskedLM(network=_spec(**fields).network(), mask_id=10, mask_rate=0.3)


def _loss_and_gradient(num_microbatches, sizes, **fields):
  devices = jax.devices()[:math.prod(sizes.values())]
  objective, mesh = _objective(**fields), sharding.make_mesh(sizes, devices=devices)
  with jax.set_mesh(mesh):
    params = {"model": jax.device_put(_params(), jax.tree.map(
        lambda x: x.sharding, sharding.with_shardings(
            jax.eval_shape(lambda: {"model": _params()}), objective.parts(), mesh))["model"])}
    batch = sharding.place_batch(jax.device_get(_batch()), mesh)

    @jax.jit
    def run(params, batch):
      key = rng.root(5)
      context = types.context(0, key=key)
      batch, weights = objective.prepare(params, batch, key, context)
      loss, _, grads = step_lib.loss_and_grad(objective, params, batch, weights, context,
                                              num_microbatches)
      return loss, grads

    return jax.device_get(run(params, batch))


@pytest.mark.slow
def test_devices_and_microbatches_do_not_change_the_noise():
  fields = dict(vocab_multiple=16, **RATES)
  wanted = _loss_and_gradient(1, {}, **fields)
  for num_microbatches, sizes in ((2, {}), (1, dict(data=2, fsdp=2, tensor=2)),
                                  (2, dict(data=2, fsdp=2, tensor=2)),
                                  (2, dict(fsdp=2, tensor=2, sequence=2))):
    found = _loss_and_gradient(num_microbatches, sizes, **fields)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)


@pytest.mark.slow
def test_dropout_changes_the_loss_of_training_but_not_that_of_evaluation():
  plain, noisy = _loss_and_gradient(1, {})[0], _loss_and_gradient(1, {}, dropout=0.2)[0]
  assert abs(plain - noisy) > 1e-3
  rows = [likelihood.make_row_nll(_objective(**fields), num_samples=2, seed=0)(
      {"model": _params()}, _batch())["nll"] for fields in ({}, RATES)]
  np.testing.assert_array_equal(*rows)
