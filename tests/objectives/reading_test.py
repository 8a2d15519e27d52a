"""Reading a model in a loop: the head of some targets, and the layout for many calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng

NETWORK = transformer.Transformer(num_layers=2, width=8, num_heads=2, vocab_size=7, max_length=16,
                                  vocab_multiple=1, scan_layers=False, init_std=1.0).network()
PARAMS = NETWORK.init(rng.root(0))
TOKENS = jnp.array([[6, 1, 6, 6, 2, 6, 6, 6, 0], [0, 1, 6, 6, 2, 6, 3, 6, 6]])
TARGETS = jnp.array([[0, 2, 3, 5, 6, 9, 9, 9, 9], [2, 3, 5, 9, 9, 9, 9, 9, 9]])


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3, 5, 9])
def test_the_first_targets_are_read_whatever_the_size_of_the_head(count):
  ask = lambda count: reading.logits_at(
      NETWORK, PARAMS, types.Request(TOKENS, None, targets=TARGETS, num_targets=count),
      tokens=TOKENS, attention=attention.Full(), time=None, blocked=6).logits
  some, every = jax.jit(ask)(jnp.int32(count)), ask(None)
  assert some.shape == every.shape == (2, 9, 7)
  np.testing.assert_allclose(some[:, :count], every[:, :count], atol=1e-5)
  assert np.all(some[..., 6] == -1e30)


def test_the_head_is_run_on_few_more_targets_than_there_are():
  ask = lambda count: reading.logits_at(
      NETWORK, PARAMS, types.Request(TOKENS, None, targets=TARGETS, num_targets=count),
      tokens=TOKENS, attention=attention.Full(), time=None, blocked=None).logits
  run = np.any(np.asarray(jax.jit(ask)(jnp.int32(4))) != 0, axis=-1)
  np.testing.assert_array_equal(run, np.arange(9)[None].repeat(2, 0) < 5)


@pytest.mark.slow
def test_reader_asks_the_objective_with_the_same_weights():
  objective = diffusion.MaskedDiffusion(network=NETWORK, mask_id=6)
  request = types.Request(TOKENS, jnp.ones(2), targets=TARGETS, cache=())
  logits, _, cache, *_ = reading.answerer(objective, {"model": PARAMS})(request)
  expected, _, stacked, *_ = objective.answer({"model": PARAMS}, request)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  np.testing.assert_allclose(jnp.stack([keys for keys, _ in cache]), stacked[0], atol=1e-5)


@pytest.mark.slow
def test_previous_positions_step_over_padding_within_a_document_alone():
  segments = np.array([[0, 1, 1, 0, 0, 1, 0], [1, 2, 2, 0, 3, 3, 0], [1, 1, 0, 2, 0, 2, 2]])

  def brute(row, i):
    earlier = [j for j in range(i) if row[j] != 0]
    if row[i] == 0:
      return (i, True) if i == 0 or row[i - 1] != 0 else (i - 1, False)
    return (earlier[-1], False) if earlier and row[earlier[-1]] == row[i] else (i, True)

  before, starts = reading.previous_positions(jnp.asarray(segments), segments.shape)
  expected = [[brute(row, i) for i in range(7)] for row in segments]
  np.testing.assert_array_equal(np.stack([before, starts], axis=-1), expected)
  before, starts = reading.previous_positions(None, (1, 4))
  assert before.tolist() == [[0, 0, 1, 2]] and starts.tolist() == [[True, False, False, False]]


@pytest.mark.slow
def test_a_shifted_model_reads_the_same_over_padding():
  dense = jnp.array([[1, 2, 3, 4, 5, 1]])
  real = np.array([[0, 1, 1, 0, 1, 1, 0, 0, 1, 1]], bool)
  apart = np.zeros(real.shape, np.int32)
  apart[real] = dense[0]
  ask = lambda tokens, **more: reading.logits_at(
      NETWORK, PARAMS, types.Request(jnp.asarray(tokens), None, **more), tokens=jnp.asarray(tokens),
      attention=attention.Full(), time=None, blocked=None, shift=True)
  found = ask(apart, segment_ids=jnp.asarray(real, jnp.int32),
              positions=jnp.asarray(np.where(real, np.cumsum(real, axis=1) - 1, 0)))
  wanted = ask(dense)
  np.testing.assert_allclose(found.logits[real], wanted.logits[0], atol=1e-5)
  np.testing.assert_allclose(found[3][real], wanted[3][0], atol=1e-5)
