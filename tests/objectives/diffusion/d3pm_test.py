"""D3PM: the bound of T steps, from the transition matrices and on a known joint.

Reference: Austin et al. 2021, arXiv:2107.03006.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.objectives.diffusion import d3pm
from mdx.objectives.diffusion import masked as diffusion

import enumerated
import oracle

JOINT, TOKENS = enumerated.JOINT, enumerated.JOINT.sequences[17]


def _grid(num_steps):
  return (np.arange(num_steps) + 0.5) / num_steps


def _d3pm(num_steps, **fields):
  return d3pm.D3PM(network=JOINT.network(), mask_id=JOINT.mask_id, num_steps=num_steps, **fields)


def _gap(num_steps, **fields):
  """Distance of the bound of T steps of one text from -log p(x)."""
  return enumerated.expected(_d3pm(num_steps, mask_column=False, **fields), TOKENS,
                             _grid(num_steps)).mean() - JOINT.nll[17]


@pytest.mark.slow
def test_the_gap_of_the_bound_falls_as_one_over_the_number_of_steps():
  gaps = np.array([_gap(num) for num in (1, 8, 32, 128)])
  np.testing.assert_allclose(gaps[1:-1] / gaps[2:], 4, rtol=0.1)
  # One step reveals all tokens from nothing: the marginals.
  blank = JOINT.conditionals(np.full((1, 4), JOINT.mask_id))[0]
  np.testing.assert_allclose(gaps[0] + JOINT.nll[17],
                             -np.log(blank[np.arange(4), TOKENS]).sum(), rtol=1e-5)


def test_the_mean_bound_of_few_steps_lies_above_the_entropy():
  bound = enumerated.expected(_d3pm(4, mask_column=False), JOINT.sequences, _grid(4)).mean(axis=1)
  entropy = JOINT.probs @ JOINT.nll
  assert entropy + 0.01 < JOINT.probs @ bound < entropy + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [
    {"name": "polynomial", "power": 2.0, "eps": 0.0}, {"name": "cosine", "eps": 0.0}])
def test_in_many_steps_every_schedule_gives_the_nll(schedule):
  assert abs(_gap(256, schedule=schedule)) < 0.02 < abs(_gap(16, schedule=schedule))


def _posterior(alpha_s, alpha_t, clean, num_ids, mask_id):
  """q(x_s | x_t = mask, clean [V]) from transition matrices, normalized by brute force."""
  def transition(alpha):
    matrix = alpha * np.eye(num_ids)
    matrix[:, mask_id] += 1 - alpha
    return matrix
  joint = (clean @ transition(alpha_s)) * transition(alpha_t / alpha_s)[:, mask_id]
  return joint / joint.sum()


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_step_costs_the_divergence_between_two_posteriors_of_the_transition_matrices(eps):
  num_steps, mask_id = 4, JOINT.mask_id
  objective = _d3pm(num_steps, schedule={"name": "linear", "eps": eps})
  found, level = enumerated.rows(objective, TOKENS, _grid(num_steps))
  canvas = np.where(enumerated.MASKS, mask_id, TOKENS)
  probs = JOINT.conditionals(canvas)
  probs[..., mask_id] = np.exp(5)  # the oracle's column of the mask
  probs /= probs.sum(axis=-1, keepdims=True)
  clipped = 4 * eps * np.log(4)
  for step, t in enumerate(level, 1):
    alpha = [(1 - eps) * (1 - x) for x in ((step - 1) / num_steps, t)]
    for mask, guess, value in zip(enumerated.MASKS, probs, found[step - 1]):
      cost = 0.0
      for i in np.flatnonzero(mask):
        true = _posterior(*alpha, np.eye(JOINT.vocab_size)[TOKENS[i]], JOINT.vocab_size, mask_id)
        model = _posterior(*alpha, guess[i], JOINT.vocab_size, mask_id)
        seen = true > 0
        cost += (true[seen] * np.log(true[seen] / model[seen])).sum()
      np.testing.assert_allclose(value - clipped, num_steps * cost, rtol=2e-4, atol=1e-5)


def test_many_steps_without_a_mask_column_are_continuous_time():
  steps = diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id, num_steps=1024)
  whole = diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id)
  times = np.array([0.125, 0.5, 1.0])  # on the grid
  np.testing.assert_allclose(enumerated.expected(steps, TOKENS, times),
                             enumerated.expected(whole, TOKENS, times), rtol=1e-3)


@pytest.mark.slow
def test_times_lie_on_the_grid_and_gradients_are_finite():
  objective = _d3pm(8)
  batch = oracle.batch_of(JOINT, JOINT.sequences[:64])
  prepared, weights = objective.prepare({}, batch, jax.random.key(0), enumerated.CONTEXT)
  assert set(np.asarray(prepared["noise_level"] * 8).tolist()) == set(range(1, 9))
  assert float(weights["elbo"]) == 256

  def loss(logits):
    network = objective.network._replace(encode=lambda *a, **k: types.Hidden(logits))
    one = d3pm.D3PM(network=network, mask_id=JOINT.mask_id, num_steps=8)
    return one(enumerated.PARAMS, prepared, enumerated.CONTEXT)[0]["elbo"]

  grad = jax.jit(jax.grad(loss))(jnp.zeros((64, 4, JOINT.vocab_size)))
  assert np.all(np.isfinite(grad)) and np.any(grad != 0)


def test_samplers_never_see_the_mask_id():
  canvas = jnp.asarray(np.where(enumerated.MASKS, JOINT.mask_id, TOKENS))
  logits = _d3pm(4).answer(enumerated.PARAMS, types.Request(canvas, jnp.ones(len(canvas)))).logits
  assert np.all(logits[..., JOINT.mask_id] == -1e30)


@pytest.mark.parametrize("fields, message", [
    ({"num_steps": 0}, "num_steps must be positive, got 0; for continuous"),
    ({"num_steps": -2}, "num_steps must be positive, or 0"),
    ({"num_steps": 4, "mask_draw": "exact_count"}, "with num_steps 4 use bernoulli")])
def test_a_process_without_steps_is_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _d3pm(**fields)
  assert "\n" not in str(error.value)
