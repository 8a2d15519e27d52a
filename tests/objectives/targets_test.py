"""Cross-entropy at targets: exact for every mask, whatever capacity was reserved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.objectives import targets as targets_lib

import tiny

BATCH, LENGTH, WIDTH, VOCAB, BLOCKED = 16, 48, 6, 11, 3
_draw = np.random.default_rng(0)
HIDDEN = jnp.asarray(_draw.normal(size=(BATCH, LENGTH, WIDTH)), jnp.float32)
KERNEL = jnp.asarray(_draw.normal(size=(WIDTH, VOCAB)), jnp.float32)
TARGETS = jnp.asarray(_draw.choice(np.delete(np.arange(VOCAB), BLOCKED), (BATCH, LENGTH)))


def _mask(density, seed=1):
  return jnp.asarray(np.random.default_rng(seed).random((BATCH, LENGTH)) < density)


def _dense(kernel, hidden, is_target, blocked):
  logits = hidden @ kernel
  keep = np.arange(VOCAB) != (-1 if blocked is None else blocked)
  log_normalizer = jax.nn.logsumexp(jnp.where(keep[None, None], logits, -jnp.inf), axis=-1)
  picked = jnp.take_along_axis(logits, TARGETS[..., None], axis=-1)[..., 0]
  return jnp.where(is_target, log_normalizer - picked, 0.0)


def _network(seen=None, chunk=0):
  def head(params, hidden, name):
    assert name == "lm"
    if seen is not None:
      seen.append(int(np.prod(hidden.shape[:-1])))
    return hidden @ params
  return types.Network(lambda key: None, lambda *a, **k: None, head, VOCAB, head_chunk=chunk)


@functools.partial(jax.jit, static_argnames=("rate", "blocked", "chunk"))
def _found(kernel, hidden, is_target, weight, rate, blocked, chunk=0):
  def total(kernel, hidden):
    losses = targets_lib.target_losses(_network(chunk=chunk), kernel, hidden, TARGETS, is_target, rate=rate,
                                       blocked=blocked)
    return (losses * weight).sum(), losses
  (_, losses), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(kernel, hidden)
  return losses, gradients


@pytest.mark.parametrize("blocked", [None, BLOCKED])
@pytest.mark.parametrize("rate", tiny.first([0.05, 0.15, 0.5, 1.0], 2))
def test_losses_and_gradients_are_dense_ones_at_every_density(rate, blocked):
  weight = jnp.asarray(np.random.default_rng(2).random((BATCH, LENGTH)), jnp.float32)
  for density in (0.0, 0.02, 0.15, 0.5, 0.9, 1.0):
    is_target = _mask(density)
    losses, gradients = _found(KERNEL, HIDDEN, is_target, weight, rate, blocked)
    wanted = _dense(KERNEL, HIDDEN, is_target, blocked)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(losses)[~np.asarray(is_target)] == 0)
    wanted = jax.grad(lambda k, h: (_dense(k, h, is_target, blocked) * weight).sum(), (0, 1))(
        KERNEL, HIDDEN)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradients,
                 wanted)


@pytest.mark.parametrize("rate, chunk", [(0.15, 50), (1.0, 7), (1.0, 10_000)])
def test_chunks_of_the_head_change_nothing_but_its_memory(rate, chunk):
  weight = jnp.ones((BATCH, LENGTH))
  for density in (0.02, 0.5):
    whole = _found(KERNEL, HIDDEN, _mask(density), weight, rate, BLOCKED)
    cut = _found(KERNEL, HIDDEN, _mask(density), weight, rate, BLOCKED, chunk)
    np.testing.assert_allclose(cut[0], whole[0], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
                 cut[1], whole[1])
  seen = []
  jax.eval_shape(lambda kernel: targets_lib.target_losses(
      _network(seen, chunk), kernel, HIDDEN, TARGETS, _mask(0.5), rate=rate), KERNEL)
  assert seen and max(seen) <= min(chunk, BATCH * LENGTH)


def test_overflow_of_one_row_is_counted_once():
  # All targets in the last rows: those behind the reserved positions come from the second pass.
  is_target = jnp.arange(BATCH)[:, None] >= jnp.full((1, LENGTH), BATCH - 8)
  losses, _ = _found(KERNEL, HIDDEN, is_target, jnp.ones((BATCH, LENGTH)), 0.15, BLOCKED)
  np.testing.assert_allclose(losses, _dense(KERNEL, HIDDEN, is_target, BLOCKED), rtol=1e-5,
                             atol=1e-6)


def _reserved(rate):
  """Positions of the head's first pass; the second runs where they do not suffice."""
  seen = []
  jax.eval_shape(lambda hidden: targets_lib.target_losses(
      _network(seen), KERNEL, hidden, TARGETS, _mask(0.1), rate=rate), HIDDEN)
  return seen[0]


def test_the_head_runs_on_a_share_of_the_positions():
  assert _reserved(0.15) < 0.3 * BATCH * LENGTH
  assert _reserved(1.0) == BATCH * LENGTH


def test_capacity_holds_bernoulli_draws_nearly_always():
  counts = np.random.default_rng(3).binomial(BATCH * LENGTH, 0.15, 100000)
  assert np.mean(counts > _reserved(0.15)) < 1e-3


def test_a_blocked_id_has_probability_zero():
  targets = jnp.full((BATCH, LENGTH), BLOCKED)
  losses = targets_lib.target_losses(_network(), KERNEL, HIDDEN, targets, _mask(1.0),
                                     blocked=BLOCKED)
  assert np.all(np.exp(-np.asarray(losses)) == 0) and np.all(np.isfinite(losses))


def test_gradients_stay_finite_where_a_position_that_is_no_target_holds_the_blocked_id():
  targets = jnp.where(_mask(0.5), TARGETS, BLOCKED)
  loss = lambda kernel: targets_lib.target_losses(
      _network(), kernel, HIDDEN, targets, _mask(0.5), rate=0.15, blocked=BLOCKED).sum()
  assert np.all(np.isfinite(jax.jit(jax.grad(loss))(KERNEL)))


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_eight_devices_give_the_losses_of_one(density):
  is_target = _mask(density)
  weight = jnp.ones((BATCH, LENGTH))
  one, _ = _found(KERNEL, HIDDEN, is_target, weight, 0.15, BLOCKED)
  mesh = sharding.make_mesh({"data": 4, "tensor": 2})
  jax.set_mesh(mesh)
  placed = sharding.place_batch({"h": np.asarray(HIDDEN), "m": np.asarray(is_target)}, mesh)
  four, _ = jax.jit(lambda h, m: _found.__wrapped__(
      np.asarray(KERNEL), h, m, np.ones((BATCH, LENGTH), np.float32), 0.15, BLOCKED))(
          placed["h"], placed["m"])
  np.testing.assert_allclose(one, four, rtol=1e-5, atol=1e-6)
