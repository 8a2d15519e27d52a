"""Refinement: the first step writes everything, later ones what the model doubts most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.samplers import loop
from mdx.samplers import refinement
from mdx.utils import rng

MASK, LENGTH = 3, 4
FIRST = np.log([[.7, .2, .1], [.1, .8, .1], [.2, .2, .6], [.5, .3, .2]])
# Of the tokens 0 1 2 0 that stand there, the last and then the second are least probable.
LATER = np.log([[.8, .1, .1], [.4, .1, .5], [.1, .1, .8], [.05, .9, .05]])


def _answer(request):
  is_first = (request.tokens == MASK).any(axis=1)[:, None, None]
  logits = jnp.where(is_first, FIRST[None], LATER[None]).astype(jnp.float32)
  logits = jnp.pad(logits, ((0, 0), (0, 0), (0, 1)), constant_values=-1e30)
  return types.Answer(jnp.take_along_axis(logits, request.targets[..., None], axis=1, mode="clip"))


@pytest.mark.parametrize("share, wanted", [
    (0.25, [0, 1, 2, 1]), (0.5, [0, 2, 2, 1]), (1.0, [0, 2, 2, 1]), (0.26, [0, 2, 2, 1])])
def test_a_step_draws_the_least_probable_share_anew(share, wanted):
  rule = refinement.Refinement(mask_id=MASK, gen_length=LENGTH, steps=2, temperature=0.0,
                               refined_share=share)
  found = jax.jit(lambda: loop.decode(_answer, rule, jnp.full((1, LENGTH), MASK), key=rng.root(0),
                                      row_index=jnp.arange(1), record="canvas"))()
  assert found.nfe.tolist() == [2]
  assert found.trajectory.canvas[0, 1].tolist() == [0, 1, 2, 0]
  assert found.tokens.tolist() == [wanted]


def test_a_share_of_nothing_is_one_line():
  with pytest.raises(ValueError, match=r"refined_share must lie in \(0, 1\]"):
    refinement.Refinement(mask_id=MASK, refined_share=0.0)
