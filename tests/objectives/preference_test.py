"""Preference learning: closed forms, the bound against the exact likelihood, shared draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives import preference
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.tokens import mlm
from mdx.train import step as step_lib
from mdx.utils import rng

import oracle
import text_rows
import tiny

MASK_ID, PAD_ID, LENGTH = 1, 4, 6
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=5, max_length=8,
                                  scan_layers=False, init_std=0.5).network()
MODELS = {"ar": ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID),
          "diffusion": diffusion.MaskedDiffusion(network=NETWORK, mask_id=MASK_ID,
                                                 mask_draw="exact_count")}
PARAMS, OTHER = (MODELS["ar"].init(rng.root(seed)) for seed in (0, 1))


def _context(reference):
  return types.context(0, {"reference": reference})


_side = functools.partial(text_rows.padded, length=LENGTH, pad_id=PAD_ID)


def _batch():
  """Pairs of answers of different lengths, and a row of padding."""
  draw = np.random.default_rng(0)
  text = lambda n: draw.choice([0, 2, 3], n)
  prompts = [1, 2, 2, 0]
  one = _side([text(n) for n in (4, 6, 3)] + [[]], prompts)
  other = _side([text(n) for n in (5, 4, 6)] + [[]], prompts)
  positions = np.where(one[2] > 0, np.arange(LENGTH), 0).astype(np.int32)
  fields = dict(tokens=one[0], loss_mask=one[1], segment_ids=one[2], positions=positions,
                other=other[0], other_loss_mask=other[1], other_segment_ids=other[2],
                example_index=np.arange(7, 11, dtype=np.int32))
  return {k: jnp.asarray(v) for k, v in fields.items()}


def _prepared(objective, batch, key=0):
  return jax.jit(lambda b, k: objective.prepare(PARAMS, b, k, _context(PARAMS)))(
      batch, rng.root(key))


def _loss(objective, params, prepared, reference):
  return jax.jit(lambda p, b, r: objective(p, b, _context(r)))(params, prepared, reference)


def _exact(params, batch):
  """log p of both answers by the logits of each position, [B, 2]."""
  found = []
  for prefix, tokens in (("", batch["tokens"]), ("other_", batch["other"])):
    request = types.Request(tokens, None, segment_ids=batch[prefix + "segment_ids"])
    logits = MODELS["ar"].answer(params, request).logits
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]
    found.append(jnp.where(batch[prefix + "loss_mask"], picked, 0.0).sum(axis=1))
  return jnp.stack(found, axis=1)


def test_of_an_autoregressive_model_it_is_the_closed_form_of_dpo():
  batch, objective = _batch(), preference.Preference(model=MODELS["ar"], beta=0.3)
  prepared, weights = _prepared(objective, batch)
  assert weights == {"preference": 3.0} and objective.draws == 1  # one row is padding
  score = np.asarray(jax.jit(_exact)(OTHER, batch) - jax.jit(_exact)(PARAMS, batch))[:3]
  margin = 0.3 * (score[:, 0] - score[:, 1])
  totals, aux = _loss(objective, OTHER, prepared, PARAMS)
  np.testing.assert_allclose(totals["preference"], np.log1p(np.exp(-margin)).sum(), rtol=1e-5)
  np.testing.assert_allclose(aux.rows["margin"][:3], margin, rtol=1e-4)
  np.testing.assert_allclose(aux.metrics["pair_accuracy"], ((margin > 0).sum(), 3))
  assert np.abs(margin).min() > 1e-3 and aux.rows["loss"][3] == 0


@pytest.mark.parametrize("name", tiny.mostly_slow([*MODELS], ["diffusion"]))
def test_at_the_reference_the_loss_is_log_two_and_its_gradient_half_of_beta(name):
  batch, objective = _batch(), preference.Preference(model=MODELS[name], beta=0.3, num_draws=2)
  prepared, weights = _prepared(objective, batch)
  fn = jax.jit(jax.value_and_grad(
      lambda p, b, r: objective(p, b, _context(r))[0]["preference"]))
  loss, grad = fn(PARAMS, prepared, PARAMS)
  # The draws are shared: margins are 0, not only in expectation.
  np.testing.assert_allclose(loss / weights["preference"], np.log(2), rtol=1e-6)
  rows = {k: v.reshape((-1,) + v.shape[2:]) for k, v in prepared.items() if k != "is_live"}
  sign = np.repeat(np.array([1, -1] * 3 + [0, 0], np.float32), objective.draws) / objective.draws

  def score(params):
    return 0.15 * (sign * objective.scored(params, rows, _context(params))[1].rows["nll"]).sum()

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grad,
               jax.jit(jax.grad(score))(PARAMS))


def test_the_mean_of_the_bound_over_draws_is_the_likelihood_of_a_joint_that_is_known():
  joint = oracle.random_joint()
  model = diffusion.MaskedDiffusion(network=joint.network(), mask_id=joint.mask_id,
                                    mask_draw="exact_count")
  objective = preference.Preference(model=model, num_draws=joint.length)
  number, texts = 400, joint.sequences[[5, 40]]
  same = lambda text: np.tile(text, (number, 1))
  ones = np.ones((number, joint.length), np.int32)
  batch = {"tokens": same(texts[0]), "other": same(texts[1]), "loss_mask": ones > 0,
           "other_loss_mask": ones > 0, "segment_ids": ones, "other_segment_ids": ones,
           "positions": ones * np.arange(joint.length)[None],
           "example_index": np.arange(number)}
  prepared, _ = _prepared(objective, jax.tree.map(jnp.asarray, batch))
  counts = np.asarray(prepared["is_masked"]).sum(axis=2)
  assert np.all(np.sort(counts.reshape(number, 2, -1), axis=2) == [1, 2, 3, 4])
  rows = {k: v.reshape((-1,) + v.shape[2:]) for k, v in prepared.items() if k != "is_live"}
  nll = -np.asarray(jax.jit(lambda r: objective._log_likelihood({"model": {}}, r, _context({})))(rows))
  for side, text in enumerate(texts):
    assert nll[:, side].std() > 1e-3
    assert abs(oracle.z_score(nll[:, side], joint.nll[joint.index(text[None])[0]])) < 4


def test_prompts_and_padding_are_never_masked_and_answers_of_a_pair_have_draws_of_their_own():
  batch = _batch()
  objective = preference.Preference(model=MODELS["diffusion"], num_draws=4)
  prepared, _ = _prepared(objective, batch)
  masked = np.asarray(prepared["is_masked"]).reshape(4, 2, 4, LENGTH)
  allowed = np.stack([batch["loss_mask"], batch["other_loss_mask"]], axis=1)[:, :, None]
  assert not (masked & ~allowed).any() and masked[:3].any(axis=3).all()
  tokens = np.asarray(prepared["tokens"]).reshape(4, 2, 4, LENGTH)
  np.testing.assert_array_equal(tokens[:, 1], np.repeat(batch["other"][:, None], 4, axis=1))
  assert not np.array_equal(masked[:, 0] & masked[:, 1].any(), masked[:, 1])


@pytest.mark.slow
def test_microbatches_accumulate_exactly():
  objective = preference.Preference(model=MODELS["diffusion"], num_draws=2)
  prepared, weights = _prepared(objective, _batch())
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(
      objective, p, b, weights, _context(OTHER), n)[::2])(PARAMS, prepared) for n in (1, 2)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)


@pytest.mark.parametrize("fields, message", [
    (dict(beta=0.0), "beta must be positive, got 0.0"), (dict(num_draws=0), "num_draws must be at"),
    (dict(model=mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID)), "has no likelihood")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    preference.Preference(**(dict(model=MODELS["ar"]) | fields))


def test_a_missing_model_and_rows_that_are_no_pairs_are_refused():
  world = types.World(NETWORK, None, objective=lambda cfg: MODELS[cfg["name"]])
  with pytest.raises(ValueError, match="objective.model is missing; give the objective"):
    preference.Preference.build({"name": "preference"}, world)
  built = preference.Preference.build({"name": "preference", "model": {"name": "ar"}}, world)
  assert built.model is MODELS["ar"] and built.beta == 0.2
  assert built.served({"name": "preference", "model": {"name": "ar"}}) == {"name": "ar"}
  with pytest.raises(ValueError, match="reads pairs of answers"):
    built.check_fields(["tokens", "loss_mask"])
