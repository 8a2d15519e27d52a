"""Token draws: float32, and noise fine enough for rare tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.samplers import logits as logits_lib
from mdx.utils import rng

import oracle


def _keys(num_rows):
  return rng.per_example(rng.root(0), jnp.arange(num_rows))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_coarse_logits_are_refused(dtype, temperature):
  with pytest.raises(ValueError, match=f"float32 logits, got {jnp.dtype(dtype).name}"):
    logits_lib.draw(_keys(1), jnp.zeros((1, 1, 4), dtype), temperature)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_follow_the_softmax_at_a_temperature(temperature):
  row = np.array([0.3, -1.0, 2.0, 0.0, -1e30])
  logits = jnp.broadcast_to(jnp.asarray(row, jnp.float32), (500, 40, 5))
  tokens = np.asarray(logits_lib.draw(_keys(500), logits, temperature))
  probs = np.exp(row[:4] / temperature)
  counts = np.bincount(tokens.ravel(), minlength=5)
  assert counts[4] == 0 and tokens.dtype == np.int32
  assert oracle.chi_square(counts[:4], probs) > 1e-4


def test_positions_and_rows_are_drawn_independently():
  tokens = np.asarray(logits_lib.draw(_keys(4000), jnp.zeros((4000, 2, 3))))
  counts = np.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9)
  assert oracle.chi_square(counts, np.ones(9)) > 1e-4
  counts = np.bincount(tokens[:-1, 0] * 3 + tokens[1:, 0], minlength=9)
  assert oracle.chi_square(counts, np.ones(9)) > 1e-4


def test_temperature_zero_takes_the_likeliest_token():
  logits = jnp.array([[[0.0, 3.0, 1.0], [2.0, -1.0, 1.9]]])
  np.testing.assert_array_equal(logits_lib.draw(_keys(1), logits, 0.0), [[1, 0]])


def test_tokens_too_rare_for_float32_uniforms_are_drawn():
  # 2^16 tokens of probability q = 2e-8 each, beside one that takes the rest. Uniforms
  # on a grid of g = 2^-23 draw them at g / (exp(g / q) - 1), 1 / 65 of their rate
  # (Zheng et al. 2024, arXiv:2409.02908): 0.05 times here instead of 3.2.
  rate, num_rare = 2e-8, 2 ** 16
  logits = jnp.full((1, 1, num_rare + 1), np.log(rate), jnp.float32).at[..., 0].set(
      np.log1p(-rate * num_rare))
  draw = jax.jit(lambda keys: jax.lax.map(
      lambda key: logits_lib.draw(key[None], jnp.broadcast_to(logits, (1, 64, num_rare + 1))),
      keys))
  tokens = np.asarray(draw(_keys(38)))
  assert abs(rate * num_rare * tokens.size - 3.2) < 0.1
  assert 2 <= (tokens > 0).sum() <= 8
