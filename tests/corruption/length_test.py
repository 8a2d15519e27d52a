"""Rows cut to a random length."""

import jax
import jax.numpy as jnp
import numpy as np

from mdx.corruption import length
from mdx.utils import rng

import oracle

ROWS, LENGTH = 8000, 5


def _cut(rate, **fields):
  batch = {"tokens": jnp.zeros((ROWS, LENGTH), jnp.int32)} | fields
  keys = rng.per_example(rng.root(0), jnp.arange(ROWS))
  return jax.device_get(jax.jit(lambda: length.cut_rows(keys, batch, rate))())


def test_a_cut_row_keeps_a_uniform_number_of_its_first_positions():
  found = _cut(1.0)
  kept = found["loss_mask"].sum(axis=1)
  np.testing.assert_array_equal(found["loss_mask"], np.arange(LENGTH) < kept[:, None])
  np.testing.assert_array_equal(found["segment_ids"], found["loss_mask"])
  counts = np.bincount(kept, minlength=LENGTH + 1)
  assert counts[0] == 0 and oracle.chi_square(counts[1:], np.ones(LENGTH)) > 1e-4


def test_rows_are_cut_at_the_rate_and_keep_their_prompts_and_segments():
  mask, segments = np.arange(LENGTH) > 0, np.array([1, 1, 1, 2, 2])
  found = _cut(0.5, loss_mask=jnp.broadcast_to(mask, (ROWS, LENGTH)),
               segment_ids=jnp.broadcast_to(segments, (ROWS, LENGTH)))
  kept = (found["segment_ids"] > 0).sum(axis=1)
  within = np.arange(LENGTH) < kept[:, None]
  np.testing.assert_array_equal(found["loss_mask"], mask & within)
  np.testing.assert_array_equal(found["segment_ids"], segments * within)
  whole = 0.5 + 0.5 / LENGTH
  assert abs(oracle.z_score(kept == LENGTH, whole)) < 4
