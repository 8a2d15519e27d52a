"""Moving hidden states: none at rate 0, the first step by finite differences, no leak."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import hidden_states
from mdx.networks import transformer
from mdx.utils import rng

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
TOKENS = jnp.array([[0, 1, 2, 3, 1, 0], [3, 2, 0, 1, 0, 0]])
REAL = jnp.array([[1] * 6, [1] * 4 + [0] * 2], bool)
ROWS = {"tokens": TOKENS, "loss_mask": REAL, "segment_ids": REAL.astype(jnp.int32),
        "positions": jnp.arange(6)[None] * REAL, "example_index": jnp.arange(2)}
RATE = 0.02


@pytest.fixture(name="model", scope="module")
def _model():
  network = transformer.Transformer(num_layers=2, width=8, num_heads=2, mlp_width=8, vocab_size=7,
                                    max_length=8, init_std=0.5).network()
  objective = objectives.build(dict(name="ar"), network, TOKENIZER)
  params = jax.jit(objective.init)(rng.root(0))
  read = jax.jit(lambda rows, rate: hidden_states.losses(
      objective, params, rows, window=2, adam=hidden_states.Adam(rate)))
  return objective, params, read


def test_states_that_stay_are_the_plain_model_and_moved_ones_know_nothing_ahead(model):
  objective, params, read = model
  plain = jax.jit(lambda: objective(params, ROWS, types.context(0))[1].rows["nll"])()
  np.testing.assert_allclose(read(ROWS, 0.0).sum(axis=1), plain, rtol=1e-5)
  moved, base = read(ROWS, RATE), read(ROWS, 0.0)
  np.testing.assert_allclose(moved[:, :2], base[:, :2], atol=1e-6)
  assert np.abs(moved - base)[0, 2:].min() > 1e-4 and (moved[~REAL] == 0).all()
  ahead = read(ROWS | {"tokens": TOKENS.at[0, 3].set(0)}, RATE)
  np.testing.assert_array_equal(moved[0, :3], ahead[0, :3])
  assert np.abs(moved - ahead)[0, 3:].min() > 1e-5
  np.testing.assert_array_equal(moved[1], ahead[1])


def test_the_first_step_of_every_state_is_the_rate_down_the_gradient_of_a_second_reading(model):
  objective, params, _ = model
  step = jax.jit(functools.partial(hidden_states.step, objective, window=2,
                                   adam=hidden_states.Adam(RATE)))
  stay = jax.jit(functools.partial(hidden_states.step, objective, window=2,
                                   adam=hidden_states.Adam(0.0)))
  start = hidden_states.begin(objective, params, ROWS, 2)
  before, nats = stay(params, ROWS, start, jnp.int32(0))
  after, again = step(params, ROWS, start, jnp.int32(0))
  np.testing.assert_array_equal(nats, again)
  key, value = (np.array(b - a) for a, b in zip(before.values, after.values))
  read = ~np.isclose(value[:, :, :2], 0)
  np.testing.assert_allclose(np.abs(value[:, :, :2][read]), RATE, rtol=1e-3)
  assert read.all() and (key[:, :, 2:] == 0).all() and (value[:, :, 2:] == 0).all()

  def second(values):  # the same window again, as windows behind it read it: at slots of its own
    inputs = types.Inputs(jnp.concatenate([jnp.full((2, 1), 6), TOKENS[:, :1]], axis=1),
                          jnp.array([[0, 1, 2, 3, 4, 5, 0, 1]]))
    hidden = objective.network.encode(
        params["model"], inputs, attention=hidden_states.Behind(6), cache=values,
        slots=jnp.broadcast_to(jnp.array([6, 7]), (2, 2))).last
    logits = objective.network.head(params["model"], hidden, "lm").at[..., 6].set(-1e30)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, :2, None], 2)[..., 0]

  second = jax.jit(second)
  np.testing.assert_allclose(second(before.values), nats, atol=1e-5)
  for layer, slot, head, column in ((0, 0, 0, 1), (0, 1, 1, 2), (1, 0, 0, 3), (1, 1, 1, 0)):
    moved = lambda by: (before.values[0], before.values[1].at[layer, 0, slot, head, column].add(by))
    slope = (second(moved(0.05)) - second(moved(-0.05))).sum()
    assert np.sign(slope) == -np.sign(value[layer, 0, slot, head, column])
  assert second(after.values).sum() < nats.sum()
