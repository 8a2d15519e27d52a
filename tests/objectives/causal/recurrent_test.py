"""Recurrent windows: by hand, without memory, what the gradient reaches, and memory of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import objectives
from mdx import types
from mdx.build import setup as setup_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval.evaluators import contexts
from mdx.networks import transformer
from mdx.utils import rng

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
TOKENS = jnp.array([[0, 1, 2, 3, 1, 0, 2, 1], [3, 2, 0, 1, 1, 0, 0, 0]])
REAL = jnp.array([[1] * 8, [1] * 6 + [0] * 2], bool)
ROWS = {"tokens": TOKENS, "loss_mask": REAL, "segment_ids": REAL.astype(jnp.int32),
        "positions": jnp.arange(8)[None] * REAL, "example_index": jnp.arange(2)}


def _build(window=4, max_length=8, **fields):
  network = transformer.Transformer(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=7,
                                    max_length=max_length, init_std=0.5).network()
  return objectives.build(dict(name="recurrent", window=window, **fields), network, TOKENIZER)


@pytest.fixture(name="model", scope="module")
def _model():
  objective = _build(num_slots=2)
  params = jax.jit(objective.init)(rng.root(0))
  params["memory"]["out"]["kernel"] *= 10
  params["memory"]["first"] += 0.3
  return objective, params


def test_windows_in_a_scan_are_windows_one_by_one_and_without_slots_rows_of_their_own(model):
  objective, params = model
  plain = dataclasses.replace(objective, num_slots=0)
  causal = objectives.build(dict(name="ar"), objective.network, TOKENIZER)

  def by_hand(params):
    memory = jnp.broadcast_to(params["memory"]["first"], (2, 2, 8))
    previous = jnp.concatenate([jnp.full((2, 1), 6), TOKENS[:, :-1]], axis=1)
    nats = []
    for i in (0, 4):
      hidden, memory = objective.read_window(params, memory, previous[:, i:i + 4], REAL[:, i:i + 4])
      logits = objective.network.head(params["model"], hidden, "lm").at[..., 6].set(-1e30)
      log_probs = jax.nn.log_softmax(logits)
      nats.append(-jnp.take_along_axis(log_probs, TOKENS[:, i:i + 4, None], 2)[..., 0])
    return jnp.where(REAL, jnp.concatenate(nats, axis=1), 0)

  def alone(params):
    rows = {"tokens": TOKENS.reshape(4, 4), "loss_mask": REAL.reshape(4, 4),
            "before": jnp.array([6, 3, 6, 1])}
    return causal(params, rows, types.context(0))[0]["nll"]

  found, wanted, apart, rows = jax.jit(lambda p: (
      objective.losses(p, ROWS)[0], by_hand(p), plain.losses(p, ROWS)[0], alone(p)))(params)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert apart.sum() == pytest.approx(float(rows), rel=1e-5)
  assert np.abs(found - apart)[:, 4:].max() > 1e-3


@pytest.mark.slow
def test_a_later_window_reaches_the_first_one_by_memory_alone_and_reads_nothing_ahead(model):
  objective, params = model
  changed = ROWS | {"tokens": TOKENS.at[0, 5].set(3)}
  other = ROWS | {"tokens": TOKENS.at[0, 0].set(3)}
  plain = dataclasses.replace(objective, num_slots=0)
  run = jax.jit(lambda: [[one.losses(params, rows)[0] for rows in (ROWS, changed, other)]
                         for one in (objective, plain)])
  (own, ahead, begun), (apart, _, apart_begun) = run()
  np.testing.assert_array_equal(own[0, :5], ahead[0, :5])
  assert (np.abs(own - begun)[0, 4:] > 0).all() and np.array_equal(apart[0, 4:], apart_begun[0, 4:])
  gradient = jax.jit(jax.grad(lambda first: objective.losses(params | {
      "memory": params["memory"] | {"first": first}}, ROWS)[0][0, 6]))(params["memory"]["first"])
  assert (jnp.abs(gradient) > 0).any()


def test_overlapping_windows_score_every_token_once_with_half_a_window_before_it(model):
  objective, params = model
  plain = dataclasses.replace(objective, num_slots=0)

  def wanted(params):
    shifted = {"tokens": TOKENS[:, 2:6], "loss_mask": REAL[:, 2:6], "before": TOKENS[:, 1]}
    return plain.losses(params, ROWS)[0].at[:, 4:6].set(plain.losses(params, shifted)[0][:, 2:])

  found, by_hand = jax.jit(lambda p: (contexts.overlapping(plain, p, ROWS), wanted(p)))(params)
  np.testing.assert_allclose(found, by_hand, atol=1e-5)


@pytest.mark.slow
def test_memory_of_training_is_that_of_a_window():
  def temporaries(length):
    objective = _build(window=16, num_slots=1, max_length=32)
    rows = {"tokens": jnp.zeros((2, length), jnp.int32), "example_index": jnp.arange(2)}
    params = jax.eval_shape(objective.init, rng.root(0))
    step = jax.jit(jax.grad(lambda p: objective(p, rows, types.context(0))[0]["nll"]))
    return step.lower(params).compile().memory_analysis().temp_size_in_bytes

  assert temporaries(1024) < 2 * temporaries(64)


@pytest.mark.parametrize("change, message", [
    (lambda: _build(layer=3), "objective.layer 3 is none of the 1 layers; choose from -1 to 0"),
    (lambda: _build(window=0), "window must be at least 1"),
    (lambda: _build(window=3).check_length(8), "window 3 does not divide data.length 8"),
    (lambda: objectives.complete(dict(objective=dict(name="recurrent"), data={}), None),
     "set data.isolate_documents=False")])
def test_windows_without_meaning_are_one_line(change, message):
  with pytest.raises(ValueError, match=message):
    change()


def test_a_window_longer_than_the_model_is_one_line_and_a_row_may_be_longer(tmp_path):
  setup = lambda most: setup_lib.setup(tiny.config("recurrent", network__max_length=most),
                                       str(tmp_path / "run"))
  assert setup(9).objective.longest(16) == 9
  with pytest.raises(ValueError, match="a window of 9 positions exceeds network.max_length 8; raise "
                                       "it or shorten the windows") as error:
    setup(8)
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
