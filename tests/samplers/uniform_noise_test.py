"""Ancestral sampling of the uniform process: its distribution, and what it leaves alone.

Reference: Austin et al. 2021, arXiv:2107.03006.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import uniform_noise

import driving
import oracle

MASK = 1
PROBS = np.array([0.55, 0.0, 0.3, 0.1, 0.05])  # of every position, whatever is read
LOGITS = jnp.log(jnp.asarray(np.maximum(PROBS, 1e-30), jnp.float32)).at[MASK].set(-1e30)


def _answer(params, request):
  del params
  rows, width = request.targets.shape
  return types.Answer(jnp.broadcast_to(LOGITS, (rows, width, 5)))


def _sampler(**fields):
  return uniform_noise.Uniform(mask_id=MASK, num_ids=5, **dict(gen_length=4, steps=3) | fields)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_model_of_independent_tokens_is_sampled_exactly_in_any_number_of_steps(name):
  canvas = np.full((3000, 4), MASK)
  canvas[:, 0] = 3
  decoded = driving.decode(_answer, _sampler(noise={"name": name}), canvas)
  assert np.all(decoded.tokens[:, 0] == 3) and np.all(decoded.nfe == 3)
  counts = np.bincount(decoded.tokens[:, 1:].ravel(), minlength=5)
  real = [0, 2, 3, 4]
  assert counts[MASK] == 0 and oracle.chi_square(counts[real], PROBS[real]) > 1e-4


@pytest.mark.slow
def test_a_row_is_the_same_in_another_order_and_full_rows_are_done():
  canvas = np.full((6, 4), MASK)
  canvas[5] = 2
  decoded = driving.decode(_answer, _sampler(), canvas)
  order = np.array([3, 5, 0, 4, 2, 1])
  other = driving.decode(_answer, _sampler(), canvas[order], row_index=order)
  np.testing.assert_array_equal(other.tokens, decoded.tokens[order])
  assert decoded.nfe.tolist() == [3] * 5 + [0] and np.all(decoded.tokens[5] == 2)
  assert len({tuple(row) for row in decoded.tokens[:5].tolist()}) > 1


@pytest.mark.parametrize("fields, message", [
    (dict(cache="dual"), "got cache dual and block_length 0; use none and 0"),
    (dict(block_length=2, steps=4), "block_length 2; use none and 0"),
    (dict(eos="forbid", eos_id=2), "use allow and never"),
    (dict(guidance_scale=1.0), "guidance_scale blanks the prompt by masks")])
def test_fields_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _sampler(**fields)


def test_a_model_of_masks_is_refused():
  network = types.Network(lambda key: {}, lambda *args, **rest: None, lambda *args: None, 5)
  model = diffusion.MaskedDiffusion(network=network, mask_id=MASK)
  assert isinstance(model.visibility, attention_lib.Full)
  with pytest.raises(ValueError, match="this one knows masks: use sampler.name=ancestral"):
    samplers.build(dict(name="uniform", gen_length=4, steps=2), model, mask_id=MASK)
