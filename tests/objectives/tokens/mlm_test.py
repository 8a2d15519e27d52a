"""MLM: what is written at the selected positions, and the loss of it.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.utils import rng

import oracle
import tiny
import token_rows
from token_rows import CONTEXT, MASK_ID, VOCAB


def test_selected_tokens_split_80_10_10_with_random_ones_uniform_over_the_others():
  batch = token_rows.batch(800, 256)
  prepared, _ = token_rows.prepare(token_rows.objective(), batch)
  tokens = np.asarray(batch["tokens"])[prepared["is_target"]]
  noisy = prepared["noisy_tokens"][prepared["is_target"]]
  masked, same = noisy == MASK_ID, noisy == tokens
  counts = [masked.sum(), same.sum(), (~masked & ~same).sum()]
  others = VOCAB - 1  # a random token may be the original
  assert oracle.chi_square(counts, [0.8, 0.1 + 0.1 / others, 0.1 - 0.1 / others]) > 1e-4
  steps = (noisy - tokens)[~masked & ~same] % VOCAB
  assert len(np.unique(noisy[~masked])) == others and len(np.unique(steps)) == others
  # What replaced token 7 is uniform over the eleven ids that are neither 7 nor [MASK].
  replaced = np.bincount(noisy[~masked & ~same & (tokens == 7)], minlength=VOCAB)
  assert replaced[7] == replaced[MASK_ID] == 0
  assert oracle.chi_square(np.delete(replaced, [7, MASK_ID]), np.ones(VOCAB - 2)) > 1e-4


@pytest.mark.parametrize("rate", tiny.first([0.15, 0.5, 1.0], 2))
@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_the_loss_equals_a_dense_cross_entropy(rate, mask_draw):
  objective = token_rows.objective(mask_rate=rate, mask_draw=mask_draw)
  batch = token_rows.batch(16, 64, np.arange(16) * 4 + 1)
  prepared, weight = token_rows.prepare(objective, batch)
  params = objective.init(rng.root(1))

  def dense(params):
    hidden = token_rows.encode(params["model"], types.Inputs(prepared["noisy_tokens"]),
                     attention=attention_lib.Full()).last
    logp = jax.nn.log_softmax(hidden @ params["model"]["embed"].T)
    rows = jnp.arange(16)[:, None], jnp.arange(64)[None]
    return -(logp[*rows, prepared["tokens"]] * prepared["is_target"]).sum()

  def loss(params):
    totals, aux = objective(params, prepared, CONTEXT)
    return totals["mlm"], aux

  (found, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(found, dense(params), rtol=1e-5)
  np.testing.assert_allclose(gradient["model"]["embed"], jax.grad(dense)(params)["model"]["embed"],
                             rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(aux.rows["nll"].sum(), found, rtol=1e-5)
  np.testing.assert_array_equal(aux.rows["count"], prepared["is_target"].sum(axis=1))
  assert float(aux.metrics["masked_nats"][1]) == weight


def test_denoise_gives_the_logits_of_the_targets_and_never_the_mask_id():
  objective, batch = token_rows.objective(), token_rows.batch(4, 10)
  params = objective.init(rng.root(1))
  hidden = token_rows.encode(params["model"], types.Inputs(batch["tokens"]),
                             attention=attention_lib.Full()).last
  expected = np.array(hidden @ params["model"]["embed"].T)
  expected[..., MASK_ID] = -1e30
  request = types.Request(batch["tokens"], jnp.ones(4))
  np.testing.assert_allclose(objective.answer(params, request).logits, expected, rtol=1e-5,
                             atol=1e-5)
  targets = jnp.array([[3, 0], [9, 9], [1, 2], [5, 10]])  # 10: none, whatever is read
  some = objective.answer(params, request._replace(targets=targets)).logits
  np.testing.assert_allclose(some[1, 1], expected[1, 9], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(some[0], expected[0, [3, 0]], rtol=1e-5, atol=1e-5)
  assert objective.visibility == attention_lib.Full()


@pytest.mark.parametrize("predict_rate,mask_draw", tiny.first([
    (0.1, "exact_count"), (0.1, "bernoulli"), (0.6, "exact_count"), (0.6, "bernoulli")], 1))
def test_what_is_predicted_and_what_is_corrupted_have_rates_of_their_own(predict_rate, mask_draw):
  batch = token_rows.batch(400, 50)
  prepared, weight = token_rows.prepare(token_rows.objective(
      mask_rate=0.2, predict_rate=predict_rate, mask_draw=mask_draw, replace_mask_rate=1.0,
      replace_random_rate=0.0), batch)
  copies = 3 if predict_rate > 0.2 else 1
  noisy, is_target = (prepared[k].reshape(400, copies, 50) for k in ("noisy_tokens", "is_target"))
  corrupted = noisy == MASK_ID
  if mask_draw == "exact_count":
    assert (corrupted.sum(axis=2) == 10).all()
    assert (is_target.sum(axis=2) == (10 if copies > 1 else 5)).all()
  else:
    assert abs(oracle.z_score(corrupted.ravel(), 0.2)) < 4
    assert abs(weight / 20000 - predict_rate) < 0.02
  assert (is_target.sum(axis=1) <= 1).all() and not (is_target & ~corrupted).any()
  np.testing.assert_array_equal(np.where(corrupted, 0, noisy),
                                np.where(corrupted, 0, np.asarray(batch["tokens"])[:, None]))


@pytest.mark.slow
def test_the_loss_of_several_readings_is_the_sum_of_theirs():
  objective = token_rows.objective(mask_rate=0.2, predict_rate=0.4, mask_draw="exact_count")
  batch = token_rows.batch(8, 20, np.arange(8) + 13)
  prepared, weight = token_rows.prepare(objective, batch)
  params = objective.init(rng.root(1))
  _, aux = jax.jit(objective)(params, prepared, CONTEXT)
  expected, score = 0.0, jax.jit(token_rows.objective(mask_rate=0.2, mask_draw="exact_count"))
  for nth in range(2):
    one = dict(prepared, **{k: prepared[k][:, nth] for k in ("noisy_tokens", "is_target")})
    expected += score(params, one, CONTEXT)[1].rows["nll"]
  np.testing.assert_allclose(aux.rows["nll"], expected, rtol=1e-5)
  assert float(aux.metrics["masked_nats"][1]) == weight == aux.rows["count"].sum()


@pytest.mark.parametrize("fields", [
    {"mask_rate": 0.0}, {"mask_rate": 1.1}, {"mask_draw": "span"}, {"replace_mask_rate": -0.1},
    {"replace_mask_rate": 0.9, "replace_random_rate": 0.2}, {"unit": "word"},
    {"unit": "whole_word"}, {"span_max": 0}, {"span_max": 2, "mask_draw": "bernoulli"},
    {"span_rate": 1.0, "span_max": 2, "mask_draw": "exact_count"}, {"num_masks": -1},
    {"predict_rate": 0.4}, {"predict_rate": 1.2}, {"rate_schedule": "step"},
    {"predict_rate": 0.3, "span_max": 2, "mask_draw": "exact_count"},
    {"predict_rate": 0.3, "final_mask_rate": 0.1, "anneal_steps": 5},
    {"final_mask_rate": 0.1}, {"anneal_steps": 5}, {"final_mask_rate": -0.1, "anneal_steps": 5}])
def test_values_without_meaning_are_refused(fields):
  with pytest.raises(ValueError, match=f"objective.*{next(iter(fields))}") as error:
    token_rows.objective(**fields)
  assert "\n" not in str(error.value)
