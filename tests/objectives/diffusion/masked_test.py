"""Masked diffusion: with the true conditionals the bound is the likelihood.

References: Shi et al. 2024, arXiv:2406.04329 (any schedule gives the same bound); Ou et al.
2024, arXiv:2406.03736 (exact counts give the any-order autoregressive likelihood).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mdx import config as config_lib
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng

import oracle
import tiny

JOINT = oracle.random_joint()
CONTEXT = types.context(0)
PARAMS = {"model": {}}
MASKS = np.array(list(itertools.product([False, True], repeat=JOINT.length)))
BELL = {"name": "bell", "center": 0.4, "spread": 0.1, "uniform": 0.2}
SCHEDULES = [("linear", None), ("cosine", None), ("polynomial", 0.5), ("polynomial", 1.0),
             ("polynomial", 2.0), ("polynomial", 3.0)]


def _schedule(name, power, eps):
  return {"name": name, "eps": eps} | ({} if power is None else {"power": power})


def _objective(**fields):
  return diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id, **fields)


def _nodes(num, low=0.0):
  """Gauss-Legendre nodes and weights on [low, 1]."""
  x, weight = np.polynomial.legendre.leggauss(num)
  return low + (1 - low) * (x + 1) / 2, (1 - low) * weight / 2


@functools.cache
def _mask_costs(row: int) -> np.ndarray:
  """Sum over the masked i of -log p(x_i | the rest), for each mask: float64 [2^L]."""
  tokens = JOINT.sequences[row]
  probs = JOINT.conditionals(np.where(MASKS, JOINT.mask_id, tokens))
  picked = np.take_along_axis(probs, np.broadcast_to(tokens, MASKS.shape)[..., None], axis=2)
  return (-np.log(picked[..., 0]) * MASKS).sum(axis=1)


def _mask_law(mask_prob) -> np.ndarray:
  """Probability of each mask at mask probabilities [...]: [..., 2^L]."""
  count = MASKS.sum(axis=1)
  mask_prob = np.asarray(mask_prob, np.float64)[..., None]
  return mask_prob ** count * (1 - mask_prob) ** (JOINT.length - count)


def _bound_from(row: int, eps: float) -> float:
  """The ELBO integral over mask probabilities in [eps, 1]; eps = 0 is -log p(x)."""
  mask_prob, weight = _nodes(32, eps)
  return float(weight / mask_prob @ (_mask_law(mask_prob) @ _mask_costs(row)))


def _clipped(eps: float) -> float:
  """Nats that a row is charged for the tokens masked at t = 0."""
  return JOINT.length * eps * math.log(JOINT.vocab_size - 1)


def _prepare(objective, batch, step=3):
  key = rng.stream(rng.root(11), "train", step)
  return jax.jit(lambda b: objective.prepare({}, b, key, CONTEXT))(batch)


def _score(objective, tokens, is_masked, weight, **fields):
  """Rows and total of the loss for given draws."""
  tokens = jnp.asarray(np.broadcast_to(tokens, is_masked.shape), jnp.int32)
  is_masked = jnp.asarray(is_masked)
  batch = {"tokens": tokens, "is_masked": is_masked,
           "noisy_tokens": jnp.where(is_masked, objective.mask_id, tokens),
           "token_weight": jnp.asarray(weight, jnp.float32),
           "noise_level": jnp.zeros(len(tokens)), **fields}
  totals, aux = jax.jit(lambda b: objective(PARAMS, b, CONTEXT))(batch)
  return totals["elbo"], aux


def test_the_oracle_satisfies_the_identity_it_is_used_for():
  for row in (0, 17, 80):
    np.testing.assert_allclose(_bound_from(row, 0.0), JOINT.nll[row], rtol=1e-9)


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.05])
@pytest.mark.parametrize("name,power", tiny.first(SCHEDULES, 3))
def test_the_expected_bound_is_the_nll_for_every_schedule(name, power, eps):
  objective = _objective(schedule=_schedule(name, power, eps))
  row = 17
  u, weight = _nodes(64)
  t, weight = u ** 4, weight * 4 * u ** 3  # the polynomial of power 0.5 is singular at t = 0
  law = _mask_law(objective.alpha.mask_prob(jnp.asarray(t, jnp.float32)))

  # Route 1: the schedule's weight over enumerated conditionals.
  loss_weight = np.asarray(objective.alpha.weight(jnp.asarray(t, jnp.float32)))
  found = weight * loss_weight @ (law @ _mask_costs(row))
  np.testing.assert_allclose(found, _bound_from(row, eps), rtol=3e-5)

  # Route 2: the objective's own rows over enumerated times and masks.
  _, aux = _score(objective, JOINT.sequences[row], np.tile(MASKS, (64, 1)),
                  np.repeat(loss_weight, len(MASKS)))
  rows = np.asarray(aux.rows["nll"], np.float64).reshape(64, len(MASKS))
  np.testing.assert_allclose(weight @ (law * rows).sum(axis=1),
                             _bound_from(row, eps) + _clipped(eps), rtol=3e-5)
  if eps == 0:
    np.testing.assert_allclose(weight @ (law * rows).sum(axis=1), JOINT.nll[row], rtol=3e-5)
  np.testing.assert_array_equal(aux.rows["count"], JOINT.length)


def test_the_reported_bound_lies_above_the_entropy_and_the_clipped_integral_below_it():
  eps, entropy = 0.05, JOINT.probs @ JOINT.nll
  integral = JOINT.probs @ [_bound_from(i, eps) for i in range(len(JOINT.probs))]
  assert integral < entropy < integral + _clipped(eps)


@pytest.mark.parametrize("eps", tiny.mostly_slow([0.02, 0.1], [0.1]))
@pytest.mark.parametrize("name,power", SCHEDULES)
def test_drawn_bounds_have_the_nll_as_their_mean(name, power, eps):
  objective = _objective(schedule=_schedule(name, power, eps), time="independent")
  tokens = np.tile(JOINT.sequences, (400, 1))
  expected = np.array([_bound_from(i, eps) + _clipped(eps) for i in range(81)])
  rows = _drawn_rows(objective, oracle.batch_of(JOINT, tokens))
  assert abs(oracle.z_score(rows - np.tile(expected, 400), 0)) < 4


def _drawn_rows(objective, batch, seed=0):
  def score(batch):
    prepared, _ = objective.prepare({}, batch, rng.root(seed), CONTEXT)
    return objective(PARAMS, prepared, CONTEXT)[1].rows["nll"]
  return np.asarray(jax.jit(score)(batch), np.float64)


@pytest.mark.parametrize("time", ["independent", "stratified", "lattice"])
def test_drawn_exact_counts_have_the_nll_as_their_mean(time):
  tokens = np.tile(JOINT.sequences, (400, 1))
  rows = _drawn_rows(_objective(mask_draw="exact_count", time=time), oracle.batch_of(JOINT, tokens))
  assert abs(oracle.z_score(rows - np.tile(JOINT.nll, 400), 0)) < 4


@pytest.mark.parametrize("mask_draw", ["exact_count", "bernoulli"])
def test_drawn_bounds_at_times_of_a_bell_have_the_nll_as_their_mean(mask_draw):
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences, (400, 1)))
  bell = _objective(mask_draw=mask_draw, time_density=BELL, schedule={"name": "linear", "eps": 0.0})
  rows = _drawn_rows(bell, batch)
  assert abs(oracle.z_score(rows - np.tile(JOINT.nll, 400), 0)) < 4


def test_without_weights_the_loss_is_that_of_the_bell_and_the_bound_stays():
  batch = oracle.batch_of(JOINT, JOINT.sequences)
  found = {}
  for weighted in (True, False):
    objective = _objective(time_density=BELL | {"weighted": weighted})
    prepared, _ = _prepare(objective, batch)
    found[weighted] = objective(PARAMS, prepared, CONTEXT)
  (_, weighted), (loss, plain) = found[True], found[False]
  np.testing.assert_array_equal(plain.rows["nll"], weighted.rows["nll"])
  times = np.asarray(prepared["noise_level"])
  density = 0.2 + 0.8 * stats.truncnorm(-4, 6, 0.4, 0.1).pdf(times)
  expected = ((np.asarray(plain.rows["nll"]) - _clipped(1e-4)) * density).sum()
  np.testing.assert_allclose(loss["elbo"], expected, rtol=1e-5)


def test_exact_counts_give_the_nll_by_enumeration():
  # The count, weight and noise level of each k as `prepare` draws them, then all its masks.
  objective, length = _objective(mask_draw="exact_count"), JOINT.length
  tokens = np.tile(JOINT.sequences[17], (length, 1))
  batch = oracle.batch_of(JOINT, tokens) | {
      "time": 1 - (jnp.arange(length) + 0.5) / length}
  prepared, _ = _prepare(objective, batch)
  count = np.arange(1, length + 1)
  np.testing.assert_array_equal(prepared["is_masked"].sum(axis=1), count)
  np.testing.assert_allclose(prepared["token_weight"], length / count, rtol=1e-6)
  np.testing.assert_allclose(prepared["noise_level"], count / length, rtol=1e-6)
  for row in (0, 17, 80):
    _, aux = _score(objective, JOINT.sequences[row], MASKS,
                    length / np.maximum(MASKS.sum(axis=1), 1))
    rows = np.asarray(aux.rows["nll"])
    means = [rows[MASKS.sum(axis=1) == k].mean() for k in count]
    np.testing.assert_allclose(np.mean(means), JOINT.nll[row], rtol=1e-5)


def test_uniform_times_give_uniform_counts():
  objective, num = _objective(mask_draw="exact_count", time="independent"), 20000
  tokens = np.tile(JOINT.sequences[:1], (num, 1))
  batch = oracle.batch_of(JOINT, tokens)
  batch["loss_mask"] = jnp.tile(jnp.array([[True, True, False, True]]), (num, 1))
  prepared, _ = _prepare(objective, batch)
  counts = np.bincount(prepared["is_masked"].sum(axis=1), minlength=5)
  assert counts[0] == counts[4] == 0
  assert oracle.chi_square(counts[1:4], np.ones(3)) > 1e-4
  for time, count in ((1.0, 1), (1e-7, 3), (0.0, 3)):
    one, _ = _prepare(objective, batch | {"time": jnp.full(num, time)})
    assert np.all(one["is_masked"].sum(axis=1) == count)
    np.testing.assert_allclose(one["token_weight"], 3 / count, rtol=1e-6)
    np.testing.assert_allclose(one["noise_level"], count / 3, rtol=1e-6)


def test_bernoulli_masks_at_the_schedules_rate():
  objective = _objective(schedule=_schedule("cosine", None, 0.01))
  time = jnp.linspace(0.05, 1, 8)
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences[:1], (8 * 8000, 1)))
  prepared, _ = _prepare(objective, batch | {"time": jnp.tile(time, 8000)})
  masked = np.asarray(prepared["is_masked"]).reshape(8000, 8, -1)
  rate = 1 - (1 - 0.01) * (1 - np.cos(np.pi / 2 * (1 - np.asarray(time))))
  for i in range(8):
    if i < 7:
      assert abs(oracle.z_score(masked[:, i].ravel(), rate[i])) < 4
    else:
      assert masked[:, i].all()  # t = 1
  np.testing.assert_array_equal(
      prepared["noisy_tokens"],
      jnp.where(prepared["is_masked"], JOINT.mask_id, batch["tokens"]))
  np.testing.assert_allclose(prepared["noise_level"], jnp.tile(time, 8000))


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
@pytest.mark.parametrize("normalizer", diffusion.NORMALIZERS)
def test_normalizers_divide_by_rows_supervised_tokens_or_masked_tokens(normalizer, mask_draw):
  objective = _objective(normalizer=normalizer, mask_draw=mask_draw, time="independent")
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences[:1], (6, 1)))
  mask = np.arange(4)[None] < np.array([4, 3, 0, 2, 4, 1])[:, None]
  prepared, weights = _prepare(objective, batch | {"loss_mask": jnp.asarray(mask)})
  expected = {"elbo": 5, "per_row": 5, "per_supervised_token": 14,
              "per_masked_token": int(prepared["is_masked"].sum())}[normalizer]
  assert float(weights["elbo"]) == expected and weights["elbo"].dtype == jnp.float32
  assert 0 < int(prepared["is_masked"].sum()) < 14


def test_uniform_weighting_sums_plain_losses_and_still_reports_the_bound():
  weight, row = np.arange(len(MASKS)) / 4.0, 17
  total, aux = _score(_objective(weighting="uniform"), JOINT.sequences[row], MASKS, weight)
  np.testing.assert_allclose(total, _mask_costs(row).sum(), rtol=1e-5)
  np.testing.assert_allclose(aux.rows["nll"], weight * _mask_costs(row) + _clipped(1e-4), rtol=1e-4,
                             atol=1e-6)
  nats, count = aux.metrics["masked_nats"]
  np.testing.assert_allclose([nats, count], [_mask_costs(row).sum(), MASKS.sum()], rtol=1e-5)


def test_cart_weighting_weighs_tokens_by_clean_context_and_still_reports_the_bound():
  weight, row = np.arange(len(MASKS)) / 4.0, 17
  total, aux = _score(_objective(weighting="cart", cart_rate=0.3), JOINT.sequences[row], MASKS,
                      weight)
  probs = JOINT.conditionals(np.where(MASKS, JOINT.mask_id, JOINT.sequences[row]))
  nats = -np.log(np.take_along_axis(probs, np.broadcast_to(
      JOINT.sequences[row], MASKS.shape)[..., None], axis=2)[..., 0]) * MASKS
  gap = np.abs(np.arange(4)[:, None] - np.arange(4))
  kernel = np.where(gap > 0, 0.15 * 0.7 ** (gap - 1.0), 0)
  np.testing.assert_allclose(total, (nats * (~MASKS @ kernel)).sum(), rtol=1e-5)
  np.testing.assert_allclose(aux.rows["nll"], weight * _mask_costs(row) + _clipped(1e-4), rtol=1e-4,
                             atol=1e-6)


def test_per_row_averages_each_rows_nats_per_answer_token():
  # Prompts are not masked and do not count: LLaDA's loss of fine-tuning.
  objective = _objective(normalizer="per_row")
  answers = jnp.asarray(np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]], bool))
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences[17], (3, 1))) | {
      "loss_mask": answers, "time": jnp.array([1.0, 0.9, 0.5])}
  prepared, weights = _prepare(objective, batch)
  totals, aux = jax.jit(lambda b: objective(PARAMS, b, CONTEXT))(prepared)
  assert not np.any(prepared["is_masked"] & ~answers) and np.all(prepared["is_masked"][0, 2:])
  nats = np.asarray(aux.rows["nll"]) - 1e-4 * np.log(4) * np.array([2, 3, 0])
  np.testing.assert_allclose(totals["elbo"], nats[0] / 2 + nats[1] / 3, rtol=1e-5)
  assert float(weights["elbo"]) == 2 and nats[0] > 0


def test_rows_are_cut_in_training_and_whole_where_the_time_is_given():
  objective = _objective(random_length_rate=1.0, normalizer="per_supervised_token")
  batch = oracle.batch_of(JOINT, JOINT.sequences[:64])
  prepared, weights = _prepare(objective, batch)
  kept = np.asarray(prepared["segment_ids"])
  np.testing.assert_array_equal(prepared["loss_mask"], kept == 1)
  assert set(kept.sum(axis=1)) == {1, 2, 3, 4} and float(weights["elbo"]) == kept.sum()
  whole, weights = _prepare(objective, batch | {"time": jnp.full(64, 0.5)})
  assert "segment_ids" not in whole and float(weights["elbo"]) == 256


@pytest.mark.parametrize("mask_column", [False, True])
def test_without_carry_over_a_text_is_read_off_the_prediction_given_all_of_it(mask_column):
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, JOINT.vocab_size)), jnp.float32)
  # Knows only whether a text has masks, and the time: both say which row of the logits counts.
  encode = lambda params, inputs, *, time, **_: types.Hidden(jnp.broadcast_to(
      logits[((inputs.tokens == JOINT.mask_id).any(axis=1) | (time > 0)).astype(int)][:, None],
      inputs.tokens.shape + logits.shape[1:]))
  network = JOINT.network()._replace(encode=encode)
  kept, read = (diffusion.MaskedDiffusion(network=network, mask_id=JOINT.mask_id,
                                          mask_column=mask_column, carry_over=carry_over)
                for carry_over in (True, False))
  tokens = np.where(np.arange(JOINT.length) == 2, JOINT.pad_id, JOINT.sequences[:40])

  @jax.jit
  def score(batch):
    batch, _ = kept.prepare(PARAMS, batch, rng.root(0), CONTEXT)
    return [(totals["elbo"], aux.rows["nll"])
            for totals, aux in (x(PARAMS, batch, CONTEXT) for x in (read, kept))]

  (ours, rows), (theirs, plain) = score(oracle.batch_of(JOINT, tokens))
  clean = logits[0] if mask_column else logits[0].at[JOINT.mask_id].set(-jnp.inf)
  cost = np.where(tokens == JOINT.pad_id, 0, -np.asarray(jax.nn.log_softmax(clean))[tokens])
  np.testing.assert_allclose(rows - plain, cost.sum(axis=1), rtol=1e-3)
  np.testing.assert_allclose(ours - theirs, cost.sum(), rtol=1e-4)


def test_lladas_loss_is_mdlms_under_the_change_of_variable():
  # LLaDA: mask rate p, weight 1 / p, p uniform. MDLM: any schedule, weight -alpha' / (1 - alpha).
  mask_prob = np.linspace(0.05, 0.95, 7)
  llada = _objective(schedule=_schedule("linear", None, 0.0))
  every = np.tile(MASKS, (7, 1))
  _, aux = _score(llada, JOINT.sequences[17], every, np.repeat(1 / mask_prob, 16))
  wanted = (_mask_law(mask_prob) * np.asarray(aux.rows["nll"]).reshape(7, 16)).sum(axis=1)
  for name, power in SCHEDULES[1:3]:
    alpha = config_lib.build(schedule_lib.SCHEDULES, _schedule(name, power, 0.0))
    time, slope = jax.vmap(jax.value_and_grad(alpha.time))(jnp.asarray(mask_prob, jnp.float32))
    _, aux = _score(_objective(schedule=_schedule(name, power, 0.0)), JOINT.sequences[17], every,
                    jnp.repeat(alpha.weight(time), 16))
    found = (_mask_law(mask_prob) * np.asarray(aux.rows["nll"]).reshape(7, 16)).sum(axis=1)
    np.testing.assert_allclose(found * slope, wanted, rtol=2e-3)


class _Places:
  """A network whose hidden state is the oracle's logits of the place after it."""

  def __init__(self):
    whole = JOINT.network()

    def encode(params, inputs, *, attention, time=None, noise=None):
      # Segments of two tokens: the first from its own place, the second from the first's.
      logits = whole.encode(params, inputs, attention=attention).last
      return types.Hidden(jnp.concatenate([logits, jnp.roll(logits, -1, axis=1)], axis=-1))

    def head(params, hidden, name):
      return jnp.split(hidden, 2, axis=-1)[1]

    self.network = whole._replace(encode=encode, head=head)


