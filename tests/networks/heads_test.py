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
