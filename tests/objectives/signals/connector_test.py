"""Connectors: text alone is the language model's, what is masked and scored, the frozen encoder."""

import dataclasses
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import samplers
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.objectives.signals import connector
from mdx.samplers import loop
from mdx.utils import rng

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
SPEC = transformer.Transformer(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=7)
# 5 ends a text, 4 pads; the first two tokens are prompts.
TEXT = {"tokens": jnp.array([[0, 1, 2, 3, 5, 5], [3, 2, 1, 5, 4, 4]]),
        "loss_mask": jnp.array([[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]], bool),
        "segment_ids": jnp.array([[1] * 6, [1, 1, 1, 1, 0, 0]]),
        "positions": jnp.broadcast_to(jnp.arange(6), (2, 6)), "example_index": jnp.arange(2)}
ROWS = TEXT | {"patches": jax.random.normal(rng.root(1), (2, 3, 4))}
ZERO = types.context(0)


def _world(**frozen):
  encoder = dataclasses.replace(SPEC, position="none", head="none").network()
  reads = objectives.build(dict(name="simmim", channels=4, num_patches=3), encoder, TOKENIZER)
  return dict(frozen={"encoder": reads} | frozen, data=python_types.SimpleNamespace())


def _build(world=None, network=SPEC, **fields):
  return objectives.build(dict(name="connector", num_features=8) | fields, network.network(),
                          TOKENIZER, **(_world() if world is None else world))


@pytest.fixture(name="model", scope="module")
def _model():
  """The objective, its parameters, those of the encoder, a batch of `prepare` and one scoring."""
  objective = _build()
  params = jax.jit(objective.init)(rng.root(0))
  frozen = {"encoder": jax.jit(objective.reads.init)(rng.root(2))}
  seen = objective.look(frozen, ROWS, ZERO)
  batch, weights = objective.prepare(None, seen, rng.root(3), ZERO)
  assert weights["elbo"] == 2  # rows
  score = jax.jit(jax.value_and_grad(
      lambda params, batch: objective(params, batch, ZERO)[0]["elbo"]))
  return objective, params, frozen, batch, score


@pytest.mark.slow
def test_rows_without_an_image_are_those_of_the_language_model_bit_for_bit(model):
  objective, params, _, _, score = model
  fields = {f.name: getattr(objective, f.name) for f in dataclasses.fields(objectives.OBJECTIVES["diffusion"])}
  plain = objectives.OBJECTIVES["diffusion"](**fields)
  batch, _ = plain.prepare(None, TEXT, rng.root(3), ZERO)
  expected, gradient = jax.jit(jax.value_and_grad(
      lambda params, batch: plain(params, batch, ZERO)[0]["elbo"]))(params, batch)
  for rows in (batch, batch | {"features": jnp.zeros((2, 0, 8))}):
    found, own = score(params, rows)
    assert found == expected and all(map(np.array_equal, *map(jax.tree.leaves, (own, gradient))))


def test_the_answer_alone_is_masked_and_scored_with_the_papers_weight(model):
  objective, params, _, batch, score = model
  masked = np.array(batch["is_masked"])
  assert masked.any() and not (masked & ~np.array(TEXT["loss_mask"])).any()
  assert (np.array(batch["noisy_tokens"])[~masked] == np.array(TEXT["tokens"])[~masked]).all()
  logits = jax.jit(lambda context: objective.answer(params, types.Request(
      batch["noisy_tokens"], batch["noise_level"], TEXT["positions"], TEXT["segment_ids"],
      context=context)).logits)(objective.context_of(params, batch))
  log_probs = jax.nn.log_softmax(logits)
  nats = -np.take_along_axis(np.array(log_probs), np.array(TEXT["tokens"])[..., None], 2)[..., 0]
  prob = 0.999 * np.array(batch["noise_level"]) + 1e-3
  number = np.array(TEXT["loss_mask"]).sum(1)
  expected = (0.999 / (prob * number) * (nats * masked).sum(1)).sum()
  assert score(params, batch)[0] == pytest.approx(expected, rel=1e-5)
  other = batch | {"tokens": batch["tokens"].at[:, :2].add(1)}  # as targets; the inputs are noisy
  assert score(params, other)[0] == score(params, batch)[0]


