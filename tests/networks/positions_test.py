"""Rotary positions: products depend on the distance alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import positions

HEAD = 8
_DRAW = np.random.default_rng(0)


def _rotated(x, at, **options):
  return np.asarray(positions.rotate(x, *positions.rope_tables(at, HEAD, 100.0, **options)))


@pytest.mark.parametrize("scaling", [(), ("linear", 4.0), ("llama3", 8.0, 1.0, 4.0, 64.0)])
def test_the_product_of_two_heads_depends_on_their_distance_alone(scaling):
  query, key = (jnp.asarray(_DRAW.normal(size=(1, 1, 1, HEAD)), jnp.float32) for _ in range(2))
  product = lambda i, j: (_rotated(query, jnp.array([[i]]), scaling=scaling)
                          * _rotated(key, jnp.array([[j]]), scaling=scaling)).sum()
  np.testing.assert_allclose(product(9, 2), product(107, 100), rtol=1e-4)
  assert abs(product(9, 2) - product(9, 5)) > 1e-3


def test_a_linear_scaling_slows_all_angles_and_llama3_the_slow_ones_alone():
  at = jnp.array([[4]])
  plain = np.asarray(positions.rope_tables(at, HEAD, 100.0)[0]).ravel()
  np.testing.assert_allclose(
      np.ravel(positions.rope_tables(4 * at, HEAD, 100.0, ("linear", 4.0))[0]), plain, rtol=1e-5)
  scaled = np.ravel(positions.rope_tables(at, HEAD, 100.0, ("llama3", 8.0, 1.0, 4.0, 64.0))[0])
  # Frequencies 1, 100^-1/4, 0.1, 100^-3/4 turn 10.2, 3.2, 1.02 and 0.32 times over 64 positions.
  assert scaled[0] == plain[0]
  np.testing.assert_allclose(scaled[3], np.cos(4 * 100 ** -0.75 / 8), rtol=1e-6)


def test_yarn_keeps_fast_angles_slows_slow_ones_and_scales_the_product():
  at, scaling = jnp.array([[4]]), ("yarn", 8.0, 64.0, 4.0, 1.0, 1.5)
  plain = np.asarray(positions.rope_tables(at, HEAD, 100.0)[0]).ravel()
  scaled = np.ravel(positions.rope_tables(at, HEAD, 100.0, scaling)[0])
  np.testing.assert_allclose(scaled[0], 1.5 * plain[0], rtol=1e-6)
  np.testing.assert_allclose(scaled[3], 1.5 * np.cos(4 * 100 ** -0.75 / 8), rtol=1e-6)
  # From index 0 (0.8: four turns over 64 positions) to 3 (2.02: one): two thirds are kept at 1.
  np.testing.assert_allclose(scaled[1], 1.5 * np.cos(4 * 100 ** -0.25 * (2 + 1 / 8) / 3), rtol=1e-6)


def test_what_lies_beyond_the_tables_is_not_rotated():
  x = jnp.asarray(_DRAW.normal(size=(1, 1, 1, 2 * HEAD)), jnp.float32)
  tables = positions.rope_tables(jnp.array([[3]]), HEAD, 100.0)
  out = positions.rotate(x, *tables)
  np.testing.assert_array_equal(out[..., HEAD:], x[..., HEAD:])
  np.testing.assert_array_equal(out[..., :HEAD], positions.rotate(x[..., :HEAD], *tables))


@pytest.mark.slow
def test_bfloat16_keeps_its_type_and_position_zero_is_the_identity():
  x = jnp.asarray(_DRAW.normal(size=(1, 1, 2, HEAD)), jnp.bfloat16)
  out = positions.rotate(x, *positions.rope_tables(jnp.array([[0]]), HEAD, 100.0))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out, x)


def test_longrope_divides_by_the_factors_that_the_length_of_each_document_asks_for():
  scaling = ("longrope", 3.0, 1.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
  at = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4]])
  segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
  is_long = positions.is_long(at, segments, scaling)
  np.testing.assert_array_equal(is_long[0, :7], [False] * 3 + [True] * 4)
  cos, sin = (np.asarray(x)[0, :, 0] for x in positions.rope_tables(at, HEAD, 100.0, scaling, is_long))
  frequency = 100.0 ** (-np.arange(4) / 4)
  for i, factors in ((2, [1, 2, 3, 4]), (5, [5, 6, 7, 8])):
    np.testing.assert_allclose(cos[i, :4], 1.5 * np.cos(2 * frequency / factors), rtol=1e-5)
    np.testing.assert_allclose(sin[i, 4:], 1.5 * np.sin(2 * frequency / factors), rtol=1e-5)
  np.testing.assert_array_equal(positions.is_long(at, None, scaling), np.ones((1, 8), bool))
  assert not positions.is_long(at[:, :3], None, scaling).any()
  assert positions.is_long(at, segments, ("linear", 2.0)) is None


@pytest.mark.parametrize("scaling", [
    ("linear",), ("linear", 0.0), ("yarn", 2.0), ("llama3", 8.0), ("ntk", 2.0),
    ("longrope", 4.0, 1.0, 1.0, 2.0), ("longrope", 4.0, 1.0, *[1.0] * 7, "2")])
def test_a_scaling_that_is_none_is_refused(scaling):
  with pytest.raises(ValueError, match="network.rope_scaling is .*; expected"):
    positions.check_scaling(scaling, HEAD)
