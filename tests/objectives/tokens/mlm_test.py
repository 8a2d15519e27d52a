"""MLM: what is selected, what is written there, and the loss of it.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives.tokens import mlm
from mdx.utils import rng

import oracle

VOCAB, MASK_ID, WIDTH = 13, 5, 8
CONTEXT = types.context(0)


def _encode(params, inputs, *, attention, time=None, noise=None):
  assert attention == attention_lib.Full() and time is None
  tokens = inputs.tokens
  return types.Hidden(params["embed"][tokens] + params["embed"][jnp.roll(tokens, 1, axis=1)])


NETWORK = types.Network(
    lambda key: {"embed": jax.random.normal(key, (VOCAB, WIDTH))}, _encode,
    lambda params, hidden, name: hidden @ params["embed"].T, VOCAB)


def _objective(**fields):
  return mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID, **fields)


def _batch(num_rows, length, lengths=None, seed=0):
  draw = np.random.default_rng(seed)
  tokens = draw.integers(0, VOCAB - 1, (num_rows, length))
  tokens += tokens >= MASK_ID
  lengths = np.full(num_rows, length) if lengths is None else lengths
  return {"tokens": jnp.asarray(tokens, jnp.int32),
          "loss_mask": jnp.asarray(np.arange(length)[None] < lengths[:, None]),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


@functools.cache
def _jitted(objective):
  return jax.jit(lambda batch, key, context: objective.prepare({}, batch, key, context))


def _prepare(objective, batch, seed=0, step=0):
  prepared, weights = _jitted(objective)(batch, rng.root(seed),
                                         CONTEXT._replace(step=jnp.int32(step)))
  return jax.device_get(prepared), float(weights["mlm"])


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_bernoulli_selects_at_its_rate(rate):
  prepared, weight = _prepare(_objective(mask_rate=rate), _batch(500, 128))
  assert abs(oracle.z_score(prepared["is_target"].ravel(), rate)) < 4
  assert weight == prepared["is_target"].sum()


def test_exact_count_selects_the_rounded_share_and_at_least_one():
  lengths = np.array([128, 100, 64, 10, 5, 2, 1, 0])
  prepared, weight = _prepare(_objective(mask_draw="exact_count"), _batch(8, 128, lengths))
  counts = prepared["is_target"].sum(axis=1)
  np.testing.assert_array_equal(counts, [19, 15, 10, 2, 1, 1, 1, 0])
  assert weight == counts.sum()


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_padding_and_prompts_are_never_selected_nor_changed(mask_draw):
  batch = _batch(300, 40, np.arange(300) % 41)
  prepared, _ = _prepare(_objective(mask_draw=mask_draw, mask_rate=0.9), batch)
  outside = ~np.asarray(batch["loss_mask"])
  assert not prepared["is_target"][outside].any()
  kept = ~prepared["is_target"]
  np.testing.assert_array_equal(prepared["noisy_tokens"][kept], np.asarray(batch["tokens"])[kept])


def test_selected_tokens_split_80_10_10_with_random_ones_uniform_over_the_others():
  batch = _batch(800, 256)
  prepared, _ = _prepare(_objective(), batch)
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


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_the_loss_equals_a_dense_cross_entropy(rate, mask_draw):
  objective = _objective(mask_rate=rate, mask_draw=mask_draw)
  batch = _batch(16, 64, np.arange(16) * 4 + 1)
  prepared, weight = _prepare(objective, batch)
  params = objective.init(rng.root(1))

  def dense(params):
    hidden = _encode(params["model"], types.Inputs(prepared["noisy_tokens"]),
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
  objective, batch = _objective(), _batch(4, 10)
  params = objective.init(rng.root(1))
  hidden = _encode(params["model"], types.Inputs(batch["tokens"]), attention=attention_lib.Full()).last
  expected = np.array(hidden @ params["model"]["embed"].T)
  expected[..., MASK_ID] = -1e30
  request = types.Request(batch["tokens"], jnp.ones(4))
  np.testing.assert_allclose(objective.answer(params, request).logits, expected, rtol=1e-5, atol=1e-5)
  targets = jnp.array([[3, 0], [9, 9], [1, 2], [5, 10]])  # 10: none, whatever is read
  some = objective.answer(params, request._replace(targets=targets)).logits
  np.testing.assert_allclose(some[1, 1], expected[1, 9], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(some[0], expected[0, [3, 0]], rtol=1e-5, atol=1e-5)
  assert objective.visibility == attention_lib.Full()


def test_a_rows_draws_depend_on_its_index_and_the_step_only():
  objective, batch = _objective(), _batch(32, 64)
  one, _ = _prepare(objective, batch)
  order = np.random.default_rng(1).permutation(32)[:20]
  other, _ = _prepare(objective, {k: v[order] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(one[name][order], other[name], err_msg=name)
  again, _ = _prepare(objective, batch, seed=1)
  assert not np.array_equal(one["is_target"], again["is_target"])


# Ids below 6 begin a word, the others go on with it.
WORDS = np.stack([np.arange(VOCAB) >= 6, np.ones(VOCAB, bool)], axis=1)


def _units(batch):
  tokens, allowed = np.asarray(batch["tokens"]), np.asarray(batch["loss_mask"])
  begins = (tokens < 6) | (np.arange(tokens.shape[1]) == 0)
  units = np.maximum.accumulate(np.where(begins, np.arange(tokens.shape[1]), 0), axis=1)
  return units, begins & allowed, allowed


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_whole_words_are_never_split_and_every_word_is_as_likely_whatever_its_length(mask_draw):
  batch = _batch(2000, 32, np.arange(2000) % 9 + 24)
  prepared, weight = _prepare(
      _objective(unit="whole_word", word_edges=WORDS, mask_rate=0.25, mask_draw=mask_draw), batch)
  units, begins, allowed = _units(batch)
  selected = prepared["is_target"]
  np.testing.assert_array_equal(
      selected, np.take_along_axis(selected & begins, units, axis=1) & allowed)
  num_words = begins.sum(axis=1)
  if mask_draw == "exact_count":
    np.testing.assert_array_equal((selected & begins).sum(axis=1),
                                  np.maximum(np.round(np.float32(0.25) * num_words), 1))
  else:
    assert abs(oracle.z_score(selected[begins], 0.25)) < 4
  # Words of 1, 2, 3 and 4 or more tokens: as many as there are of each, so is the share of tokens.
  size = np.stack([np.bincount(u[a], minlength=32) for u, a in zip(units, allowed)])[begins]
  kinds = np.minimum(size, 4)
  expected = np.repeat((selected & begins).sum(axis=1) / num_words, num_words)
  counts = [selected[begins][kinds == kind].sum() for kind in range(1, 5)]
  assert oracle.chi_square(counts, [expected[kinds == kind].sum() for kind in range(1, 5)]) > 1e-4
  assert weight == selected.sum() and abs(weight / allowed.sum() - 0.25) < 0.01


def test_spans_of_words_have_an_exact_count_of_words_one_fate_and_end_with_a_document():
  batch = _batch(1000, 64)
  batch["segment_ids"] = jnp.where(jnp.arange(64)[None] < 40, 1, jnp.full((1000, 1), 2))
  objective = _objective(unit="whole_word", word_edges=WORDS, mask_rate=0.4, span_max=6,
                         mask_draw="exact_count", replace_together=True,
                         replace_random_rate=0.0)
  prepared, _ = _prepare(objective, batch)
  units, begins, _ = _units(batch)
  begins[:, 40] = True
  units = np.maximum.accumulate(np.where(begins, np.arange(64), 0), axis=1)
  selected, masked = prepared["is_target"], prepared["noisy_tokens"] == MASK_ID
  np.testing.assert_array_equal((selected & begins).sum(axis=1),
                                np.round(np.float32(0.4) * begins.sum(axis=1)))
  np.testing.assert_array_equal(selected, np.take_along_axis(selected, units, axis=1))
  within = selected[:, 1:] & selected[:, :-1] & ~begins[:, 1:]
  assert (masked[:, 1:] == masked[:, :-1])[within].all()  # one fate for the places of a word
  # Neighbouring words mostly lie in one span, with one fate; across documents never.
  across = selected[:, 1:] & selected[:, :-1] & begins[:, 1:]
  same = masked[:, 1:] == masked[:, :-1]
  independent = 0.8 ** 2 + 0.2 ** 2
  assert same[across].mean() > independent + 0.1
  assert abs(same[:, 39][across[:, 39]].mean() - independent) < 0.08


@pytest.mark.parametrize("predict_rate,mask_draw", [
    (0.1, "exact_count"), (0.1, "bernoulli"), (0.6, "exact_count"), (0.6, "bernoulli")])
def test_what_is_predicted_and_what_is_corrupted_have_rates_of_their_own(predict_rate, mask_draw):
  batch = _batch(400, 50)
  prepared, weight = _prepare(_objective(
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


def test_the_loss_of_several_readings_is_the_sum_of_theirs():
  objective, batch = _objective(mask_rate=0.2, predict_rate=0.4, mask_draw="exact_count"), _batch(
      8, 20, np.arange(8) + 13)
  prepared, weight = _prepare(objective, batch)
  params = objective.init(rng.root(1))
  _, aux = jax.jit(objective)(params, prepared, CONTEXT)
  expected, score = 0.0, jax.jit(_objective(mask_rate=0.2, mask_draw="exact_count"))
  for nth in range(2):
    one = dict(prepared, **{k: prepared[k][:, nth] for k in ("noisy_tokens", "is_target")})
    expected += score(params, one, CONTEXT)[1].rows["nll"]
  np.testing.assert_allclose(aux.rows["nll"], expected, rtol=1e-5)
  assert float(aux.metrics["masked_nats"][1]) == weight == aux.rows["count"].sum()


@pytest.mark.parametrize("schedule,middle", [("linear", 0.4), ("cosine", 0.5)])
def test_the_rate_goes_from_the_first_to_the_last(schedule, middle):
  objective = _objective(mask_rate=0.6, final_mask_rate=0.2, rate_schedule=schedule,
                         anneal_steps=300, mask_draw="exact_count")
  at = {0: 0.6, 300: 0.2, 1000: 0.2, 2 ** 31 - 1: 0.2}
  between = {"linear": 150, "cosine": 100}[schedule]  # cos(pi / 3) = 1/2
  for step, rate in (at | {between: middle}).items():
    np.testing.assert_allclose(objective.rate(jnp.int32(step)), rate, rtol=1e-5)
  batch = _batch(4, 100)
  for step in (0, 300):
    prepared, _ = _prepare(objective, batch, step=step)
    assert (prepared["is_target"].sum(axis=1) == round(100 * at[step])).all()


def test_static_masks_are_the_same_at_every_step_and_wherever_a_row_comes():
  fields = dict(mask_rate=0.3, mask_draw="exact_count")
  batch = _batch(64, 40)
  moved = {k: v[::-1] for k, v in batch.items()} | {"example_index": jnp.arange(900, 964)}

  def three(objective):
    one, other = _prepare(objective, batch), _prepare(objective, batch, seed=5, step=7)
    return one[0], other[0], _prepare(objective, moved, seed=6)[0]

  one, other, last = three(_objective(num_masks=1, **fields))
  for name in ("is_target", "noisy_tokens"):
    np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(one[name], last[name][::-1])
  assert len(np.unique(one["is_target"], axis=0)) == 64  # rows differ
  one, other, last = three(_objective(**fields))
  assert not (one["is_target"] == other["is_target"]).all(axis=1).any()


def test_each_visit_takes_one_of_n_static_masks_at_random():
  objective, row = _objective(num_masks=4, mask_rate=0.3), _batch(1, 40)
  visits = {k: jnp.repeat(v, 800, axis=0) for k, v in row.items()} | {
      "example_index": jnp.arange(800)}
  prepared, _ = _prepare(objective, visits)
  found, counts = np.unique(prepared["is_target"], axis=0, return_counts=True)
  assert len(found) == 4 and oracle.chi_square(counts, np.ones(4)) > 1e-4


def test_spans_longer_than_what_is_selected_of_a_text_are_refused():
  objective = _objective(span_max=10, mask_draw="exact_count", mask_rate=0.3, final_mask_rate=0.15,
                         anneal_steps=10)
  objective.check_length(64)
  with pytest.raises(ValueError, match="span_max 10 exceeds the 9 units that a rate of 0.15 sel"):
    objective.check_length(60)
  _objective().check_length(1)


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
    _objective(**fields)
  assert "\n" not in str(error.value)
