"""Answers scored by exact counts of masks: exact where short, unbiased, of small variance."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.eval import likelihood
from mdx.eval import subsets
from mdx.networks import attention as attention_lib
from mdx.objectives.diffusion import block
from mdx.objectives.diffusion import d3pm
from mdx.objectives.diffusion import genmd4
from mdx.objectives.diffusion import masked

import oracle
import tiny

JOINT = oracle.random_joint()
PARAMS = {"model": {}}
TOLD = JOINT.network()._replace(reads_time=True)  # it makes no use of the time
_PAIRS = [([0, 2], [3, 3]), ([0], [2, 0, 3]), ([2, 2, 0], [3]), ([3, 0], [2]), ([], [0, 2, 3, 3])]


def _model(network=JOINT.network(), kind=masked.MaskedDiffusion, **fields):
  return kind(network=network, mask_id=JOINT.mask_id, **fields)


def _estimate(objective, pairs, num_samples=15, seed=0, batch_size=64, **options):
  row_nll = jax.jit(subsets.make_subset_nll(objective))
  return subsets.conditional_nll(
      row_nll, PARAMS, objective, pairs, num_samples=num_samples, seed=seed,
      batch_size=batch_size, max_length=JOINT.length, pad_id=JOINT.pad_id, **options)


def _exact(prompt, answer):
  """log p over all orders of decoding, which is the same in each for a joint distribution."""
  rows = (JOINT.sequences[:, :len(prompt)] == prompt).all(axis=1)
  both = rows & (JOINT.sequences[:, len(prompt):len(prompt) + len(answer)] == answer).all(axis=1)
  return math.log(JOINT.probs[both].sum() / JOINT.probs[rows].sum())


def _costs(num_tokens, seed=0):
  """A cost of every token under every mask, that no joint distribution need have."""
  draw = np.random.default_rng(seed)
  own, noise = draw.exponential(2, num_tokens), draw.random((2 ** num_tokens, num_tokens))
  table = own * noise
  return lambda mask: table[mask @ (1 << np.arange(num_tokens)), mask].mean()


def _bound(cost, num_tokens):
  found = np.zeros(num_tokens + 1)
  for bits in itertools.product([False, True], repeat=num_tokens):
    mask = np.array(bits)
    if mask.any():
      found[mask.sum()] += cost(mask) / math.comb(num_tokens, mask.sum())
  return found.sum()


def _draws(cost, num_tokens, num_draws, num=2000):
  """Estimates, and their standard errors, of many draws."""
  found = []
  for seed in range(num):
    drawn = subsets.choose(num_tokens, num_draws, np.random.default_rng(seed))
    parts = np.array([w * cost(mask) for w, mask in zip(drawn.weights, drawn.masks)])
    found.append((parts.sum(), subsets.standard_error(drawn, parts * len(parts))))
  return np.array(found).T


@pytest.mark.parametrize("num_tokens", range(1, 6))
def test_answers_of_up_to_five_tokens_are_exact_by_default(num_tokens):
  cost = _costs(num_tokens)
  found, error = _draws(cost, num_tokens, 32, num=3)
  np.testing.assert_allclose(found, _bound(cost, num_tokens), rtol=1e-12)
  assert not error.any()
  drawn = subsets.choose(num_tokens, 32, np.random.default_rng(0))
  assert len(drawn.masks) == 2 ** num_tokens - 1  # and cost no pass more


@pytest.mark.parametrize("num_tokens, num_draws", tiny.first([
    (2, 2), (3, 4), (4, 3), (6, 4), (6, 6), (6, 20), (9, 7)], 3))
def test_longer_answers_are_unbiased(num_tokens, num_draws):
  cost = _costs(num_tokens)
  found, error = _draws(cost, num_tokens, num_draws)
  assert abs(oracle.z_score(found, _bound(cost, num_tokens))) < 4
  if num_draws == 2:  # of one count one subset, of the other all: nothing to compare
    assert np.isinf(error).all()
    return
  assert 0.6 * found.std() < np.sqrt((error ** 2).mean()) < 2 * found.std()


@pytest.mark.parametrize("num_tokens, num_draws", tiny.first([
    (6, 16), (8, 16), (10, 8), (12, 32)], 1))
def test_the_spread_is_below_that_of_a_lattice_of_counts(num_tokens, num_draws):
  cost, draw = _costs(num_tokens), np.random.default_rng(0)
  lattice = []
  for _ in range(400):
    count = ((draw.random() + np.arange(num_draws)) / num_draws * num_tokens).astype(int) + 1
    masks = [draw.permutation(num_tokens) < k for k in count]
    lattice.append(num_tokens * np.mean([cost(mask) for mask in masks]))
  assert _draws(cost, num_tokens, num_draws, 400)[0].std() < 0.8 * np.std(lattice)


@pytest.mark.parametrize("fields", tiny.first([
    dict(mask_draw="exact_count"), dict(), dict(schedule={"name": "linear", "eps": 0.1}),
    dict(schedule={"name": "cosine"}), dict(schedule={"name": "polynomial", "power": 3.0}),
    dict(network=TOLD), dict(network=TOLD, schedule={"name": "cosine"}, mask_column=False)], 2))
def test_answers_get_their_probability_given_the_prompt(fields):
  found = _estimate(_model(**fields), _PAIRS)
  np.testing.assert_allclose(found.log_prob, [_exact(*pair) for pair in _PAIRS], rtol=1e-4)
  assert found.stderr.max() < 1e-5 or "network" in fields


@pytest.mark.parametrize("objective", tiny.first([
    _model(num_steps=3), _model(num_steps=5, schedule={"name": "cosine", "eps": 0.05}),
    _model(kind=d3pm.D3PM, num_steps=3, mask_column=False),
    _model(kind=d3pm.D3PM, num_steps=4), _model(carry_over=False, num_steps=3),
    _model(network=TOLD, num_steps=4)], 2), ids=range(6))
def test_steps_of_a_discrete_process_give_the_value_of_stratified_times(objective):
  pair = ([0], [2, 0])
  row_nll = jax.jit(likelihood.make_row_nll(objective, num_samples=30))
  wanted = -likelihood.conditional_nll(row_nll, PARAMS, [pair] * 1500, length=JOINT.length,
                                       pad_id=JOINT.pad_id)
  found = _estimate(objective, [pair] * 50, questions=list(map(str, range(50)))).log_prob
  error = math.hypot(wanted.std() / math.sqrt(len(wanted)), found.std() / math.sqrt(50))
  assert abs(found.mean() - wanted.mean()) < 4 * error < 0.3 and found.std() < wanted.std()


def test_levels_given_a_count_are_those_of_the_process():
  # The mean level where 2 of 3 tokens are masked, by the weights of an even grid of times.
  time, quantile = (np.arange(4000) + 0.5) / 4000, (np.arange(1000) + 0.5) / 1000
  for name, fields in (("linear", {}), ("polynomial", {"power": 2.0}), ("cosine", {})):
    objective = _model(network=TOLD, schedule={"name": name, **fields}).bound("subsets")
    weight, level = objective.given_count(np.full(1000, 2), 3, quantile)
    masked_at = np.asarray(objective.alpha.mask_prob(time))
    mass = np.asarray(objective.alpha.weight(time)) * 3 * masked_at ** 2 * (1 - masked_at)
    np.testing.assert_allclose(weight, 2 * mass.mean(), rtol=1e-3)
    np.testing.assert_allclose(level.mean(), (time * mass).sum() / mass.sum(), rtol=1e-3)


def test_all_blocks_are_scored_in_one_pass_each_with_its_subsets():
  network = JOINT.network()

  def encode(params, inputs, *, attention, time=None, noise=None):
    noisy, clean = jnp.split(inputs.tokens, 2, axis=1)
    block_of = np.arange(JOINT.length) // 2
    seen = [jnp.where(block_of < b, clean, jnp.where(block_of == b, noisy, JOINT.mask_id))
            for b in range(2)]
    first, last = (network.encode(params, inputs._replace(tokens=tokens),
                                  attention=attention_lib.Full()).last for tokens in seen)
    hidden = jnp.where((block_of == 0)[:, None], first, last)
    return types.Hidden(jnp.concatenate([hidden, hidden], axis=1))

  objective = _model(network=network._replace(encode=encode), kind=block.BlockDiffusion,
                     attention={"name": "block_causal", "block_length": 2})
  seen = []
  row_nll = jax.jit(subsets.make_subset_nll(objective))
  for pair, num_rows in (([0], [2, 0, 3]), 3), (([], [0, 2, 3, 3]), 3), (([0], [2]), 1):
    found = subsets.conditional_nll(
        lambda params, rows: seen.append(rows) or row_nll(params, rows), PARAMS, objective, [pair],
        num_samples=15, seed=0, batch_size=64, max_length=4, pad_id=JOINT.pad_id)
    np.testing.assert_allclose(found.log_prob[0], _exact(*pair), rtol=1e-4)
    assert found.stderr[0] == 0 and seen[-1]["loss_mask"].any(axis=1).sum() == num_rows


@pytest.mark.slow
def test_choices_of_one_question_have_the_same_masks_and_nothing_else_matters():
  objective = _model()
  long = [([0], [2, 0, 3]), ([0], [3, 3, 2]), ([2], [3, 3, 2]), ([], [0, 2, 3, 3])]
  whole = _estimate(objective, long, num_samples=3)
  seen = []
  row_nll = jax.jit(subsets.make_subset_nll(objective))
  for order in ([0, 1, 2, 3], [3, 1], [1]):
    for batch_size in (1, 2, 64):
      part = subsets.conditional_nll(
          lambda params, rows: seen.append(rows) or row_nll(params, rows), PARAMS, objective,
          [long[i] for i in order], num_samples=3, seed=0, batch_size=batch_size,
          max_length=JOINT.length, pad_id=JOINT.pad_id)
      np.testing.assert_allclose(part.log_prob, whole.log_prob[order], rtol=1e-5)
      np.testing.assert_allclose(part.stderr, whole.stderr[order], rtol=1e-4)
  first = next(rows for rows in seen if len(rows["tokens"]) == 16)
  masks = np.asarray(first["is_masked"][:9]).reshape(3, 3, -1)
  np.testing.assert_array_equal(masks[0], masks[1])
  asked = _estimate(objective, long, num_samples=3, questions=["a", "a", "b", "a"])
  assert abs(asked.log_prob[0] - whole.log_prob[0]) > 1e-6
  assert abs(_estimate(objective, long, num_samples=3, seed=1).log_prob[0]
             - whole.log_prob[0]) > 1e-6


def test_eight_devices_score_as_one_does():
  mesh = sharding.make_mesh({"data": 8}, jax.devices())
  wanted = _estimate(_model(), _PAIRS, num_samples=5)
  with jax.set_mesh(mesh):
    found = _estimate(_model(), _PAIRS, num_samples=5, mesh=mesh, batch_size=8)
  np.testing.assert_allclose(found.log_prob, wanted.log_prob, rtol=1e-5)
  np.testing.assert_allclose(found.stderr, wanted.stderr, rtol=1e-4, atol=1e-6)


def test_the_cost_of_long_answers_is_the_number_of_draws_and_one_draw_has_no_error():
  for num_draws in (1, 7, 100):
    drawn = subsets.choose(1000, num_draws, np.random.default_rng(0))
    assert drawn.masks.shape == (num_draws, 1000) and drawn.masks.any(axis=1).all()
  assert _estimate(_model(), [([0], [2, 0, 3])], num_samples=1).stderr[0] == math.inf


def test_objectives_whose_masks_depend_on_the_tokens_are_no_fit():
  assert subsets.is_fit(_model()) and not subsets.is_fit(
      genmd4.GenMD4(network=JOINT.network(), mask_id=1))


@pytest.mark.parametrize("pair, num_samples, message", [
    (([0, 2, 3], [2, 2]), 3, "row length 4"), (([0], []), 3, "an answer"),
    (([0], [2]), 0, "must be positive, got 0")])
def test_a_pair_that_cannot_be_scored_is_refused(pair, num_samples, message):
  with pytest.raises(ValueError, match=message):
    _estimate(_model(), [([0], [2]), pair], num_samples=num_samples)
