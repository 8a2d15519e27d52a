"""MEAP: what is masked, what is predicted, and next-token prediction where nothing is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.eval import likelihood
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.objectives.causal import ar
from mdx.objectives.causal import meap
from mdx.utils import rng

_CONTEXT = types.context(0)
_NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=12,
                                   max_length=64, scan_layers=False).network()
_PARAMS = {"model": jax.jit(_NETWORK.init)(rng.root(1))}
_MASK = 11


def _batch(rows=16, length=20):
  tokens = np.random.default_rng(0).integers(0, 10, (rows, length)).astype(np.int32)
  segments = np.ones((rows, length), np.int32)
  segments[0, 15:] = 0  # padding
  segments[1, 8:] = 2  # two documents
  positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
  positions[1, 8:] -= 8
  return {"tokens": jnp.asarray(tokens), "segment_ids": jnp.asarray(segments),
          "positions": jnp.asarray(positions), "loss_mask": jnp.asarray(segments > 0),
          "example_index": jnp.arange(rows)}


def _prepared(objective, batch, step=0):
  return objective.prepare(_PARAMS, batch, rng.stream(rng.root(0), "x", step), _CONTEXT)


def test_without_masks_it_is_next_token_prediction_bit_by_bit():
  plain = ar.AutoRegressive(network=_NETWORK, mask_id=_MASK)
  batch = _batch()
  objective = meap.MEAP(network=_NETWORK, mask_id=_MASK, mask_rate=0.0)
  found, weights = _prepared(objective, batch)
  loss = lambda x, rows: jax.jit(x)(_PARAMS, rows, _CONTEXT)[0]["nll"]
  assert loss(objective, found) == loss(plain, batch)
  assert weights == plain.prepare(_PARAMS, batch, None, _CONTEXT)[1]


def test_exactly_the_share_of_each_row_is_masked_and_rows_differ():
  batch = _batch()
  found, weights = _prepared(objective := meap.MEAP(network=_NETWORK, mask_id=_MASK,
                                                    mask_rate=0.15), batch)
  masked = np.asarray(found["inputs"] == _MASK)
  candidates = np.asarray([14, 18, *[19] * 14])
  assert (masked.sum(axis=1) == np.floor(0.15 * candidates + 1e-4)).all()
  assert not masked[:, -1].any() and not masked[0, 14:].any() and not masked[1, 7]
  assert len({tuple(row) for row in masked}) > 8  # not one mask for the batch
  assert (np.asarray(found["tokens"]) == np.asarray(batch["tokens"])).all()
  assert weights["nll"] == batch["loss_mask"].sum()
  again = _prepared(objective, batch)[0]["inputs"]
  assert (again == found["inputs"]).all()
  assert (_prepared(objective, batch, 1)[0]["inputs"] != found["inputs"]).any()


def test_targets_are_the_tokens_and_the_context_is_masked():
  objective = meap.MEAP(network=_NETWORK, mask_id=_MASK, mask_rate=0.3)
  batch, _ = _prepared(objective, _batch())
  hidden = _NETWORK.encode(
      _PARAMS["model"], reading.inputs_of(batch, objective._previous(
          batch["inputs"], batch["segment_ids"])), attention=objective.visibility).last
  logits = _NETWORK.head(_PARAMS["model"], hidden, "lm").at[..., _MASK].set(-1e30)
  logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], -1)[..., 0]
  total, aux = jax.jit(objective)(_PARAMS, batch, _CONTEXT)
  assert total["nll"] == pytest.approx(float(-(logp * batch["loss_mask"]).sum()), rel=1e-5)
  right = (logits.argmax(-1) == batch["tokens"]) & batch["loss_mask"]
  assert aux.rows["right"].tolist() == right.sum(axis=1).tolist()


def test_the_end_of_a_text_can_be_protected():
  objective = meap.MEAP(network=_NETWORK, mask_id=_MASK, mask_rate=0.9, protect_last=5)
  masked = np.asarray(_prepared(objective, _batch())[0]["inputs"] == _MASK)
  assert not masked[2:, 15:].any() and masked[2:, :15].any() and not masked[0, 10:].any()
  with pytest.raises(ValueError, match="masks nothing of a row of 20 tokens of which the last 16"):
    meap.MEAP(network=_NETWORK, mask_id=_MASK, mask_rate=0.2, protect_last=16).check_length(20)


@pytest.mark.slow
def test_a_model_is_scored_without_masks():
  plain, batch = ar.AutoRegressive(network=_NETWORK, mask_id=_MASK), _batch()
  wanted = plain(_PARAMS, batch, _CONTEXT)[1].rows
  for objective in (meap.MEAP(network=_NETWORK, mask_id=_MASK),
                    meap.MEAPFineTuning(network=_NETWORK, mask_id=_MASK)):
    found = jax.jit(likelihood.make_row_nll(objective))(_PARAMS, batch)
    np.testing.assert_allclose(found["nll"], wanted["nll"], rtol=1e-5)


def _answers(batch):
  answer = jnp.arange(20)[None] >= 12
  return batch | {"loss_mask": batch["loss_mask"] & answer}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["copies", "concatenated"])
def test_fine_tuning_adds_the_masked_tokens_of_a_second_reading(form):
  objective = meap.MEAPFineTuning(network=_NETWORK, mask_id=_MASK, form=form, mask_rate=0.25,
                                  min_answer=3)
  batch = _answers(_batch())
  found, weights = _prepared(objective, batch)
  masked, allowed = np.asarray(found["is_masked"]), np.asarray(batch["loss_mask"])
  counted = allowed if form == "copies" else np.asarray(batch["segment_ids"]) > 0
  wanted = np.floor(0.25 * counted.sum(axis=1) + 1e-4) * (allowed.sum(axis=1) > 3)
  assert (masked.sum(axis=1) == wanted).all() and not masked[0].any()  # an answer of 3 tokens
  assert weights["nll"] == allowed.sum() + masked.sum()
  if form == "copies":
    assert not (masked & ~allowed).any()
  total, aux = jax.jit(objective)(_PARAMS, found, _CONTEXT)
  plain = ar.AutoRegressive(network=_NETWORK, mask_id=_MASK)
  first = jax.jit(plain)(_PARAMS, batch, _CONTEXT)[1].rows["nll"]
  # Row 2 by hand, the second reading alone: behind the first, or a row of its own.
  tokens, noisy = batch["tokens"][2:3], jnp.where(masked[2:3], _MASK, batch["tokens"][2:3])
  start = lambda x: jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=_MASK)
  rows = start(noisy) if form == "copies" else jnp.concatenate([start(tokens), start(noisy)], 1)
  hidden = _NETWORK.encode(_PARAMS["model"], types.Inputs(rows),
                           attention=objective.visibility).last[:, -20:]
  logits = _NETWORK.head(_PARAMS["model"], hidden, "lm").at[..., _MASK].set(-1e30)
  logp = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[0, :, 0]
  assert aux.rows["nll"][2] == pytest.approx(
      float(first[2] - (logp * masked[2]).sum()), rel=1e-5)
  assert total["nll"] == pytest.approx(float(aux.rows["nll"].sum()), rel=1e-5)


def test_two_documents_of_a_row_do_not_see_one_another_in_the_second_reading():
  objective = meap.MEAPFineTuning(network=_NETWORK, mask_id=_MASK, form="concatenated",
                                  mask_rate=0.25, min_answer=3)
  batch = _answers(_batch())
  found, _ = _prepared(objective, batch)
  loss = lambda tokens: jax.jit(objective)(_PARAMS, found | {"tokens": tokens}, _CONTEXT)[1].rows["nll"][1]
  only_second = found["is_masked"].at[1, :8].set(False)
  found["is_masked"] = only_second  # targets in the second document alone
  assert loss(batch["tokens"]) == pytest.approx(
      float(loss(batch["tokens"].at[1, :8].set(0))), rel=1e-6)


@pytest.mark.parametrize("cls, fields, message", [
    (meap.MEAP, dict(mask_rate=1.0), "mask_rate must lie in .0, 1."),
    (meap.MEAP, dict(protect_last=-1), "protect_last must be at least 0"),
    (meap.MEAPFineTuning, dict(form="both"), "form is 'both'; choose from copies, concatenated"),
    (meap.MEAPFineTuning, dict(mask_rate=0.0), "mask_rate must lie in"),
    (meap.MEAPFineTuning, dict(min_answer=-1), "min_answer must be at least 0")])
def test_wrong_settings_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(network=_NETWORK, mask_id=_MASK, **fields)
