"""Likelihood: unbiased estimators, standard errors, answers given prompts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.eval import likelihood
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import genmd4
from mdx.objectives.diffusion import masked as diffusion

import oracle
import tiny

JOINT = oracle.random_joint()
PARAMS = {"model": {}}
EXACT = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)


def _bound(**fields):
  fields = {"mask_draw": "exact_count"} | fields
  return diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id, **fields)


def _rows(objective, tokens, **fields):
  row_nll = jax.jit(likelihood.make_row_nll(objective, **fields))
  return jax.device_get(row_nll(PARAMS, oracle.batch_of(JOINT, tokens)))


class _ReportsTime(types.Objective):
  """An objective whose row value is a function of its time."""
  def __init__(self, of_time=lambda t: t):
    self.of_time = of_time

  def prepare(self, params, batch, key, context):
    return batch, {}

  def __call__(self, params, batch, context):
    rows = {"nll": self.of_time(batch["time"]), "count": jnp.ones_like(batch["time"])}
    return {}, types.Aux({}, rows, {})


@pytest.mark.parametrize("estimator", tiny.first(likelihood.ESTIMATORS, 1))
@pytest.mark.parametrize("num_samples", tiny.mostly_slow([1, 3, 4], [3]))
def test_estimates_have_the_nll_as_their_mean(estimator, num_samples):
  if (estimator, num_samples) == ("quadrature", 1):
    return  # exact for a cost of degree 1, and this one has degree 3
  found = _rows(_bound(), np.tile(JOINT.sequences, (200, 1)), estimator=estimator,
                num_samples=num_samples)
  assert abs(oracle.z_score(found["nll"] - np.tile(JOINT.nll, 200), 0)) < 4
  np.testing.assert_array_equal(found["count"], JOINT.length)


@pytest.mark.parametrize("estimator", tiny.first(likelihood.ESTIMATORS, 2))
@pytest.mark.parametrize("schedule", [{"name": "linear", "eps": 1e-3},
                                      {"name": "cosine", "eps": 1e-3}])
def test_bernoulli_estimates_have_the_nll_as_their_mean(estimator, schedule):
  # eps = 1e-3 costs at most 1e-3 * log 4 * 4 nats, a tenth of the standard error here.
  objective = _bound(mask_draw="bernoulli", schedule=schedule)
  found = _rows(objective, np.tile(JOINT.sequences, (100, 1)), estimator=estimator, num_samples=4)
  assert abs(oracle.z_score(found["nll"] - np.tile(JOINT.nll, 100), 0)) < 4


def test_a_lattice_of_counts_spreads_each_rows_counts_evenly():
  class _ReportsCount(diffusion.MaskedDiffusion):

    def __call__(self, params, batch, context):
      count = batch["is_masked"].sum(axis=1)
      return {}, types.Aux({}, {"nll": 10.0 ** (count - 1), "count": count * 1.0}, {})

  marks = _ReportsCount(network=JOINT.network(), mask_id=JOINT.mask_id)
  for num_samples, wanted in ((4, {1111}), (2, {101, 1010}), (8, {2222})):
    found = _rows(marks, JOINT.sequences[:40], estimator="lattice_k", num_samples=num_samples)
    totals = np.round(num_samples * found["nll"]).astype(int)
    assert set(totals.tolist()) == wanted


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_quadrature_takes_the_nodes_of_gauss_and_legendre_with_their_shares(mask_draw):
  class _ReportsPower(diffusion.MaskedDiffusion):

    def __call__(self, params, batch, context):
      level = batch["noise_level"]
      return {}, types.Aux({}, {"nll": level ** 5, "count": jnp.ones_like(level)}, {})

  marks = _ReportsPower(network=JOINT.network(), mask_id=JOINT.mask_id, mask_draw=mask_draw)
  found = _rows(marks, JOINT.sequences[:5], estimator="quadrature", num_samples=3)
  np.testing.assert_allclose(found["nll"], 1 / 6, rtol=1e-5)
  np.testing.assert_allclose(found["count"], 1, rtol=1e-6)


@pytest.mark.parametrize("objective, estimator, message", [
    (lambda: diffusion.MaskedDiffusion(network=JOINT.network()._replace(reads_time=True), mask_id=1,
                                       schedule={"name": "cosine"}), "lattice_k",
     "lattice_k draws exact counts.* and the linear schedule where the network is told the time"),
    (lambda: _bound(mask_draw="bernoulli", num_steps=8), "lattice_k", "need continuous time, and"),
    (lambda: _bound(mask_draw="bernoulli", num_steps=8), "quadrature", "has 8 steps here"),
    (lambda: genmd4.GenMD4(network=JOINT.network(), mask_id=1), "lattice_k",
     "exact counts of masks, which GenMD4 does not; use stratified")])
def test_an_estimator_that_does_not_fit_the_objective_is_refused(objective, estimator, message):
  with pytest.raises(ValueError, match=message) as error:
    likelihood.check_estimator(estimator, objective())
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_strata_lower_the_variance():
  tokens = np.tile(JOINT.sequences[17], (4000, 1))
  spread = {name: _rows(_bound(), tokens, estimator=name, num_samples=4)["nll"].var()
            for name in likelihood.ESTIMATORS}
  assert spread["monte_carlo"] > 1.3 * spread["stratified"]
  assert spread["monte_carlo"] > 1.3 * spread["lattice_k"]


@pytest.mark.parametrize("num_samples", [3, 4])
def test_each_row_takes_one_time_in_each_stratum(num_samples):
  marks = _ReportsTime(lambda t: 10.0 ** (jnp.ceil(num_samples * t) - 1))
  batch = {"tokens": jnp.zeros((50, 1), jnp.int32),
           "example_index": 2 ** 31 - 50 + jnp.arange(50, dtype=jnp.int32)}
  found = jax.jit(likelihood.make_row_nll(marks, num_samples=num_samples))(PARAMS, batch)["nll"]
  np.testing.assert_allclose(num_samples * np.asarray(found), int("1" * num_samples), rtol=1e-6)


def test_every_draw_of_a_row_has_a_key_of_its_own():
  class _ReportsKey(_ReportsTime):

    def prepare(self, params, batch, key, context):
      return batch | {"time": jax.random.uniform(key, batch["time"].shape)}, {}

  batch = {"tokens": jnp.zeros((3, 1), jnp.int32), "example_index": jnp.arange(3)}
  one, two = (likelihood.make_row_nll(_ReportsKey(), num_samples=n)(PARAMS, batch)["nll"]
              for n in (1, 2))
  assert np.abs(np.asarray(one) - np.asarray(two)).min() > 1e-3


def test_one_draw_of_a_batch_spans_all_strata():
  # So a batch's mask rate stays near the mean, for which the head's positions are reserved.
  times = []
  marks = _ReportsTime(lambda t: jax.debug.callback(lambda x: times.append(np.asarray(x)), t) or t)
  batch = {"tokens": jnp.zeros((64, 1), jnp.int32), "example_index": jnp.arange(64)}
  jax.block_until_ready(likelihood.make_row_nll(marks, num_samples=4)(PARAMS, batch))
  jax.effects_barrier()
  assert len(times) == 4 and all(abs(t.mean() - 0.5) < 0.05 for t in times)


@pytest.mark.parametrize("estimator", likelihood.ESTIMATORS)
@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0 ** -23])
@pytest.mark.parametrize("num_samples", [1, 8, 16, 100])
def test_time_is_positive_at_any_rounding(monkeypatch, estimator, uniform, num_samples):
  monkeypatch.setattr(jax.random, "uniform",
                      lambda key, shape=(), dtype=jnp.float32: jnp.full(shape, uniform, dtype))
  inside = _ReportsTime(lambda t: ((t > 0) & (t <= 1)) * 1.0)
  batch = {"tokens": jnp.zeros((3, 1), jnp.int32), "example_index": jnp.arange(3)}
  found = likelihood.make_row_nll(inside, estimator=estimator, num_samples=num_samples)(
      PARAMS, batch)["nll"]
  np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.slow
def test_a_rows_estimate_does_not_depend_on_the_batch():
  row_nll = jax.jit(likelihood.make_row_nll(_bound(), num_samples=3))
  batch = oracle.batch_of(JOINT, JOINT.sequences[:40])
  order = np.random.default_rng(0).permutation(40)[:11]
  whole = row_nll(PARAMS, batch)["nll"]
  part = row_nll(PARAMS, {k: v[order] for k, v in batch.items()})["nll"]
  np.testing.assert_allclose(np.asarray(whole)[order], part, rtol=1e-6)


def test_an_exact_likelihood_needs_one_draw():
  found = _rows(EXACT, JOINT.sequences, num_samples=7)
  np.testing.assert_allclose(found["nll"], JOINT.nll, rtol=1e-5)
  calls = []
  counted = JOINT.causal_network()._replace(
      encode=lambda *a, **k: calls.append(1) or jax.debug.callback(
          lambda: calls.append(2)) or JOINT.causal_network().encode(*a, **k))
  _rows(ar.AutoRegressive(network=counted, mask_id=JOINT.mask_id), JOINT.sequences, num_samples=7)
  jax.effects_barrier()
  assert calls.count(2) == 1


@pytest.mark.slow
def test_ratio_is_the_bootstraps_for_rows_of_unequal_length():
  draw = np.random.default_rng(0)
  counts = draw.integers(1, 200, 300).astype(float)
  totals = counts * (2 + draw.normal(size=300) * 0.5) + draw.normal(size=300) * 5
  value, error = likelihood.ratio(totals, counts)
  np.testing.assert_allclose(value, totals.sum() / counts.sum())
  picks = draw.integers(0, 300, (20000, 300))
  bootstrap = totals[picks].sum(axis=1) / counts[picks].sum(axis=1)
  np.testing.assert_allclose(error, bootstrap.std(), rtol=0.05)


def test_ratio_of_equal_counts_is_the_mean_and_its_standard_error():
  totals = np.array([3.0, 5.0, 10.0])
  value, error = likelihood.ratio(totals, np.full(3, 2.0))
  np.testing.assert_allclose([value, error], [3.0, (totals / 2).std(ddof=1) / math.sqrt(3)])


def test_the_standard_error_covers_times_and_masks():
  # One text again and again: all of the error comes from the draws, and must be seen.
  found = _rows(_bound(), np.tile(JOINT.sequences[17], (60 * 200, 1)), num_samples=2)
  estimates = [likelihood.ratio(nll, np.full(200, JOINT.length))
               for nll in found["nll"].reshape(60, 200)]
  errors = [(value - JOINT.nll[17] / JOINT.length) / error for value, error in estimates]
  assert 0.75 < np.std(errors) < 1.3


def test_a_single_row_has_an_infinite_standard_error():
  value, error = likelihood.ratio([6.0], [3.0])
  assert value == 2.0 and error == math.inf
  summary = likelihood.summarize(np.array([6.0]), np.array([3.0]), np.array([4.0]))
  assert summary["nats_per_token_stderr"] == summary["bits_per_char_stderr"] == math.inf


def _chain(prompt, answer):
  """-log p(answer | prompt) by enumeration, tokens behind it summed out."""
  tokens = np.full((1, JOINT.length), JOINT.mask_id)
  tokens[0, :len(prompt)] = prompt
  total = 0.0
  for i, token in enumerate(answer, len(prompt)):
    total -= math.log(JOINT.conditionals(tokens)[0, i, token])
    tokens[0, i] = token
  return total


_PAIRS = [([0, 2], [3, 3]), ([0], [2, 0, 3]), ([2, 2, 0], [3]), ([3, 0], [2]), ([], [0, 2, 3, 3])]


def _conditional(objective, pairs, **fields):
  row_nll = jax.jit(likelihood.make_row_nll(objective, **fields))
  return likelihood.conditional_nll(row_nll, PARAMS, pairs, length=JOINT.length,
                                    pad_id=JOINT.pad_id)


@pytest.mark.slow
def test_answers_get_their_probability_given_the_prompt():
  wanted = [_chain(*pair) for pair in _PAIRS]
  np.testing.assert_allclose(_conditional(EXACT, _PAIRS), wanted, rtol=1e-5)
  # Diffusion: exact where the answer is one token, else unbiased.
  found = _conditional(_bound(), _PAIRS * 400, num_samples=8).reshape(400, len(_PAIRS))
  for i, (_, answer) in enumerate(_PAIRS):
    if len(answer) == 1:
      np.testing.assert_allclose(found[:, i], wanted[i], rtol=1e-5)
    else:
      assert abs(oracle.z_score(found[:, i], wanted[i])) < 4


def test_the_likeliest_choice_is_the_answer():
  prompts = [[a, b] for a in JOINT.real for b in JOINT.real]
  choices = [[a, b] for a in JOINT.real for b in JOINT.real]
  wanted = np.array([[_chain(p, c) for c in choices] for p in prompts])
  found = _conditional(EXACT, [(p, c) for p in prompts for c in choices]).reshape(9, 9)
  np.testing.assert_array_equal(found.argmin(axis=1), wanted.argmin(axis=1))
  found = _conditional(_bound(), [(p, [c]) for p in prompts for c in JOINT.real], num_samples=1)
  wanted = np.array([[_chain(p, [c]) for c in JOINT.real] for p in prompts])
  np.testing.assert_array_equal(found.reshape(9, 3).argmin(axis=1), wanted.argmin(axis=1))


@pytest.mark.parametrize("pair", [([0, 2, 3], [2, 2]), ([0], [])])
def test_a_pair_that_cannot_be_scored_is_refused(pair):
  with pytest.raises(ValueError, match="choice 1 has .* within the row length 4"):
    _conditional(EXACT, [([0], [2]), pair])


@pytest.mark.parametrize("devices", [1, 8])
def test_evaluate_sums_all_rows_but_padding(devices):
  mesh = sharding.make_mesh({"data": devices}, jax.devices()[:devices])
  jax.set_mesh(mesh)
  tokens = np.concatenate([JOINT.sequences[:20], np.full((4, 4), JOINT.pad_id, np.int32)])
  batches = [{"tokens": t, "loss_mask": t != JOINT.pad_id} for t in (tokens[:8], tokens[8:16],
                                                                    tokens[16:])]
  chars = np.array([1, 0, 2, 3, 9])
  found = likelihood.evaluate(jax.jit(likelihood.make_row_nll(EXACT)), PARAMS, batches, mesh=mesh,
                              chars_per_token=chars)
  nll, num_chars = JOINT.nll[:20], chars[JOINT.sequences[:20]].sum()
  np.testing.assert_allclose(found["nats_per_token"], nll.mean() / 4, rtol=1e-5)
  np.testing.assert_allclose(found["nats_per_token_stderr"], nll.std(ddof=1) / 4 / math.sqrt(20),
                             rtol=1e-4)
  np.testing.assert_allclose(found["perplexity"], math.exp(nll.mean() / 4), rtol=1e-5)
  np.testing.assert_allclose(found["bits_per_char"], nll.sum() / math.log(2) / num_chars, rtol=1e-5)
  assert (found["num_rows"], found["num_tokens"], found["num_chars"]) == (20, 80, num_chars)


@pytest.mark.slow
def test_evaluate_draws_anew_for_every_batch():
  mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
  one = {"tokens": np.tile(JOINT.sequences[17:18], (4, 1)), "loss_mask": np.ones((4, 4), bool)}
  row_nll = likelihood.make_row_nll(_bound(), num_samples=1)
  seen = []
  likelihood.evaluate(lambda p, b, frozen: seen.append(b["example_index"]) or row_nll(p, b), PARAMS,
                      [one, one], mesh=mesh, chars_per_token=None)
  np.testing.assert_array_equal(np.concatenate(seen), np.arange(8))


def test_an_empty_set_and_unknown_choices_are_refused():
  with pytest.raises(ValueError, match="evaluation set is empty"):
    likelihood.evaluate(None, PARAMS, [], mesh=None, chars_per_token=None)
  with pytest.raises(ValueError, match="choose from stratified, monte_carlo, lattice_k, quadrat"):
    likelihood.make_row_nll(EXACT, estimator="exact")
  with pytest.raises(ValueError, match="must be positive, got 0"):
    likelihood.make_row_nll(EXACT, num_samples=0)
