"""Blocked ids have probability 0, losses are those of the definition, bfloat16 is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import heads


def _logits():
  return jnp.asarray(3 * np.random.default_rng(0).normal(size=(2, 3, 7)), jnp.float32)


def test_blocked_ids_get_probability_0_and_the_others_share_the_rest():
  probs = np.exp(heads.log_probs(_logits(), 0, None, 6))
  assert (probs[..., [0, 6]] == 0).all()
  kept = np.exp(np.asarray(_logits(), np.float64))[..., 1:6]
  np.testing.assert_allclose(probs[..., 1:6], kept / kept.sum(-1, keepdims=True),
                             rtol=1e-5)


def test_cross_entropy_is_minus_the_log_probability_of_the_target():
  targets = jnp.asarray([[0, 6, 2], [3, 3, 1]])
  logits = np.asarray(_logits(), np.float64)
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(probs, np.asarray(targets)[..., None], -1))[..., 0]
  np.testing.assert_allclose(heads.cross_entropy(_logits(), targets), expected, rtol=1e-5)


def test_a_blocked_column_gets_no_gradient():
  grad = jax.grad(lambda x: heads.cross_entropy(
      heads.block_columns(x, 4), jnp.zeros((2, 3), jnp.int32)).sum())(_logits())
  assert (grad[..., 4] == 0).all() and np.isfinite(grad).all()


@pytest.mark.parametrize("use", [
    lambda x: heads.block_columns(x, 0), lambda x: heads.log_probs(x),
    lambda x: heads.cross_entropy(x, jnp.zeros((2, 3), jnp.int32))])
def test_bfloat16_logits_are_refused(use):
  with pytest.raises(ValueError, match="expected float32 logits, got bfloat16"):
    use(_logits().astype(jnp.bfloat16))


def test_samples_are_the_inverse_of_the_distribution_function():
  logits = heads.block_columns(_logits(), 4, 6)[0, 0]
  probs = np.asarray(jax.nn.softmax(logits), np.float64)
  uniform = np.linspace(0, 1, 20_000, endpoint=False, dtype=np.float32)
  drawn = heads.sample(jnp.broadcast_to(logits, (20_000, 7)), jnp.asarray(uniform))
  assert (np.diff(drawn) >= 0).all()  # ids in their order
  np.testing.assert_allclose(np.bincount(drawn, minlength=7) / 20_000, probs, atol=2e-4)
  assert not np.isin(drawn, [4, 6]).any()


def test_no_id_of_probability_0_is_drawn_at_either_end():
  ends = jnp.array([0.0, 1 - 2.0 ** -24, 1 - 2.0 ** -12])
  logits = jnp.where((jnp.arange(30_000) > 10) & (jnp.arange(30_000) < 29_000),
                     jnp.asarray(np.random.default_rng(0).normal(size=30_000), jnp.float32), -1e30)
  drawn = np.asarray(heads.sample(jnp.broadcast_to(logits, (3, 30_000)), ends))
  assert drawn[0] == 11 and (drawn[1:] < 29_000).all() and (drawn[1:] > 28_000).all()


def test_binary_cross_entropy_is_minus_the_log_probability_of_the_label():
  scores = jnp.array([-3.0, 0.0, 2.0, 40.0])
  prob = 1 / (1 + np.exp(-np.asarray(scores, np.float64)))
  np.testing.assert_allclose(heads.binary_cross_entropy(scores, jnp.ones(4, bool)),
                             -np.log(prob), rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(heads.binary_cross_entropy(scores, jnp.zeros(4, bool))[:3],
                             -np.log(1 - prob[:3]), rtol=1e-5)
