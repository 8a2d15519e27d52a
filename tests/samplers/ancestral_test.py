"""Ancestral sampling: its samples follow the law of the process, enumerated exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives import diffusion
from mdx.samplers import ancestral
from mdx.samplers import loop
from mdx.utils import rng

import oracle

JOINT = oracle.random_joint()
OBJECTIVE = diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id)
# 1 - alpha(t), written out again.
MASK_PROB = {"linear": lambda t: t, "cosine": lambda t: 1 - (1 - np.cos(np.pi / 2 * (1 - t))),
             "polynomial": lambda t: t ** 2}


def _denoise(canvas, level):
  return OBJECTIVE.denoise({"model": {}}, canvas, level)


def _decode(canvas, row_index=None, seed=0, **fields):
  sampler = ancestral.Ancestral(mask_id=JOINT.mask_id, **fields)
  row_index = jnp.arange(len(canvas)) if row_index is None else jnp.asarray(row_index)
  decode = jax.jit(lambda canvas, row_index: loop.decode(
      _denoise, sampler, canvas, key=rng.root(seed), row_index=row_index))
  return jax.device_get(decode(jnp.asarray(canvas, jnp.int32), row_index))


def _masked(num_rows):
  return np.full((num_rows, JOINT.length), JOINT.mask_id)


def _exact_law(schedule, steps):
  """Law of the sampler on its grid over JOINT.sequences, by its transition matrices."""
  ids = (JOINT.mask_id,) + JOINT.real
  states = np.array(list(itertools.product(ids, repeat=JOINT.length)))
  is_masked = states == JOINT.mask_id
  probs = JOINT.conditionals(states)  # [S, L, V]
  eps = schedule.get("eps", 1e-4)
  mask_prob = lambda t: (1 - eps) * MASK_PROB[schedule["name"]](t) + eps
  law = np.zeros(len(states))
  law[is_masked.all(axis=1).argmax()] = 1
  for step in range(steps):
    now, then = mask_prob(1 - step / steps), mask_prob(1 - (step + 1) / steps)
    reveal = 1 - then / now if step < steps - 1 else 1.0
    transition = np.ones((len(states), len(states)))
    for i in range(JOINT.length):
      drawn = reveal * probs[:, i, states[:, i]]
      drawn[:, is_masked[:, i]] = 1 - reveal
      stays = states[:, None, i] == states[None, :, i]
      transition *= np.where(is_masked[:, None, i], drawn, stays)
    law = law @ transition
  assert abs(law.sum() - 1) < 1e-9 and law[is_masked.any(axis=1)].max() == 0
  found = np.zeros(len(JOINT.probs))
  found[JOINT.index(states[~is_masked.any(axis=1)])] = law[~is_masked.any(axis=1)]
  return found


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", [{"name": "linear"}, {"name": "cosine"},
                                      {"name": "linear", "eps": 0.2},
                                      {"name": "polynomial", "power": 2.0}])
def test_samples_follow_the_exact_law_of_the_grid(schedule, steps):
  tokens, _ = _decode(_masked(20000), schedule=schedule, steps=steps)
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  assert oracle.chi_square(counts, _exact_law(schedule, steps)) > 1e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_many_steps_sample_the_model(schedule):
  tokens, _ = _decode(_masked(15000), schedule={"name": schedule}, steps=100)
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  assert oracle.chi_square(counts, JOINT.probs) > 1e-4
  # The same test sees the error of few steps.
  assert oracle.chi_square(_exact_law({"name": schedule}, 1) * 15000, JOINT.probs) < 1e-6
  assert np.abs(_exact_law({"name": schedule}, 100) - JOINT.probs).sum() < 0.02


def test_given_tokens_stay_and_the_rest_follows_its_conditional():
  canvas = _masked(15000)
  canvas[:, 2] = 3
  tokens, _ = _decode(canvas, steps=80)
  assert np.all(tokens[:, 2] == 3)
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  probs = np.where(JOINT.sequences[:, 2] == 3, JOINT.probs, 0)
  assert counts[probs == 0].sum() == 0
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_given_tokens_stay_whatever_the_model_says_of_them():
  # The true conditionals are point masses there; a real model's are not.
  sampler = ancestral.Ancestral(mask_id=JOINT.mask_id, steps=3)
  canvas = jnp.asarray(np.where(np.arange(4)[None] < 2, JOINT.sequences, JOINT.mask_id))
  flat = lambda canvas, level: jnp.zeros(canvas.shape + (JOINT.vocab_size,))
  tokens, _ = jax.jit(lambda canvas: loop.decode(
      flat, sampler, canvas, key=rng.root(0), row_index=jnp.arange(len(canvas))))(canvas)
  np.testing.assert_array_equal(tokens[:, :2], JOINT.sequences[:, :2])


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_no_mask_is_left(steps):
  tokens, calls = _decode(_masked(500), steps=steps)
  assert np.isin(tokens, JOINT.real + (JOINT.pad_id,)).all() and calls.max() <= steps


def test_temperature_zero_takes_the_likeliest_token():
  canvas = _masked(81 * 4)
  for i in range(JOINT.length):  # one unknown each: its greedy value does not depend on order
    canvas[81 * i:81 * (i + 1)] = JOINT.sequences
    canvas[81 * i:81 * (i + 1), i] = JOINT.mask_id
  tokens, _ = _decode(canvas, steps=4, temperature=0.0)
  wanted = np.where(canvas == JOINT.mask_id, JOINT.conditionals(canvas).argmax(axis=2), canvas)
  np.testing.assert_array_equal(tokens, wanted)


def test_temperature_sharpens_the_conditional():
  canvas = np.tile(JOINT.sequences[40], (20000, 1))
  canvas[:, 1] = JOINT.mask_id
  tokens, _ = _decode(canvas, steps=1, temperature=0.5)
  probs = JOINT.conditionals(canvas[:1])[0, 1] ** 2
  counts = np.bincount(tokens[:, 1], minlength=JOINT.vocab_size)
  assert counts[probs == 0].sum() == 0
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_a_rows_sample_is_the_same_in_any_batch_and_place():
  tokens, calls = _decode(_masked(64), steps=16)
  order = np.random.default_rng(0).permutation(64)[:23]
  part, part_calls = _decode(_masked(23), row_index=order, steps=16)
  np.testing.assert_array_equal(tokens[order], part)
  np.testing.assert_array_equal(calls[order], part_calls)
  assert len(np.unique(tokens, axis=0)) > 20  # rows differ among themselves
  other, _ = _decode(_masked(64), steps=16, seed=1)
  assert not np.array_equal(tokens, other)


def test_rows_are_called_until_they_are_full():
  canvas = _masked(200)
  canvas[:100] = JOINT.sequences[3]
  canvas[50:100, 0] = JOINT.mask_id
  tokens, calls = _decode(canvas, steps=8)
  assert np.all(calls[:50] == 0) and np.all(tokens[:50] == JOINT.sequences[3])
  assert calls[50:100].min() >= 1 and calls[50:100].mean() < calls[100:].mean() <= 8
  # One unknown is revealed at a uniform step of the eight.
  many = np.tile(canvas[50:51], (4000, 1))
  _, calls = _decode(many, steps=8)
  assert oracle.chi_square(np.bincount(calls, minlength=9)[1:], np.ones(8)) > 1e-4


def test_the_network_is_told_the_time_of_the_step():
  sampler = ancestral.Ancestral(mask_id=JOINT.mask_id, steps=4)
  state = sampler.init(jnp.asarray(_masked(2)))
  levels = [np.asarray(sampler.noise_level(state, jnp.int32(s))) for s in range(4)]
  np.testing.assert_allclose(levels, [[1, 1], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]])


@pytest.mark.parametrize("fields,message", [
    ({"steps": 0}, "sampler.steps must be positive"), ({"temperature": -1.0}, "temperature"),
    ({"schedule": {"name": "sine"}}, "unknown schedule name 'sine'; choose from cosine")])
def test_values_without_meaning_are_refused_at_once(fields, message):
  with pytest.raises(ValueError, match=message):
    ancestral.Ancestral(mask_id=JOINT.mask_id, **fields)