@pytest.mark.slow
def test_a_shifted_model_predicts_each_place_from_the_one_before_it():
  shifted = diffusion.MaskedDiffusion(network=_Places().network, mask_id=JOINT.mask_id, shift=True)
  weight = np.ones(len(MASKS))
  masks = MASKS & np.array([False, True, True, True])  # place 0 is read from itself
  _, found = _score(shifted, JOINT.sequences[17], masks, weight)
  _, wanted = _score(_objective(), JOINT.sequences[17], masks, weight)
  np.testing.assert_allclose(found.rows["nll"], wanted.rows["nll"], rtol=1e-5)
  canvas = jnp.asarray(np.where(masks, JOINT.mask_id, JOINT.sequences[17]))
  request = types.Request(canvas, weight)
  logits = shifted.answer(PARAMS, request).logits
  np.testing.assert_allclose(logits[:, 1:], _objective().answer(PARAMS, request).logits[:, 1:], atol=1e-5)
  targets = jnp.tile(jnp.array([[3, 1, 9]]), (16, 1))
  some = shifted.answer(PARAMS, request._replace(targets=targets)).logits
  np.testing.assert_array_equal(some[:, :2], logits[:, jnp.array([3, 1])])


def test_the_shift_begins_anew_with_every_segment():
  seen = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (2, 6, 1))
  segments = jnp.array([[1, 1, 2, 2, 2, 0], [0, 0, 1, 1, 1, 1]])
  found = reading.previous_hidden(seen, segments)[..., 0]
  np.testing.assert_array_equal(found, [[0, 0, 2, 2, 3, 5], [0, 0, 2, 2, 3, 4]])
  network = types.Network(lambda key: {}, lambda params, inputs, **k: types.Hidden(seen),
                          lambda params, hidden, name: jnp.tile(hidden, (1, 1, 5)), 5)
  objective = diffusion.MaskedDiffusion(network=network, mask_id=1, shift=True, mask_column=True)
  logits = objective.answer(PARAMS, types.Request(jnp.ones((2, 6), jnp.int32), jnp.ones(2),
                                                   segment_ids=segments)).logits
  np.testing.assert_array_equal(logits[..., 0], found)


