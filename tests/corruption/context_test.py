"""Weights of clean context, by the definition; rows cut to a random length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import context
from mdx.corruption import length as length_lib
from mdx.utils import rng

import oracle


@pytest.mark.parametrize("segments", [None, np.array([[1] * 4 + [2] * 6 + [0] * 3])])
def test_context_weights_are_the_sum_over_clean_tokens_of_the_segment(segments):
  is_clean = np.random.default_rng(0).random((3, 13)) < 0.6
  one = np.ones((1, 13), int) if segments is None else segments
  gap = np.abs(np.arange(13)[:, None] - np.arange(13))
  kernel = np.where(gap > 0, 0.3 * 0.7 ** (gap - 1.0), 0.0) * (one[0][:, None] == one[0])
  found = jax.jit(lambda c: context.context_weights(c, None if segments is None else jnp.asarray(
      np.repeat(segments, 3, axis=0)), 0.3))(jnp.asarray(is_clean))
  np.testing.assert_allclose(found, 0.5 * is_clean @ kernel.T, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rows_are_cut_at_the_rate_to_uniform_lengths_and_the_rest_is_padding():
  num, length = 6000, 5
  segments = jnp.tile(jnp.array([[1, 1, 2, 2, 0]]), (num, 1))
  given = jnp.tile(jnp.array([[False, True, True, True, False]]), (num, 1))
  batch = {"tokens": jnp.zeros((num, length), jnp.int32), "loss_mask": given,
           "segment_ids": segments}
  keys = lambda: rng.per_example(rng.root(0), jnp.arange(num))
  cut = jax.jit(lambda batch: length_lib.cut_rows(keys(), batch, 0.4))(batch)
  bare = length_lib.cut_rows(keys(), {"tokens": batch["tokens"]}, 0.4)
  kept = np.asarray(bare["segment_ids"]).sum(axis=1)
  np.testing.assert_array_equal(bare["loss_mask"], bare["segment_ids"] == 1)
  counts = np.bincount(kept, minlength=6)
  assert counts[0] == 0
  assert oracle.chi_square(counts[1:], np.array([0.08] * 4 + [0.68])) > 1e-4
  shown = np.arange(length) < kept[:, None]
  np.testing.assert_array_equal(cut["loss_mask"], given & shown)
  np.testing.assert_array_equal(cut["segment_ids"], np.where(shown, segments, 0))
