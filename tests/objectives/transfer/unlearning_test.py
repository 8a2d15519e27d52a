"""Unlearning: closed forms of ascent and NPO, generic labels, what has no gradient and no loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.tokens import mlm
from mdx.objectives.transfer import generic_labels
from mdx.objectives.transfer import unlearning
from mdx.train import step as step_lib
from mdx.utils import rng

import text_rows
import tiny

MASK_ID, PAD_ID, LENGTH, VOCAB = 1, 4, 6, 9
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=VOCAB,
                                  max_length=8, scan_layers=False, init_std=0.5).network()
AR = ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID)
DIFFUSION = diffusion.MaskedDiffusion(network=NETWORK, mask_id=MASK_ID, mask_draw="exact_count")
PARAMS, BASE, RAISED = (AR.init(rng.root(seed)) for seed in (0, 1, 2))
FROZEN = {"reference": BASE, "reinforced": RAISED}


_side = functools.partial(text_rows.padded, length=LENGTH, pad_id=PAD_ID)


def _batch():
  """Three rows; the text to forget of the last is missing.

  The anchor 2 of the first row, twice there, is replaced by 5 6, and the anchor 3 of the second
  by 7.
  """
  forget = _side([[2, 0, 8, 2], [0, 3, 8], [0]], [0, 1, 1])
  retain = _side([[8, 0, 7], [7, 8, 0, 8, 7], [0, 7]], [1, 1, 0])
  generic = _side([[5, 6, 0, 8, 5, 6], [0, 7, 8], []], [0, 0, 0])
  rows = lambda *values: np.array([list(v) + [-1] * (LENGTH - len(v)) for v in values], np.int32)
  fields = dict(
      tokens=forget[0], loss_mask=forget[1], segment_ids=forget[2],
      positions=np.where(forget[2] > 0, np.arange(LENGTH), 0).astype(np.int32),
      retain=retain[0], retain_loss_mask=retain[1], retain_segment_ids=retain[2],
      generic=generic[0], generic_segment_ids=generic[2],
      generic_index=rows([0, 2, 3, -1], [0, 1, 2], []),
      generic_origin=rows([0, 0, 1, 2, 3, 3], [0, 1, 2], []),
      replaced=rows([5, -1, -1, 5], [-1, 7, -1], []),
      example_index=np.arange(3, 6, dtype=np.int32))
  return {k: jnp.asarray(v) for k, v in fields.items()}


BATCH = _batch()


def _prepared(objective, key=0):
  return jax.jit(lambda b, k: objective.prepare(PARAMS, b, k, types.context(0, FROZEN)))(
      BATCH, rng.root(key))


def _grad(objective, prepared, term, params=PARAMS):
  return jax.jit(jax.value_and_grad(lambda p, b, f: objective(p, b, types.context(0, f))[0][term]))(
      params, prepared, FROZEN)


def _logits(params, tokens, segments):
  return AR.answer(params, types.Request(tokens, None, segment_ids=segments)).logits


@jax.jit
def _scores(params):
  """log p of the forget and of the retain texts, [B, 2]."""
  found = []
  for name, mask, segments in (("tokens", "loss_mask", "segment_ids"),
                               ("retain", "retain_loss_mask", "retain_segment_ids")):
    log_probs = jax.nn.log_softmax(_logits(params, BATCH[name], BATCH[segments]))
    picked = jnp.take_along_axis(log_probs, BATCH[name][..., None], axis=2)[..., 0]
    found.append(jnp.where(BATCH[mask], picked, 0.0).sum(axis=1))
  return jnp.stack(found, axis=1)


@pytest.mark.parametrize("retain_scale", tiny.mostly_slow([0.0, 0.5], [0.5]))
def test_ascent_is_the_log_likelihood_of_what_is_forgotten_and_the_difference_adds_the_rest(
    retain_scale):
  objective = unlearning.Unlearning(model=AR, loss="ascent", retain_scale=retain_scale)
  prepared, weights = _prepared(objective)
  assert weights == {"forget": 6.0} | ({"retain": 8.0} if retain_scale else {})
  totals, aux = jax.jit(lambda p, b: objective(p, b, types.context(0)))(PARAMS, prepared)
  score = np.asarray(_scores(PARAMS)).sum(axis=0)
  np.testing.assert_allclose(totals["forget"], score[0], rtol=1e-5)
  np.testing.assert_allclose(aux.metrics["forget_nats"], (-score[0], 6), rtol=1e-5)
  assert set(totals) == set(objective.scales)
  if retain_scale:
    np.testing.assert_allclose(totals["retain"], -score[1], rtol=1e-5)
    assert objective.scales == {"forget": 1.0, "retain": 0.5}


def test_npo_is_its_closed_form_and_at_the_reference_its_gradient_is_that_of_ascent():
  npo = unlearning.Unlearning(model=AR, loss="npo", beta=0.3, retain_scale=0.0)
  prepared, weights = _prepared(npo)
  assert weights == {"forget": 2.0}  # texts; the third is missing
  loss, _ = _grad(npo, prepared, "forget")
  gain = np.asarray(_scores(PARAMS) - _scores(BASE))[:2, 0]
  np.testing.assert_allclose(loss, (2 / 0.3 * np.log1p(np.exp(0.3 * gain))).sum(), rtol=1e-5)
  ascent = unlearning.Unlearning(model=AR, loss="ascent", retain_scale=0.0)
  at_reference, plain = (_grad(x, prepared, "forget", BASE)[1] for x in (npo, ascent))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), at_reference,
               plain)


def test_generic_logits_never_rise_and_without_alpha_or_reinforcement_they_stay():
  base, raised = np.random.default_rng(0).normal(size=(2, 4, VOCAB)).astype(np.float32)
  generic = generic_labels.generic_logits(base, raised, 5.0)
  assert (generic <= base).all() and (generic[raised <= base] == base[raised <= base]).all()
  np.testing.assert_allclose(generic[raised > base], (6 * base - 5 * raised)[raised > base],
                             rtol=1e-5)
  np.testing.assert_array_equal(generic_labels.generic_logits(base, raised, 0.0), base)
  np.testing.assert_array_equal(generic_labels.generic_logits(base, base, 5.0), base)


def test_replacements_are_made_unlikely_behind_their_anchor_or_wherever_it_is_visible():
  replaced = jnp.array([[-1, 5, -1, 7]])
  seen = lambda visible, is_causal: np.asarray(generic_labels.appeared(
      replaced, jnp.array([visible]), VOCAB, is_causal=is_causal))[0]
  causal = seen([True] * 4, True)
  assert not causal[:2].any() and np.flatnonzero(causal[2]).tolist() == [5]
  assert np.flatnonzero(causal[3]).tolist() == [5]
  assert [np.flatnonzero(x).tolist() for x in seen([True, False, True, True], False)] == [[7]]


def _labels(objective, prepared):
  return np.asarray(jax.jit(lambda p, b, f: objective.labels(p, b, types.context(0, f)))(
      PARAMS, prepared, FROZEN))


def test_labels_of_a_causal_model_are_read_at_the_translation_and_repeats_have_none():
  objective = generic_labels.GenericLabels(model=AR, alpha=2.0, repeat_penalty=3.0)
  prepared, weights = _prepared(objective)
  assert weights == {"generic": 5.0}  # six targets, one of them a repeat
  assert not prepared["is_target"][0, 3] and prepared["is_target"].sum() == 5
  base = np.asarray(_logits(BASE, BATCH["generic"], BATCH["generic_segment_ids"]))
  raised = np.asarray(_logits(RAISED, BATCH["tokens"], BATCH["segment_ids"]))
  wanted = np.zeros((2, 3, base.shape[-1]), np.float32)
  for row, places in enumerate(([0, 2, 3], [0, 1, 2])):
    for i, j in enumerate(places):
      low = base[row, j]
      wanted[row, i] = low - 2 * np.maximum(raised[row, i] - low, 0)
  wanted[0, 1:, 5] -= 3
  wanted[1, 2, 7] -= 3
  np.testing.assert_allclose(_labels(objective, prepared)[:2, :3], wanted, rtol=1e-4, atol=1e-4)
  loss, grad = _grad(objective, prepared, "generic")
  own = np.asarray(jax.nn.log_softmax(_logits(PARAMS, BATCH["tokens"], BATCH["segment_ids"])))
  probs = np.asarray(jax.nn.softmax(wanted))
  nats = -(probs * own[:2, :3]).sum(axis=-1)
  nats[1, 0] = 0  # a prompt
  np.testing.assert_allclose(loss, nats.sum(), rtol=1e-4)
  assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(grad))


@pytest.mark.slow
def test_of_a_diffusion_model_what_is_masked_is_masked_in_the_translation_too():
  objective = generic_labels.GenericLabels(model=DIFFUSION, retain_scale=0.5)
  seen = set()
  run = jax.jit(lambda b, k: objective.prepare(PARAMS, b, k, types.context(0, FROZEN)))
  for key in range(6):
    prepared, weights = jax.tree.map(np.asarray, run(BATCH, rng.root(key)))
    hidden, generic = prepared["inputs"] == MASK_ID, prepared["generic"] == MASK_ID
    assert not (hidden & ~np.asarray(BATCH["loss_mask"])).any()
    np.testing.assert_array_equal(generic[0], hidden[0][[0, 0, 1, 2, 3, 3]])
    np.testing.assert_array_equal(generic[1, :3], hidden[1, :3])
    np.testing.assert_array_equal(prepared["is_target"], hidden & (
        np.asarray(BATCH["generic_index"]) >= 0))
    assert not prepared["is_visible"][hidden].any() and weights["retain"] == 8
    seen.add(hidden[:2].tobytes())
  assert len(seen) > 2
  loss, _ = _grad(objective, prepared, "generic")
  base, raised, own = (np.asarray(jax.jit(lambda p, t, s, level: DIFFUSION.answer(
      p, types.Request(t, level, segment_ids=s)).logits)(
          params, prepared[t], prepared[s], prepared["noise_level"]))
                       for params, t, s in ((BASE, "generic", "generic_segment_ids"),
                                            (RAISED, "inputs", "segment_ids"),
                                            (PARAMS, "inputs", "segment_ids")))
  total = 0.0
  for row, i in zip(*np.nonzero(prepared["is_target"])):
    low = base[row, BATCH["generic_index"][row, i]]
    label = low - 5 * np.maximum(raised[row, i] - low, 0)
    visible = BATCH["replaced"][row][prepared["is_visible"][row]]
    label[np.unique(visible[visible >= 0])] -= 5
    nats = -(np.asarray(jax.nn.softmax(label)) * np.asarray(
        jax.nn.log_softmax(own[row, i]))).sum()
    total += prepared["token_weight"][row, i] * nats
  np.testing.assert_allclose(loss, total, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [
    unlearning.Unlearning(model=DIFFUSION, num_draws=2),
    generic_labels.GenericLabels(model=DIFFUSION, retain_scale=1.0)], ids=["npo", "generic"])
def test_microbatches_accumulate_exactly_and_frozen_models_have_no_gradient(objective):
  prepared, weights = _prepared(objective)
  runs = [jax.jit(lambda p, b, f, n=n: step_lib.loss_and_grad(
      objective, p, b, weights, types.context(0, f), n)[::2])(PARAMS, prepared, FROZEN)
          for n in (1, 3)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)
  frozen = jax.jit(jax.grad(lambda f: sum(objective(PARAMS, prepared, types.context(0, f))[0]
                                          .values())))(FROZEN)
  assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(frozen))


@pytest.mark.parametrize("cls, fields, message", [
    (unlearning.Unlearning, dict(beta=0.0), "beta must be positive, got 0.0"),
    (unlearning.Unlearning, dict(loss="dpo"), "loss is 'dpo'; choose from ascent, npo"),
    (unlearning.Unlearning, dict(retain_scale=-1), "retain_scale must be at least 0"),
    (unlearning.Unlearning, dict(model=mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID)),
     "has no likelihood"),
    (generic_labels.GenericLabels, dict(alpha=-1), "alpha must be at least 0"),
    (generic_labels.GenericLabels, dict(model=mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID)),
     "has no generic labels; use ar or diffusion")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(**(dict(model=AR) | fields))


def test_missing_frozen_models_and_rows_of_one_text_are_refused():
  config = {"objective": {"loss": "npo"}, "frozen": {}}
  with pytest.raises(ValueError, match="loss npo reads a reference; set config.frozen.reference"):
    unlearning.Unlearning.complete(config, None)
  assert unlearning.Unlearning.complete({"objective": {"loss": "ascent"}}, None)
  with pytest.raises(ValueError, match="reads the frozen model 'reinforced'; set config.frozen"):
    generic_labels.GenericLabels.complete({"frozen": {"reference": {}}}, None)
  for objective in (unlearning.Unlearning(model=AR), generic_labels.GenericLabels(model=AR)):
    with pytest.raises(ValueError, match="a text to forget beside one to keep"):
      objective.check_fields(["tokens", "loss_mask"])
    assert objective.served({"model": {"name": "ar"}}) == {"name": "ar"}
