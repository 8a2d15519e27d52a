"""Keys: one for each (seed, name, step, example), the same in every process."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.utils import rng


def _bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_streams_differ_by_seed_name_and_step():
  keys = {_bits(rng.stream(rng.root(seed), name, step))
          for seed in (0, 1) for name in ("mask", "time", "init") for step in (None, 0, 1, 2 ** 30)}
  assert len(keys) == 2 * 3 * 4


def test_a_stream_is_its_names_checksum_folded_in():
  # Python's hash() would differ from process to process.
  key = jax.random.fold_in(jax.random.fold_in(rng.root(7), zlib.crc32(b"mask")), 5)
  assert _bits(rng.stream(rng.root(7), "mask", 5)) == _bits(key)


def test_a_traced_step_gives_the_key_of_a_plain_one():
  traced = jax.jit(lambda step: rng.stream(rng.root(0), "mask", step))(jnp.int32(9))
  assert _bits(traced) == _bits(rng.stream(rng.root(0), "mask", 9))


def test_one_key_may_serve_many_streams():
  key = rng.root(0)
  draws = [float(jax.random.uniform(rng.stream(key, name))) for name in ("a", "b", "c")]
  assert len(set(draws)) == 3  # jax_debug_key_reuse is on: folding does not consume


def test_examples_get_keys_of_their_own_by_index_and_not_by_place():
  index = jnp.array([0, 5, 2 ** 31 - 1, 5], jnp.int32)
  keys = jax.random.key_data(rng.per_example(rng.root(3), index))
  assert len(np.unique(keys, axis=0)) == 3
  np.testing.assert_array_equal(keys[1], keys[3])
  for i in range(3):
    alone = jax.random.key_data(rng.per_example(rng.root(3), index[i:i + 1]))
    np.testing.assert_array_equal(alone[0], keys[i])


@pytest.mark.slow
def test_the_index_of_a_row_tells_rows_apart_by_tokens_and_their_order():
  rows = np.random.default_rng(0).integers(0, 3, (20000, 12)).astype(np.int32)
  rows = np.unique(rows, axis=0)
  index = np.asarray(rng.content_index(jnp.asarray(rows)))
  assert index.dtype == np.uint32 and len(np.unique(index)) > len(rows) - 5
  np.testing.assert_array_equal(rng.content_index(jnp.asarray(rows[5:9])), index[5:9])
