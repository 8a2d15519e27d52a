"""Left-to-right sampling: samples follow the joint exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives import ar
from mdx.samplers import autoregressive
from mdx.samplers import loop
from mdx.utils import rng

import oracle

JOINT = oracle.random_joint()
OBJECTIVE = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)


def _decode(canvas, row_index=None, **fields):
  sampler = autoregressive.LeftToRight(mask_id=JOINT.mask_id, **fields)
  row_index = jnp.arange(len(canvas)) if row_index is None else jnp.asarray(row_index)
  decode = jax.jit(lambda canvas, row_index: loop.decode(
      lambda canvas, level: OBJECTIVE.denoise({"model": {}}, canvas, level), sampler, canvas,
      key=rng.root(0), row_index=row_index))
  return jax.device_get(decode(jnp.asarray(canvas, jnp.int32), row_index))


def test_samples_follow_the_joint():
  tokens, calls = _decode(np.full((20000, 4), JOINT.mask_id))
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  assert oracle.chi_square(counts, JOINT.probs) > 1e-4
  assert np.all(calls == 4)


def test_prompts_stay_and_the_rest_follows_its_conditional():
  canvas = np.full((20000, 4), JOINT.mask_id)
  canvas[:, :2] = [3, 0]
  tokens, calls = _decode(canvas)
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  probs = np.where((JOINT.sequences[:, :2] == [3, 0]).all(axis=1), JOINT.probs, 0)
  assert counts[probs == 0].sum() == 0 and np.all(calls == 2)
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_temperature_zero_is_greedy():
  canvas = np.full((1, 4), JOINT.mask_id)
  tokens, _ = _decode(canvas, temperature=0.0)
  for i in range(4):
    canvas[0, i] = JOINT.conditionals(canvas)[0, i].argmax()
  np.testing.assert_array_equal(tokens, canvas)


def test_rows_are_called_once_for_each_mask():
  canvas = np.array([[0, 2, 3, 0], [0, 2, 3, 1], [1, 2, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
  tokens, calls = _decode(canvas)
  np.testing.assert_array_equal(calls, (canvas == JOINT.mask_id).sum(axis=1))
  np.testing.assert_array_equal(tokens[canvas != JOINT.mask_id], canvas[canvas != JOINT.mask_id])
  assert np.isin(tokens, JOINT.real).all()


def test_a_rows_sample_is_the_same_in_any_batch_and_place():
  tokens, _ = _decode(np.full((64, 4), JOINT.mask_id))
  order = np.random.default_rng(0).permutation(64)[:11]
  part, _ = _decode(np.full((11, 4), JOINT.mask_id), row_index=order)
  np.testing.assert_array_equal(tokens[order], part)


def test_a_negative_temperature_is_refused():
  with pytest.raises(ValueError, match="temperature must be >= 0, got -0.5"):
    autoregressive.LeftToRight(mask_id=1, temperature=-0.5)
