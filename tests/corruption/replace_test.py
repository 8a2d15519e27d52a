"""Replacement: the 80/10/10 split, and random tokens uniform over the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import replace as replace_lib
from mdx.utils import rng

import oracle

_VOCAB, _KEPT = 11, 9


def _replaced(mask_id, mask_rate=0.8, random_rate=0.1, num_rows=400, length=500):
  tokens = jnp.full((num_rows, length), _KEPT, jnp.int32)
  selected = jnp.arange(length)[None] % 2 == jnp.arange(num_rows)[:, None] % 2
  noisy = replace_lib.mask_random_keep(
      rng.per_example(rng.root(2), jnp.arange(num_rows)), tokens, selected, mask_id=mask_id,
      vocab_size=_VOCAB, mask_rate=mask_rate, random_rate=random_rate)
  assert noisy.dtype == jnp.int32
  noisy, selected = np.asarray(noisy), np.asarray(selected)
  assert np.all(noisy[~selected] == _KEPT)
  return noisy[selected]


@pytest.mark.parametrize("mask_id", [0, 4, _VOCAB - 1])
def test_selected_tokens_split_80_10_10_with_random_ones_uniform(mask_id):
  counts = np.bincount(_replaced(mask_id), minlength=_VOCAB)
  # A random token is one of the ten others, the kept one included.
  probs = np.full(_VOCAB, 0.1 / (_VOCAB - 1))
  probs[mask_id], probs[_KEPT] = 0.8, 0.1 + 0.1 / (_VOCAB - 1)
  assert oracle.chi_square(counts, probs) > 1e-4


@pytest.mark.parametrize("mask_id", [0, 4, _VOCAB - 1])
def test_random_tokens_are_never_the_mask_id(mask_id):
  noisy = _replaced(mask_id, mask_rate=0.0, random_rate=1.0)
  counts = np.bincount(noisy, minlength=_VOCAB)
  assert counts[mask_id] == 0 and len(counts) == _VOCAB
  assert oracle.chi_square(np.delete(counts, mask_id), np.ones(_VOCAB - 1)) > 1e-4


def test_rates_of_one_and_zero_hold_exactly():
  assert np.all(_replaced(4, 1.0, 0.0) == 4)
  assert np.all(_replaced(4, 0.0, 0.0) == _KEPT)


def test_mask_all_writes_the_mask_id_at_the_selected_positions_only():
  tokens = jnp.array([[5, 6, 7]])
  noisy = replace_lib.mask_all(tokens, jnp.array([[True, False, True]]), 1)
  np.testing.assert_array_equal(noisy, [[1, 6, 1]])


@pytest.mark.slow
def test_with_units_a_unit_meets_one_fate_at_the_same_rates_and_random_tokens_differ():
  num_rows, units = 4000, jnp.tile(jnp.repeat(jnp.arange(0, 9, 3), 3), (4000, 1))
  noisy = np.asarray(replace_lib.mask_random_keep(
      rng.per_example(rng.root(2), jnp.arange(num_rows)), jnp.full((num_rows, 9), 50),
      jnp.ones((num_rows, 9), bool), mask_id=0, vocab_size=1000, mask_rate=0.8, random_rate=0.1,
      units=units))
  fate = np.where(noisy == 0, 0, np.where(noisy == 50, 2, 1)).reshape(-1, 3)
  mixed = (fate != fate[:, :1]).any(axis=1)
  assert mixed.mean() < 0.001  # only where a random token is the original
  assert oracle.chi_square(np.bincount(fate[~mixed, 0]), [0.8, 0.1, 0.1]) > 1e-4
  random = noisy.reshape(-1, 3)[fate[:, 0] == 1]
  assert (random[:, 0] == random[:, 1]).mean() < 0.02