def test_a_shifted_model_has_no_exact_cache():
  build = lambda cache: samplers.build(dict(name="confidence", cache=cache, gen_length=4, steps=4),
                                       _objective(shift=True), mask_id=JOINT.mask_id)
  assert build("dual").cache == "dual" and build("prefix").cache == "prefix"
  with pytest.raises(ValueError, match="shifted model.* use prefix, dual or none") as error:
    build("block")
  assert "\n" not in str(error.value)


def test_elbo_weighting_sums_the_weighted_losses_without_the_constant():
  weight, row = np.arange(len(MASKS)) / 4.0, 17
  total, aux = _score(_objective(), JOINT.sequences[row], MASKS, weight)
  np.testing.assert_allclose(total, weight @ _mask_costs(row), rtol=1e-5)
  nats, count = aux.metrics["nats_per_token"]
  np.testing.assert_allclose(nats, total + len(MASKS) * _clipped(1e-4), rtol=1e-5)
  assert float(count) == MASKS.size and total.dtype == nats.dtype == jnp.float32


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_rows_of_padding_weigh_nothing_and_stay_finite(mask_draw):
  objective = _objective(mask_draw=mask_draw)
  tokens = np.full((4, 4), JOINT.pad_id)
  tokens[0] = JOINT.sequences[5]
  for part in (slice(0, 4), slice(1, 4)):
    batch = oracle.batch_of(JOINT, tokens[part])
    prepared, weights = _prepare(objective, batch)
    totals, aux = jax.jit(lambda b: objective(PARAMS, b, CONTEXT))(prepared)
    assert np.all(np.isfinite(jax.tree.leaves((totals, aux.metrics))))
    padding = np.asarray(~batch["loss_mask"].any(axis=1))
    assert np.all(np.asarray(aux.rows["nll"])[padding] == 0)
    assert np.all(np.asarray(aux.rows["count"])[padding] == 0)
    assert np.all(np.isfinite(prepared["token_weight"]))
    np.testing.assert_array_equal(prepared["noisy_tokens"][padding], tokens[part][padding])
    assert float(weights["elbo"]) == (4 if part.start == 0 else 0)


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
@pytest.mark.parametrize("time", tiny.first(["independent", "stratified", "lattice"], 2))
def test_a_rows_draws_follow_it_to_another_place_and_change_with_the_step(mask_draw, time):
  objective = _objective(mask_draw=mask_draw, time=time)
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences, (2, 1))[:64], first=128)
  order = np.random.default_rng(0).permutation(64)
  one, _ = _prepare(objective, batch)
  other, _ = _prepare(objective, {k: v[order] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(np.asarray(one[name])[order], other[name], err_msg=name)
  assert not np.array_equal(one["is_masked"], _prepare(objective, batch, step=4)[0]["is_masked"])


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_a_rows_draws_do_not_depend_on_the_rows_beside_it(mask_draw):
  objective = _objective(mask_draw=mask_draw, time="independent")
  batch = oracle.batch_of(JOINT, JOINT.sequences[:32])
  one, _ = _prepare(objective, batch)
  other, _ = _prepare(objective, {k: v[8:14] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(np.asarray(one[name])[8:14], other[name], err_msg=name)


@pytest.mark.parametrize("mask_draw", tiny.first(["bernoulli", "exact_count"], 1))
@pytest.mark.parametrize("time", ["stratified", "lattice"])
def test_eight_devices_draw_and_score_what_one_does(mask_draw, time):
  objective = _objective(mask_draw=mask_draw, time=time)
  batch = jax.device_get(oracle.batch_of(JOINT, JOINT.sequences[:64]))

  def both(devices):
    mesh = sharding.make_mesh({"data": devices}, jax.devices()[:devices])
    jax.set_mesh(mesh)
    prepared, weights = _prepare(objective, sharding.place_batch(batch, mesh))
    assert len(prepared["tokens"].sharding.device_set) == devices
    totals, aux = jax.jit(lambda b: objective(PARAMS, b, CONTEXT))(prepared)
    return jax.device_get((prepared, weights)), jax.device_get((totals, aux.rows))

  (one, one_score), (eight, eight_score) = both(1), both(8)
  jax.tree.map(np.testing.assert_array_equal, one, eight)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), one_score, eight_score)


def _batch_losses(time, mask_draw, num_steps=150, rows=128, length=128):
  """Losses in nats per token of batches whose cross-entropy is 2 + 6 x mask rate."""
  objective = _objective(time=time, mask_draw=mask_draw)
  batch = {"tokens": jnp.zeros((rows, length), jnp.int32),
           "example_index": jnp.arange(rows, dtype=jnp.int32)}

  def loss(step):
    prepared, weights = objective.prepare({}, batch, rng.stream(rng.root(0), "train", step),
                                          CONTEXT)
    count = prepared["is_masked"].sum(axis=1)
    nats = prepared["token_weight"] * count * (2 + 6 * count / length)
    return nats.sum() / weights["elbo"]

  return np.asarray(jax.jit(lambda: jax.lax.map(loss, jnp.arange(num_steps)))())


@pytest.mark.slow
def test_even_times_and_exact_counts_lower_the_variance_of_the_loss():
  spread = {(t, m): _batch_losses(t, m).std() for t, m in (
      ("independent", "bernoulli"), ("stratified", "bernoulli"), ("lattice", "bernoulli"),
      ("lattice", "exact_count"))}
  assert spread["independent", "bernoulli"] > 2 * spread["lattice", "bernoulli"]
  assert spread["independent", "bernoulli"] > 2 * spread["stratified", "bernoulli"]
  assert spread["lattice", "bernoulli"] > 1.2 * spread["lattice", "exact_count"]


def test_denoise_returns_the_conditionals_and_never_the_mask_id():
  objective = _objective()
  canvas = np.where(MASKS, JOINT.mask_id, JOINT.sequences[17])
  request = types.Request(jnp.asarray(canvas), jnp.ones(len(MASKS)))
  logits = objective.answer(PARAMS, request).logits
  found = np.asarray(jax.nn.softmax(logits, axis=-1))
  np.testing.assert_allclose(found, JOINT.conditionals(canvas), atol=1e-6)
  assert np.all(found[..., JOINT.mask_id] == 0) and logits.dtype == jnp.float32
  targets = jnp.asarray(np.random.default_rng(0).integers(0, 4, (len(MASKS), 2)))
  some = objective.answer(PARAMS, request._replace(targets=targets)).logits
  np.testing.assert_array_equal(some, np.take_along_axis(np.asarray(logits), np.asarray(
      targets)[..., None], axis=1))


def test_the_mask_id_keeps_its_column_where_it_is_said_to_as_in_llada():
  canvas = jnp.asarray(np.where(MASKS, JOINT.mask_id, JOINT.sequences[17]))
  logits = _objective(mask_column=True).answer(PARAMS, types.Request(canvas, jnp.ones(len(MASKS)))).logits
  assert np.all(logits[..., JOINT.mask_id] == 5)  # what the oracle gives it
  _, plain = _score(_objective(), JOINT.sequences[17], MASKS[-1:], [1.0])
  _, kept = _score(_objective(mask_column=True), JOINT.sequences[17], MASKS[-1:], [1.0])
  cost = np.log(1 + np.exp(5)) * JOINT.length  # the column's share of each softmax
  np.testing.assert_allclose(kept.rows["nll"] - plain.rows["nll"], cost, rtol=1e-5)


def test_denoise_hands_slots_and_cache_to_the_network():
  seen = {}

  def encode(params, inputs, *, attention, cache=None, slots=None, time=None):
    seen.update(inputs._asdict(), slots=slots, cache=cache, attention=attention, time=time)
    return types.Hidden(jnp.zeros(inputs.tokens.shape + (5,)), cache=("new",))

  objective = diffusion.MaskedDiffusion(
      network=JOINT.network()._replace(encode=encode), mask_id=JOINT.mask_id,
      attention={"name": "block_causal", "block_length": 2})
  request = types.Request(jnp.array([[0, 2, 3, 1], [3, 1, 1, 2]]), jnp.ones(2) / 4,
                          slots=jnp.array([[3, 4], [0, 2]]), cache=("old",))
  logits, _, cache, *_ = objective.answer(PARAMS, request)
  np.testing.assert_array_equal(seen["tokens"], [[1, 1], [3, 1]])  # 4: none, whatever is read
  assert seen["slots"] is request.slots and seen["cache"] == ("old",) and cache == ("new",)
  assert seen["time"] is request.noise_level and logits.shape == (2, 2, 5)
  assert seen["attention"] == attention_lib.BlockCausal(2) == objective.visibility


def test_training_reads_with_the_attention_of_the_objective():
  seen = []

  def encode(params, inputs, *, attention, **options):
    seen.append(attention)
    return JOINT.network().encode(params, inputs, attention=attention_lib.Full())

  objective = diffusion.MaskedDiffusion(
      network=JOINT.network()._replace(encode=encode), mask_id=JOINT.mask_id,
      attention={"name": "block_causal", "block_length": 2})
  prepared, _ = _prepare(objective, oracle.batch_of(JOINT, JOINT.sequences[:2]))
  objective(PARAMS, prepared, CONTEXT)
  assert seen == [attention_lib.BlockCausal(2)]


def test_what_the_objective_reads_with_reaches_the_network():
  seen = {}

  def encode(params, inputs, *, attention, time=None, noise=None):
    seen.update(inputs._asdict(), time=time)
    return JOINT.network().encode(params, inputs, attention=attention)

  objective = diffusion.MaskedDiffusion(network=JOINT.network()._replace(encode=encode),
                                        mask_id=JOINT.mask_id)
  batch = oracle.batch_of(JOINT, JOINT.sequences[:2]) | {
      "positions": jnp.full((2, 4), 7), "segment_ids": jnp.full((2, 4), 8)}
  prepared, _ = _prepare(objective, batch)
  objective(PARAMS, prepared, CONTEXT)
  assert seen["positions"] is prepared["positions"] and seen["time"] is prepared["noise_level"]
  assert seen["segment_ids"] is prepared["segment_ids"]


@pytest.mark.parametrize("fields,message", [
    ({"time": "even"}, "objective.time is 'even'; choose from independent, stratified, lattice."),
    ({"mask_draw": "all"}, "mask_draw"), ({"normalizer": "mean"}, "normalizer"),
    ({"weighting": "none"}, "weighting"), ({"num_steps": -1}, "num_steps must be positive, or 0"),
    ({"random_length_rate": 1.5}, "random_length_rate must lie"),
    ({"cart_rate": 1.0}, r"cart_rate must lie in \(0, 1\), got 1.0"),
    ({"cart_rate": np.nan}, "cart_rate must lie in"),
    ({"num_steps": 9, "mask_draw": "exact_count"}, "with num_steps 9 use bernoulli"),
    ({"schedule": {"name": "liner"}}, "mean 'linear'"),
    ({"schedule": "linear"}, "dict\\(name"),
    ({"time_density": {"name": "bel"}}, "mean 'bell'"),
    ({"time_density": BELL | {"uniform": 0.0}}, r"density.uniform must lie in \(0, 1\), got 0.0"),
    ({"time_density": BELL | {"spread": 0.0}}, "density.spread must lie in"),
    ({"attention": {"name": "sparse"}}, "unknown attention name 'sparse'; choose from block_"),
    ({"attention": {"name": "block_causal", "block_length": 0}}, "block_length must be at least 1"),
    ({"schedule": {"name": "cosine"}, "mask_draw": "exact_count"}, "linear schedule; got 'cos")])
def test_unknown_choices_are_refused_in_words(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


def test_every_schedule_is_covered_here():
  assert {name for name, _ in SCHEDULES} == set(schedule_lib.SCHEDULES)
  assert config_lib.build(schedule_lib.SCHEDULES, _schedule("linear", None, 0.1)).eps == 0.1


@pytest.mark.parametrize("name, time, mask_draw, allowance, density", tiny.first([
    ("linear", "lattice", "exact_count", 0.0, "uniform"),
    ("linear", "stratified", "exact_count", 0.005, "uniform"),
    ("linear", "lattice", "exact_count", 0.0, "bell"),
    ("linear", "lattice", "bernoulli", 0.005, "uniform"),
    ("cosine", "lattice", "bernoulli", 0.005, "uniform"),
    ("polynomial", "stratified", "bernoulli", 0.005, "uniform"),
    ("linear", "independent", "bernoulli", 0.01, "uniform")], 2))
def test_the_heads_reserved_positions_suffice(name, time, mask_draw, allowance, density):
  rows, length, seen = 16, 64, []

  def head(params, hidden, which):
    seen.append(math.prod(hidden.shape[:-1]))
    return hidden

  network = types.Network(lambda key: {}, lambda params, inputs, **k: types.Hidden(
      jnp.zeros(inputs.tokens.shape + (11,))), head, 11)
  objective = diffusion.MaskedDiffusion(network=network, mask_id=10, time=time,
                                        mask_draw=mask_draw, schedule={"name": name, "eps": 1e-4},
                                        time_density=BELL if density == "bell" else {"name": density})
  batch = {"tokens": jnp.ones((rows, length), jnp.int32), "example_index": jnp.arange(rows)}
  prepare = jax.jit(lambda step: objective.prepare(
      {}, batch, rng.stream(rng.root(0), "train", step), CONTEXT)[0])
  jax.eval_shape(lambda: objective({"model": {}}, prepare(0), CONTEXT))
  counts = np.array([int(prepare(step)["is_masked"].sum()) for step in range(500)])
  assert seen[0] < 0.95 * rows * length or time == "independent"
  assert np.mean(counts > seen[0]) <= allowance
