"""GenMD4: the bound of a known joint, and the gradient of the schedule by enumeration.

Reference: Shi et al. 2024, arXiv:2406.04329, section 6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.objectives.diffusion import genmd4
from mdx.objectives.diffusion import masked as diffusion

import enumerated
import oracle

JOINT, MASKS, CONTEXT = enumerated.JOINT, enumerated.MASKS, enumerated.CONTEXT
POWERS = np.array([0.8, 1.0, 2.5, 1.4, 1.0])  # of each id; 1 is the mask, 4 padding
PARAMS = {"model": {}, "schedule": {"exponent": jnp.asarray(np.log(np.expm1(POWERS)),
                                                            jnp.float32)}}
TOKENS = JOINT.sequences[17]


def _genmd4(network=None, **fields):
  return genmd4.GenMD4(network=network or JOINT.network(), mask_id=JOINT.mask_id, **fields)


def _aware_network():
  """The posterior given also which tokens tend to be masked at the time."""
  table = jnp.asarray(np.eye(JOINT.vocab_size)[JOINT.sequences], jnp.float32)
  sequences, probs = jnp.asarray(JOINT.sequences), jnp.asarray(JOINT.probs, jnp.float32)
  own = jnp.asarray(POWERS, jnp.float32)[sequences]

  def encode(params, inputs, *, attention, time=None, noise=None):
    tokens = inputs.tokens
    is_masked = (tokens == JOINT.mask_id)[:, None]
    rate = jnp.exp(own[None] * jnp.log(time)[:, None, None])
    seen = jnp.where(tokens[:, None] == sequences[None], 1 - rate, 0.0)
    mass = probs[None] * jnp.where(is_masked, rate, seen).prod(axis=2)
    mass = jnp.einsum("bn,nlv->blv", mass, table)
    return types.Hidden(jnp.log(jnp.maximum(mass / mass.sum(axis=-1, keepdims=True), 1e-30)))

  return JOINT.network()._replace(encode=encode)


def _prepared(tokens, times, first, second):
  """A batch with given canvases; `times` are those of the process."""
  is_masked = jnp.asarray(np.stack([first, second], axis=1))
  tokens = jnp.asarray(np.broadcast_to(tokens, first.shape), jnp.int32)
  return {"tokens": tokens, "loss_mask": jnp.ones(tokens.shape, bool), "is_masked": is_masked,
          "noise_level": jnp.asarray(times, jnp.float32),
          "noisy_tokens": jnp.where(is_masked, JOINT.mask_id, tokens[:, None])}


def _rows(objective, params, batch):
  return jax.jit(lambda p, b: objective(p, b, CONTEXT)[1].rows["nll"])(params, batch)


def _mask_law(tokens, times):
  return enumerated.mask_law(times[:, None] ** POWERS[tokens])


def _bound(objective, tokens):
  """The expected bound of a text, by quadrature over the logarithm of time."""
  nodes, weights = np.polynomial.legendre.leggauss(32)
  low = np.log(objective.first_time)
  times = np.exp(low * (1 - nodes) / 2)
  every = np.tile(MASKS, (len(times), 1))
  batch = _prepared(tokens, np.repeat(times, len(MASKS)), every, every)
  rows = _rows(objective, PARAMS, batch)
  values = (_mask_law(tokens, times) * np.asarray(rows, np.float64).reshape(len(times), -1)).sum(1)
  first = np.asarray(rows, np.float64)[0]  # of the tokens masked at t_1: MASKS[0] masks nothing
  slope = -low / 2 * weights * times / (1 - objective.first_time)
  return float(slope @ (values - first) + first)


def test_the_bound_of_the_true_posterior_is_the_nll():
  objective = _genmd4(_aware_network(), first_time=1e-5)
  for row in (0, 17, 80):
    np.testing.assert_allclose(_bound(objective, JOINT.sequences[row]), JOINT.nll[row],
                               rtol=2e-3)


def test_tokens_masked_at_the_first_time_are_guessed_in_proportion():
  nothing = _prepared(TOKENS, [0.5], MASKS[:1], MASKS[:1])
  first = _rows(_genmd4(first_time=0.1), PARAMS, nothing)[0]
  guess = 0.1 ** POWERS[list(JOINT.real) + [4]]
  wanted = (0.1 ** POWERS[TOKENS] * -np.log(0.1 ** POWERS[TOKENS] / guess.sum())).sum()
  np.testing.assert_allclose(first, wanted, rtol=1e-5)


def test_equal_powers_are_masked_diffusion_with_a_polynomial_schedule():
  params = {"model": {}, **{k: v for k, v in _genmd4(first_power=2.0).init(
      jax.random.key(0)).items() if k == "schedule"}}
  times = np.array([0.3, 0.9])
  plain = diffusion.MaskedDiffusion(
      network=JOINT.network(), mask_id=JOINT.mask_id,
      schedule={"name": "polynomial", "power": 2.0, "eps": 0.0})
  wanted, _ = enumerated.rows(plain, TOKENS, times)
  every = np.tile(MASKS, (2, 1))
  objective = _genmd4(first_power=2.0, first_time=1e-3)
  batch = _prepared(TOKENS, np.repeat(times, 16), every, every)
  rows = np.asarray(_rows(objective, params, batch)).reshape(2, 16)
  np.testing.assert_allclose((rows - rows[:, :1]) / 0.999, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(jax.nn.softplus(params["schedule"]["exponent"]), 2.0, rtol=1e-6)


@pytest.mark.slow
def test_the_mean_gradient_over_pairs_of_canvases_is_that_of_the_expected_bound():
  objective, time = _genmd4(), 0.4
  first, second = (np.repeat(MASKS, 16, axis=0), np.tile(MASKS, (16, 1)))
  pairs = _prepared(TOKENS, np.full(256, time), first, second)

  def total(exponent, batch):
    return objective({"model": {}, "schedule": {"exponent": exponent}}, batch, CONTEXT)[0]["elbo"]

  exponent = PARAMS["schedule"]["exponent"]
  one = lambda row: jax.grad(total)(exponent, jax.tree.map(lambda x: x[None], row))
  grads = np.asarray(jax.jit(jax.vmap(one))(pairs), np.float64)
  law = _mask_law(TOKENS, np.array([time]))[0]
  found = np.repeat(law, 16) * np.tile(law, 16) @ grads

  singles = _prepared(TOKENS, np.full(16, time), MASKS, MASKS)

  def expectation(exponent):
    powers = jax.nn.softplus(exponent)
    rate = time ** powers[TOKENS]
    law = jnp.where(MASKS, rate[None], 1 - rate[None]).prod(axis=1)
    rows = objective({"model": {}, "schedule": {"exponent": exponent}}, singles,
                     CONTEXT)[1].rows["nll"]
    return law @ rows

  wanted = np.asarray(jax.jit(jax.grad(expectation))(exponent))
  assert np.abs(wanted[list(JOINT.real)]).max() > 0.05
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
  # Without the score term the mean is another.
  plain = jax.jit(jax.grad(lambda e: law @ objective(
      {"model": {}, "schedule": {"exponent": e}}, singles, CONTEXT)[1].rows["nll"]))(exponent)
  assert np.abs(plain - wanted).max() > 0.05


def test_both_canvases_are_drawn_at_each_tokens_rate_and_are_independent():
  num, time = 4000, 0.4
  objective = _genmd4(first_time=1e-3)
  batch = oracle.batch_of(JOINT, np.tile(TOKENS, (num, 1))) | {"time": jnp.full(num, time)}
  prepared, weights = jax.jit(lambda b: objective.prepare(PARAMS, b, jax.random.key(0), CONTEXT))(
      batch)
  level = 1e-3 + 0.999 * time
  np.testing.assert_allclose(prepared["noise_level"], level, rtol=1e-6)
  masked = np.asarray(prepared["is_masked"], float)
  rate = level ** POWERS[TOKENS]
  for canvas in range(2):
    for i in range(4):
      assert abs(oracle.z_score(masked[:, canvas, i], rate[i])) < 4
  assert abs(oracle.z_score(masked[:, 0, 0] * masked[:, 1, 0], rate[0] ** 2)) < 4
  assert float(weights["elbo"]) == 4 * num
  np.testing.assert_array_equal(prepared["noisy_tokens"] == JOINT.mask_id, masked == 1)


@pytest.mark.slow
def test_gradients_are_finite_at_the_last_time_and_on_padding():
  tokens = np.where(np.arange(4) < np.array([[4], [2], [0]]), TOKENS, JOINT.pad_id)
  objective = _genmd4()
  prepared, _ = objective.prepare(PARAMS, oracle.batch_of(JOINT, tokens) | {
      "time": jnp.ones(3)}, jax.random.key(0), CONTEXT)
  assert prepared["is_masked"][:2].sum() == 12

  def total(params):
    terms, aux = objective(params, prepared, CONTEXT)
    return terms["elbo"], aux

  (_, aux), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMS)
  assert np.all(np.isfinite(grads["schedule"]["exponent"]))
  assert float(aux.rows["nll"][2]) == 0 and np.all(np.isfinite(aux.rows["nll"]))


def test_denoise_and_bad_values():
  request = types.Request(jnp.full((1, 4), JOINT.mask_id), jnp.ones(1))
  logits = _genmd4().answer(PARAMS, request).logits
  np.testing.assert_allclose(jax.nn.softmax(logits)[0], JOINT.conditionals(
      np.full((1, 4), JOINT.mask_id))[0], atol=1e-6)
  for fields, message in (({"first_time": 0.0}, "first_time must lie in"),
                          ({"first_power": 0.0}, "first_power must be positive"),
                          ({"first_power": np.nan}, "first_power must be positive, got nan"),
                          ({"normalizer": "per_masked_token"}, "choose from elbo, per_superv")):
    with pytest.raises(ValueError, match=message):
      _genmd4(**fields)
