"""Left-to-right sampling: samples follow the joint exactly."""

import numpy as np
import pytest

from mdx import samplers
from mdx.objectives.causal import ar

import driving
import oracle

JOINT = oracle.random_joint()
OBJECTIVE = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)
ANSWER = driving.on_joint(OBJECTIVE)


def _decode(canvas, row_index=None, **fields):
  sampler = samplers.build(dict(name="autoregressive", **fields), OBJECTIVE, mask_id=JOINT.mask_id)
  return driving.decode(ANSWER, sampler, canvas, row_index=row_index)


def test_samples_follow_the_joint():
  decoded = _decode(np.full((20000, 4), JOINT.mask_id))
  counts = np.bincount(JOINT.index(decoded.tokens), minlength=len(JOINT.probs))
  assert oracle.chi_square(counts, JOINT.probs) > 1e-4
  assert np.all(decoded.nfe == 4)


def test_prompts_stay_and_the_rest_follows_its_conditional():
  canvas = np.full((20000, 4), JOINT.mask_id)
  canvas[:, :2] = [3, 0]
  decoded = _decode(canvas)
  counts = np.bincount(JOINT.index(decoded.tokens), minlength=len(JOINT.probs))
  probs = np.where((JOINT.sequences[:, :2] == [3, 0]).all(axis=1), JOINT.probs, 0)
  assert counts[probs == 0].sum() == 0 and np.all(decoded.nfe == 2)
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_temperature_zero_is_greedy():
  canvas = np.full((1, 4), JOINT.mask_id)
  tokens = _decode(canvas, temperature=0.0).tokens
  for i in range(4):
    canvas[0, i] = JOINT.conditionals(canvas)[0, i].argmax()
  np.testing.assert_array_equal(tokens, canvas)


def test_rows_are_called_once_for_each_mask():
  canvas = np.array([[0, 2, 3, 0], [0, 2, 3, 1], [1, 2, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
  decoded = _decode(canvas)
  np.testing.assert_array_equal(decoded.nfe, (canvas == JOINT.mask_id).sum(axis=1))
  given = canvas != JOINT.mask_id
  np.testing.assert_array_equal(decoded.tokens[given], canvas[given])
  assert np.isin(decoded.tokens, JOINT.real).all()


@pytest.mark.slow
def test_a_rows_sample_is_the_same_in_any_batch_and_place():
  tokens = _decode(np.full((64, 4), JOINT.mask_id)).tokens
  order = np.random.default_rng(0).permutation(64)[:11]
  part = _decode(np.full((11, 4), JOINT.mask_id), row_index=order).tokens
  np.testing.assert_array_equal(tokens[order], part)


def test_every_place_is_a_block_whatever_the_block_length():
  canvas = np.full((16, 4), JOINT.mask_id)
  np.testing.assert_array_equal(_decode(canvas, gen_length=4, block_length=2).tokens,
                                _decode(canvas).tokens)


def test_an_autoregressive_model_is_decoded_only_so():
  with pytest.raises(ValueError, match="decoded by sampler.name=autoregressive"):
    samplers.build({"name": "threshold"}, OBJECTIVE, mask_id=JOINT.mask_id)