def test_vectors_of_an_image_are_read_in_their_order_by_every_real_position_of_the_row(model):
  objective, params, _, batch, score = model
  first = score(params, batch)[0]
  assert score(params, batch | {"features": batch["features"][:, ::-1]})[0] != first
  hidden = jax.jit(lambda batch: objective._hidden(params, batch))
  changed = batch | {"features": batch["features"].at[0, 1].add(1.0)}
  moved = np.abs(np.array(hidden(changed) - hidden(batch))).max(axis=2) > 1e-6
  assert moved[0].all() and not moved[1].any()
  padded = batch | {"noisy_tokens": batch["noisy_tokens"].at[1, 4:].set(0)}
  np.testing.assert_allclose(hidden(padded)[1, :4], hidden(batch)[1, :4], atol=1e-6)


def test_the_encoder_has_no_gradient_and_the_connector_has_one(model):
  objective, params, frozen, batch, score = model
  drawn = {k: v for k, v in batch.items() if k != "features"}

  def loss(frozen):
    return objective(params, objective.look(frozen, drawn, ZERO), ZERO)[0]["elbo"]

  value, gradient = jax.jit(jax.value_and_grad(loss))(frozen)
  assert value == pytest.approx(float(score(params, batch)[0]))
  leaves = jax.tree.leaves(gradient)
  assert leaves and not any(np.any(leaf) for leaf in leaves)
  own = score(params, batch)[1]
  assert set(own) == {"model", "connector"}
  assert all(np.any(leaf) for leaf in jax.tree.leaves(own["connector"]))


@pytest.mark.slow
def test_a_cache_holds_the_vectors_of_an_image(model):
  objective, params, _, batch, _ = model
  ask = jax.jit(lambda tokens, cache, slots, context: objective.answer(params, types.Request(
      tokens, jnp.ones(2), TEXT["positions"], context=context, cache=cache, slots=slots)))
  context = objective.context_of(params, batch)
  first = ask(batch["noisy_tokens"], (), None, context)
  assert all(x.shape[2] == 9 for x in jax.tree.leaves(first.cache))
  np.testing.assert_allclose(first.logits, objective.answer(params, types.Request(
      batch["noisy_tokens"], jnp.ones(2), context=context)).logits, atol=1e-5)
  slots = jnp.array([[1, 3, 6], [2, 6, 6]])  # 6: none
  again = ask(batch["noisy_tokens"], first.cache, slots, context)
  np.testing.assert_allclose(again.logits[0, :2], first.logits[0, slots[0, :2]], atol=1e-5)
  np.testing.assert_allclose(again.logits[1, :1], first.logits[1, slots[1, :1]], atol=1e-5)


@pytest.mark.slow
def test_answers_are_decoded_behind_an_image_and_their_prompts_stay(model):
  objective, params, frozen, _, _ = model
  context = objective.context_of(params, objective.look(frozen, ROWS, ZERO))
  rows = {"canvas": jnp.where(TEXT["loss_mask"], TOKENIZER.mask_id, TEXT["tokens"]),
          "row_index": jnp.arange(2)}

  def decoded(**fields):
    rule = samplers.build(dict(name="confidence", gen_length=6, temperature=0.0) | fields,
                          objective, mask_id=TOKENIZER.mask_id, eos_id=TOKENIZER.eos_id)
    return np.array(jax.jit(lambda context: loop.decode_rows(
        objective, rule, params, rng.root(0), rows | {"context": context}, start=0,
        record="none").tokens)(context))

  plain = decoded(steps=1)
  np.testing.assert_array_equal(plain[:, :2], TEXT["tokens"][:, :2])
  ask = objective.answer(params, types.Request(rows["canvas"], jnp.ones(2), context=context))
  np.testing.assert_array_equal(plain[0, 2:], ask.logits.argmax(-1)[0, 2:])
  # One layer: keys and values of tokens do not depend on others, so that a cache is exact.
  np.testing.assert_array_equal(decoded(block_length=3, steps=2),
                                decoded(block_length=3, steps=2, cache="dual"))


@pytest.mark.parametrize("fields, message", [
    (dict(num_features=6), "num_features is 6, and the encoder has states of width 8; set it to 8"),
    (dict(encoder="eye"), "objective.encoder is 'eye', which is none of the frozen models .encoder."),
    (dict(connector=dict(name="resampler", num_heads=3)), "num_heads 3 does not divide the width 8"),
    (dict(attention=dict(name="block_causal", block_length=2)), "have no place in blocks"),
    (dict(shift=True), "are not for rows behind an image")])
def test_fields_without_meaning_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _build(**fields)
  assert "\n" not in str(error.value)


def test_rows_of_another_layout_are_refused():
  with pytest.raises(ValueError, match="rows of layout 'text'; use a source of layout pictured"):
    connector.Connected.complete({"objective": {"name": "connector"}},
                                 python_types.SimpleNamespace(layout="text"))
