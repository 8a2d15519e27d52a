"""Masked documents: the long row, its loss token by token, rates, the controls, bad values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.objectives.transfer import masked_document
from mdx.utils import rng

MASK_ID, PAD_ID, LENGTH, VOCAB = 1, 4, 5, 12
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=VOCAB,
                                  max_length=16, scan_layers=False, init_std=0.5).network()
OBJECTIVE = masked_document.MaskedDocument(network=NETWORK, mask_id=MASK_ID, instruction=(10, 11),
                                           separator=(9,))
PARAMS = OBJECTIVE.init(rng.root(0))


def _batch(rows=3, lengths=(5, 3, 4), prompts=(0, 0, 2)):
  lengths, prompts = np.resize(lengths, rows), np.resize(prompts, rows)
  place = np.arange(LENGTH)[None]
  real = place < lengths[:, None]
  tokens = np.where(real, np.random.default_rng(0).integers(5, 9, (rows, LENGTH)), PAD_ID)
  fields = dict(tokens=tokens.astype(np.int32), segment_ids=real.astype(np.int32),
                loss_mask=real & (place >= prompts[:, None]), positions=np.where(real, place, 0),
                example_index=np.arange(rows, dtype=np.int32))
  return {k: jnp.asarray(v) for k, v in fields.items()}


def _prepared(objective, batch, key=0):
  prepared, weights = jax.jit(lambda b, k: objective.prepare(PARAMS, b, k, types.context(0)))(
      batch, rng.root(key))
  return jax.tree.map(np.asarray, prepared), weights


def test_the_loss_is_that_of_a_row_with_instruction_masked_copy_separator_and_document():
  batch = _batch()
  prepared, weights = _prepared(OBJECTIVE, batch)
  assert weights == {"nll": 10.0}
  model = ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID)
  total, answer = 0.0, jax.jit(lambda t: model.answer(PARAMS, types.Request(t, None)).logits)
  for row in range(3):
    text = np.asarray(batch["tokens"][row])[np.asarray(batch["segment_ids"][row]) > 0]
    own = prepared["segment_ids"][row] > 0
    tokens = prepared["tokens"][row][own]
    n = len(text)
    copy = tokens[2:2 + n]
    assert tokens[:2].tolist() == [10, 11] and tokens[2 + n] == 9
    np.testing.assert_array_equal(tokens[3 + n:], text)
    assert ((copy == text) | (copy == MASK_ID)).all()
    np.testing.assert_array_equal(prepared["positions"][row][own], np.arange(3 + 2 * n))
    np.testing.assert_array_equal(prepared["previous"][row][own], [MASK_ID, *tokens[:-1]])
    whole = np.full((1, 3 + 2 * LENGTH), PAD_ID, np.int32)
    whole[0, :len(tokens)] = tokens
    log_probs = np.asarray(jax.nn.log_softmax(answer(whole)))[0]
    is_target = np.asarray(batch["loss_mask"][row])[:n]
    total -= sum(log_probs[3 + n + i, text[i]] for i in np.flatnonzero(is_target))
  loss = jax.jit(lambda p, b: OBJECTIVE(p, b, types.context(0))[0]["nll"])(PARAMS, prepared)
  np.testing.assert_allclose(loss, total, rtol=1e-5)


def _copies(objective, batch, key=0):
  prepared, _ = _prepared(objective, batch, key)
  return prepared["tokens"][:, 2:2 + LENGTH], prepared


@pytest.mark.slow
def test_rates_are_uniform_given_tokens_stay_and_rate_one_hides_everything():
  batch = _batch(600)
  copy, prepared = _copies(dataclasses.replace(OBJECTIVE, min_rate=0.2, max_rate=0.6), batch)
  is_masked, allowed = copy == MASK_ID, np.asarray(batch["loss_mask"])
  assert not (is_masked & ~allowed).any()
  assert abs(is_masked[allowed].mean() - 0.4) < 0.04
  np.testing.assert_array_equal(copy[~is_masked], np.asarray(batch["tokens"])[~is_masked])
  shares = is_masked.sum(axis=1)[allowed.sum(axis=1) == 5] / 5
  assert shares.var() > 0.4 * 0.6 / 5 + 0.4 ** 2 / 12 / 3  # more than at one rate
  np.testing.assert_array_equal(prepared["loss_mask"][:, -LENGTH:], allowed)
  assert not prepared["loss_mask"][:, :-LENGTH].any()
  for rate, share in ((0.0, 0.0), (1.0, 1.0)):
    copy, _ = _copies(dataclasses.replace(OBJECTIVE, min_rate=rate, max_rate=rate), batch)
    assert (copy == MASK_ID)[allowed].mean() == share


def test_the_control_has_random_tokens_and_plain_rows_are_the_document_alone():
  batch = _batch(600)
  allowed, tokens = np.asarray(batch["loss_mask"]), np.asarray(batch["tokens"])
  copy, _ = _copies(dataclasses.replace(OBJECTIVE, hidden="random"), batch)
  assert not (copy == MASK_ID).any()
  np.testing.assert_array_equal(copy[~allowed], tokens[~allowed])
  assert abs((copy == tokens)[allowed].mean() - 1 / (VOCAB - 1)) < 0.03
  _, prepared = _copies(dataclasses.replace(OBJECTIVE, plain_rate=0.25), batch)
  is_plain = prepared["segment_ids"][:, 0] == 0
  assert abs(is_plain.mean() - 0.25) < 0.06
  assert not prepared["segment_ids"][is_plain, :-LENGTH].any()
  np.testing.assert_array_equal(prepared["positions"][is_plain, -LENGTH:],
                                np.asarray(batch["positions"])[is_plain])
  assert (prepared["previous"][is_plain, -LENGTH] == MASK_ID).all()


@pytest.mark.slow
def test_a_model_of_plain_rows_is_an_autoregressive_one():
  batch = _batch()
  plain = dataclasses.replace(OBJECTIVE, plain_rate=1.0)
  model = ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID)
  prepared, weights = _prepared(plain, batch)
  loss = jax.jit(lambda p, b: plain(p, b, types.context(0))[0]["nll"])(PARAMS, prepared)
  other = jax.jit(lambda p, b: model(p, b, types.context(0))[0]["nll"])(PARAMS, batch)
  np.testing.assert_allclose(loss, other, rtol=1e-5)
  assert weights == {"nll": 10.0} and type(plain.bound("exact")) is ar.AutoRegressive
  assert plain.served({"name": "masked_document", "start": "always", "min_rate": 0}) == {
      "name": "ar", "start": "always"}


@pytest.mark.parametrize("fields, message", [
    (dict(min_rate=0.6, max_rate=0.5), "min_rate 0.6 is above max_rate 0.5"),
    (dict(max_rate=1.5), r"max_rate must lie in \[0, 1\]"),
    (dict(hidden="noise"), "hidden is 'noise'; choose from mask, random"),
    (dict(plain_rate=-0.1), "plain_rate must lie in"), (dict(start="never"), "use always")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(OBJECTIVE, **fields)


def test_texts_become_ids_and_rows_of_several_documents_are_refused():
  tokenizer = tokenizer_lib.build("byte")
  world = types.World(transformer.Transformer(vocab_size=tokenizer.vocab_size, width=16, num_heads=2,
                                              num_layers=1).network(), tokenizer)
  built = masked_document.MaskedDocument.build(
      {"name": "masked_document", "instruction": "ab", "max_rate": 0.5}, world)
  assert built.instruction == (97, 98) and built.separator == () and built.max_rate == 0.5
  with pytest.raises(ValueError, match="packing 'first_fit' puts several documents in a row"):
    masked_document.MaskedDocument.complete({"data": {"packing": "first_fit"}}, None)
