"""Autoregressive: with the true conditionals the loss is -log p(x)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives.causal import ar
from mdx.utils import rng

import oracle

JOINT = oracle.random_joint()
CONTEXT = types.context(0)
OBJECTIVE = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)


def _rows(batch, objective=OBJECTIVE):
  prepared, weights = objective.prepare({}, batch, rng.root(0), CONTEXT)
  totals, aux = jax.jit(lambda b: objective({"model": {}}, b, CONTEXT))(prepared)
  return totals["nll"], aux, weights["nll"]


def test_the_loss_is_the_nll_of_every_sequence():
  total, aux, weight = _rows(oracle.batch_of(JOINT, JOINT.sequences))
  np.testing.assert_allclose(aux.rows["nll"], JOINT.nll, rtol=1e-5)
  np.testing.assert_allclose(total, JOINT.nll.sum(), rtol=1e-5)
  assert float(weight) == JOINT.sequences.size and total.dtype == jnp.float32
  np.testing.assert_allclose(aux.metrics["nats_per_token"], (total, weight))


def test_unsupervised_tokens_condition_and_are_not_scored():
  batch = oracle.batch_of(JOINT, JOINT.sequences)
  batch["loss_mask"] = jnp.broadcast_to(jnp.array([False, False, True, True]), (81, 4))
  _, aux, weight = _rows(batch)
  prompt = JOINT.probs.reshape(9, 9).sum(axis=1).repeat(9)
  np.testing.assert_allclose(aux.rows["nll"], JOINT.nll + np.log(prompt), rtol=1e-5)
  assert float(weight) == 162 and np.all(aux.rows["count"] == 2)


@pytest.mark.slow
def test_every_document_of_a_row_starts_afresh():
  seen = {}

  def encode(params, inputs, *, attention, time=None, noise=None):
    seen.update(inputs._asdict())
    return JOINT.causal_network().encode(params, inputs, attention=attention)

  network = JOINT.causal_network()._replace(encode=encode)
  objective = ar.AutoRegressive(network=network, mask_id=JOINT.mask_id)
  batch = oracle.batch_of(JOINT, [[0, 2, 3, 2], [3, 3, 0, 0]]) | {
      "segment_ids": jnp.array([[1, 1, 2, 2], [1, 2, 0, 0]]), "positions": jnp.ones((2, 4))}
  objective({"model": {}}, batch, CONTEXT)
  np.testing.assert_array_equal(seen["tokens"], [[1, 0, 1, 3], [1, 1, 1, 0]])
  assert seen["segment_ids"] is batch["segment_ids"] and seen["positions"] is batch["positions"]


def test_denoise_gives_the_causal_conditionals_and_never_the_start_token():
  canvas = jnp.asarray(JOINT.sequences)
  logits = OBJECTIVE.answer({"model": {}}, types.Request(canvas, None)).logits
  probs = np.asarray(jax.nn.softmax(logits, axis=-1))
  for i in range(JOINT.length):
    known = np.where(np.arange(JOINT.length) < i, JOINT.sequences, JOINT.mask_id)
    np.testing.assert_allclose(probs[:, i], JOINT.conditionals(known)[:, i], atol=1e-6)
  assert np.all(probs[..., JOINT.mask_id] == 0) and logits.dtype == jnp.float32


def test_denoise_gives_the_logits_of_the_targets_alone():
  canvas = jnp.asarray(JOINT.sequences)
  whole = OBJECTIVE.answer({"model": {}}, types.Request(canvas, None)).logits
  targets = jnp.asarray(np.random.default_rng(0).integers(0, 4, (81, 2)))
  some = OBJECTIVE.answer({"model": {}}, types.Request(canvas, None, targets=targets)).logits
  np.testing.assert_array_equal(some, np.take_along_axis(np.asarray(whole), np.asarray(
      targets)[..., None], axis=1))


def test_denoise_starts_after_padding_and_reads_slots_as_the_tokens_before_them():
  seen = {}

  def encode(params, inputs, *, attention, cache=None, slots=None, time=None):
    seen.update(inputs._asdict(), slots=slots, cache=cache)
    assert attention == attention_lib.Causal()
    return types.Hidden(jnp.zeros(inputs.tokens.shape + (5,)), cache=cache)

  objective = ar.AutoRegressive(network=JOINT.causal_network()._replace(encode=encode), mask_id=1)
  request = types.Request(jnp.array([[4, 4, 3, 2], [0, 2, 3, 3]]), None,
                          jnp.array([[0, 0, 0, 1], [0, 1, 2, 3]]),
                          jnp.array([[0, 0, 1, 1], [1, 1, 1, 1]]))
  objective.answer({"model": {}}, request).logits
  np.testing.assert_array_equal(seen["tokens"][:, 2:], [[1, 3], [2, 3]])
  assert seen["positions"] is request.positions and seen["segment_ids"] is request.segment_ids
  slots = jnp.array([[3], [1]])
  logits, _, cache, *_ = objective.answer({"model": {}}, request._replace(
      slots=slots, cache=("kept",), targets=jnp.zeros((2, 1), int)))
  np.testing.assert_array_equal(seen["tokens"], [[3], [0]])
  assert seen["slots"] is slots and cache == ("kept",) and logits.shape == (2, 1, 5)


def test_padding_weighs_nothing():
  tokens = np.full((3, 4), JOINT.pad_id)
  tokens[1] = JOINT.sequences[40]
  total, aux, weight = _rows(oracle.batch_of(JOINT, tokens))
  np.testing.assert_allclose(aux.rows["nll"], [0, JOINT.nll[40], 0], rtol=1e-5)
  assert float(weight) == 4 and np.isfinite(float(total))


@pytest.mark.slow
def test_a_document_that_begins_itself_gets_no_start_token():
  seen = {}

  def encode(params, inputs, *, attention, time=None, noise=None):
    seen.update(inputs._asdict())
    return JOINT.causal_network().encode(params, inputs, attention=attention)

  network, start = JOINT.causal_network()._replace(encode=encode), 3
  batch = {"tokens": jnp.array([[3, 2, 0, 2], [0, 3, 2, 0]]), "example_index": jnp.arange(2),
           "segment_ids": jnp.array([[1, 1, 2, 2], [1, 1, 1, 0]])}
  for rule, alone in (("missing", [[0], []]), ("never", [[0, 2], [0, 3]])):
    objective = ar.AutoRegressive(network=network, mask_id=JOINT.mask_id, start_id=start,
                                  start=rule)
    prepared, weights = objective.prepare({}, batch, rng.root(0), CONTEXT)
    objective({"model": {}}, prepared, CONTEXT)
    is_alone = np.array([[i in places for i in range(4)] for places in alone])
    np.testing.assert_array_equal(prepared["loss_mask"], ~is_alone)
    np.testing.assert_array_equal(seen["segment_ids"] < 0, is_alone)
    np.testing.assert_array_equal(seen["tokens"], [[3, 3, 3, 0], [3, 0, 3, 3]])
    assert float(weights["nll"]) == (~is_alone).sum()
  with pytest.raises(ValueError, match="objective.start is 'once'; choose"):
    ar.AutoRegressive(network=network, mask_id=1, start="once")
