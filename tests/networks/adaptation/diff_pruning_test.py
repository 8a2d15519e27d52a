"""Diff pruning: gates that close and open exactly, their expected number, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks.adaptation import diff_pruning

ONE = diff_pruning.DiffPruning(penalty_scale=2.0)


def test_gates_open_and_close_exactly_and_as_often_as_the_penalty_says():
  logits = jnp.array([[-2.0, -0.5, 0.0, 0.5, 2.0]])
  own = {"gate_logits": logits, "diff": jnp.ones((1, 5))}
  draw = jax.jit(jax.vmap(lambda key: ONE.kernel(own, jnp.zeros((1, 5)), key)))
  gates = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))[:, 0]
  share = np.asarray(jax.nn.sigmoid(logits))[0]  # -l = r, so that the shift is 0
  np.testing.assert_allclose((gates > 0).mean(axis=0), share, atol=0.015)
  assert ((gates == 0).mean(axis=0) > 0.1).all() and ((gates == 1).any(axis=0)).all()
  stacked = jax.tree.map(lambda x: x[None], own)
  np.testing.assert_allclose(ONE.penalty(stacked, jnp.zeros((1, 1, 5))), [2 * share.sum()], rtol=1e-5)
  lopsided = diff_pruning.DiffPruning(low=-0.1, high=1.1)
  drawn = jax.vmap(lambda key: lopsided.kernel(own, jnp.zeros((1, 5)), key))(
      jax.random.split(jax.random.key(1), 20_000))
  number = float(lopsided.penalty(stacked, jnp.zeros((1, 1, 5)))[0]) / lopsided.penalty_scale
  np.testing.assert_allclose((np.asarray(drawn) > 0).mean(axis=0).sum(), number, atol=0.03)


def test_without_a_draw_closed_gates_leave_the_weight_as_it_is():
  own = {"gate_logits": jnp.array([[-3.0, 0.0, 3.0]]), "diff": jnp.full((1, 3), 5.0)}
  np.testing.assert_allclose(ONE.merged(own, jnp.ones((1, 3))), [[1.0, 1.0, 6.0]], atol=1e-6)


def test_bounds_that_never_close_are_refused():
  with pytest.raises(ValueError, match="low 0.1 and high 1.1 must lie below 0 and above 1"):
    diff_pruning.DiffPruning(low=0.1, high=1.1)
