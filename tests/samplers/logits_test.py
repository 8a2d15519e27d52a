"""Token draws: float32, noise fine enough for rare tokens, filters, confidences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.samplers import logits as logits_lib

import driving
import oracle


def _draw(logits, num_rows, **kwargs):
  positions = jnp.broadcast_to(jnp.arange(logits.shape[1])[None], (num_rows, logits.shape[1]))
  logits = jnp.broadcast_to(logits, (num_rows,) + logits.shape[1:])
  return np.asarray(jax.jit(lambda k, p, x: logits_lib.draw(k, p, x, **kwargs))(
      driving.keys(num_rows), positions, logits))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("is_greedy", [False, True])
def test_coarse_logits_are_refused(dtype, is_greedy):
  with pytest.raises(ValueError, match=f"float32 logits, got {jnp.dtype(dtype).name}"):
    logits_lib.draw(driving.keys(1), jnp.zeros((1, 1), int), jnp.zeros((1, 1, 4), dtype), is_greedy)


def test_draws_follow_the_softmax():
  row = np.array([0.3, -1.0, 2.0, 0.0, -1e30])
  tokens = _draw(jnp.broadcast_to(jnp.asarray(row, jnp.float32), (1, 40, 5)), 500)
  counts = np.bincount(tokens.ravel(), minlength=5)
  assert counts[4] == 0 and tokens.dtype == np.int32
  assert oracle.chi_square(counts[:4], np.exp(row[:4])) > 1e-4


def test_positions_and_rows_are_drawn_independently():
  tokens = _draw(jnp.zeros((1, 2, 3)), 4000)
  counts = np.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9)
  assert oracle.chi_square(counts, np.ones(9)) > 1e-4
  counts = np.bincount(tokens[:-1, 0] * 3 + tokens[1:, 0], minlength=9)
  assert oracle.chi_square(counts, np.ones(9)) > 1e-4


@pytest.mark.slow
def test_a_draw_depends_on_its_key_and_position_not_on_its_place_in_the_window():
  row = jnp.broadcast_to(jnp.linspace(0, 1, 50), (1, 5, 50))
  positions, keys = jnp.array([[9, 4, 30, 2, 7]]), driving.keys(1)
  all_five = logits_lib.draw(keys, positions, row)[0]
  two = logits_lib.draw(keys, positions[:, [4, 1]], row[:, :2])[0]
  np.testing.assert_array_equal(two, all_five[jnp.array([4, 1])])
  assert len(set(np.asarray(all_five).tolist())) > 1
  noise = logits_lib.uniforms(keys, positions)[0]
  np.testing.assert_array_equal(logits_lib.uniforms(keys, positions[:, [4, 1]])[0],
                                noise[jnp.array([4, 1])])


def test_a_greedy_draw_takes_the_likeliest_token():
  logits = jnp.array([[[0.0, 3.0, 1.0], [2.0, -1.0, 1.9]]])
  np.testing.assert_array_equal(_draw(logits, 1, is_greedy=True), [[1, 0]])


@pytest.mark.slow
def test_tokens_too_rare_for_float32_uniforms_are_drawn():
  # 2^16 tokens of probability q = 4e-8 each, beside one that takes the rest. Uniforms
  # on a grid of g = 2^-23 draw them at g / (exp(g / q) - 1), 1 / 6 of their rate
  # (Zheng et al. 2024, arXiv:2409.02908): 0.5 times here instead of 3.2.
  rate, num_rare = 4e-8, 2 ** 16
  logits = jnp.full((1, 1, num_rare + 1), np.log(rate), jnp.float32).at[..., 0].set(
      np.log1p(-rate * num_rare))
  positions = jnp.arange(64)[None]
  draw = jax.jit(lambda keys: jax.lax.map(lambda key: logits_lib.draw(
      key[None], positions, jnp.broadcast_to(logits, (1, 64, num_rare + 1))), keys))
  tokens = np.asarray(draw(driving.keys(19)))
  assert abs(rate * num_rare * tokens.size - 3.2) < 0.1
  assert 2 <= (tokens > 0).sum() <= 8


@pytest.mark.parametrize("top_k,top_p", [(0, 1.0), (3, 1.0), (0, 0.6), (4, 0.8), (99, 1.0)])
def test_filters_keep_the_likeliest_and_leave_their_ratios(top_k, top_p):
  logits = np.random.default_rng(2).normal(size=(6, 5, 8)).astype(np.float32) * 2
  found = np.asarray(jax.nn.softmax(logits_lib.keep_likely(jnp.asarray(logits), top_k, top_p)))
  for row, kept in zip(logits.reshape(-1, 8), found.reshape(-1, 8)):
    probs = np.exp(row - np.logaddexp.reduce(row))
    order = np.argsort(-probs)[:top_k or 8]
    renormalized = probs[order] / probs[order].sum()
    num = 1 + int((np.cumsum(renormalized) < top_p).sum()) if top_p < 1 else len(order)
    expected = np.zeros(8)
    expected[order[:num]] = probs[order[:num]] / probs[order[:num]].sum()
    np.testing.assert_allclose(kept, expected, atol=1e-6)


@pytest.mark.slow
def test_confidences_are_probability_margin_negative_entropy_and_a_uniform():
  logits = np.random.default_rng(2).normal(size=(3, 4, 6)).astype(np.float32)
  tokens = np.random.default_rng(3).integers(0, 6, (3, 4))
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  ranked = -np.sort(-probs, axis=-1)
  expected = {"probability": np.take_along_axis(probs, tokens[..., None], -1)[..., 0],
              "margin": ranked[..., 0] - ranked[..., 1],
              "entropy": (probs * np.log(probs)).sum(-1)}
  positions = jnp.broadcast_to(jnp.arange(4)[None], (3, 4))
  find = lambda kind: np.asarray(logits_lib.confidence(
      kind, jnp.asarray(logits), jnp.asarray(tokens), driving.keys(3), positions))
  for kind, values in expected.items():
    np.testing.assert_allclose(find(kind), values, rtol=1e-5, atol=1e-6)
  noise = find("random")
  assert len(np.unique(noise)) == 12 and 0 <= noise.min() and noise.max() < 1
  assert set(expected) | {"random"} == set(logits_lib.CONFIDENCES)


def test_the_entropy_of_blocked_columns_is_finite():
  logits = jnp.array([[0.0, 0.0, -1e30], [0.0, -1e30, -1e30]])
  np.testing.assert_allclose(logits_lib.entropy(logits), [np.log(2), 0], atol=1e-6)


@pytest.mark.parametrize("size", [5, 128, 256, 300])
def test_greedy_tokens_are_the_first_of_the_largest_logits(size):
  logits = np.random.default_rng(0).integers(0, 9, (3, 50, size)).astype(np.float32)
  logits[0, 0], logits[0, 1, :-1] = -1e30, -1e30  # all alike; the last alone
  logits[0, 2] = np.nan
  tokens = logits_lib.draw(driving.keys(3), jnp.zeros((3, 50), int), jnp.asarray(logits), True)
  np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))
