"""Block diffusion: two streams against blocks one by one, and the bound of a known joint.

Reference: Arriola et al. 2025, arXiv:2503.09573.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.corruption import block as block_lib
from mdx.corruption import time as time_lib
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.networks import visibility
from mdx.objectives import reading
from mdx.objectives.diffusion import block as block_diffusion
from mdx.utils import rng
from mdx.utils import tree

import enumerated
import oracle
import tiny

JOINT, CONTEXT = enumerated.JOINT, enumerated.CONTEXT
SEGMENTS = np.array([[1] * 7 + [2] * 4 + [0], [1] * 3 + [2] * 9])
POSITIONS = np.array([[*range(7), *range(4), 0], [*range(3), *range(9)]])


def _oracle(block_length):
  """p(x_i | the clean blocks before it and what its noisy block shows), by the table."""
  length = JOINT.length
  block = np.arange(length) // block_length
  table = jnp.asarray(JOINT.probs[:, None, None] * np.eye(JOINT.vocab_size)[JOINT.sequences],
                      jnp.float32)

  def encode(params, inputs, *, attention, time=None, noise=None):
    tokens = inputs.tokens
    assert attention == attention_lib.TwoStream(block_length) and tokens.shape[1] == 2 * length
    noisy, clean = tokens[:, :length], tokens[:, length:]
    hidden = []
    for i in range(length):
      before, own = jnp.asarray(block < block[i]), jnp.asarray(block == block[i])
      shown = jnp.where(before[None], clean, jnp.where(own[None], noisy, JOINT.mask_id))
      unknown = (shown == JOINT.mask_id)[:, None]
      agrees = ((shown[:, None] == jnp.asarray(JOINT.sequences)[None]) | unknown).all(axis=2)
      mass = jnp.einsum("bn,nv->bv", agrees * 1.0, table[:, i])
      hidden.append(jnp.log(jnp.maximum(mass / mass.sum(axis=-1, keepdims=True), 1e-30)))
    half = jnp.stack(hidden, axis=1)
    return types.Hidden(jnp.concatenate([half, jnp.full_like(half, jnp.nan)], axis=1))

  return JOINT.network()._replace(encode=encode)


def _objective(block_length=2, **fields):
  return block_diffusion.BlockDiffusion(
      network=_oracle(block_length), mask_id=JOINT.mask_id,
      attention={"name": "block_causal", "block_length": block_length}, **fields)


def _drawn(objective, tokens, seed=0):
  def score(batch):
    prepared, _ = objective.prepare({}, batch, rng.root(seed), CONTEXT)
    return objective(enumerated.PARAMS, prepared, CONTEXT)[1].rows["nll"]
  return np.asarray(jax.jit(score)(oracle.batch_of(JOINT, tokens)), np.float64)


@pytest.mark.parametrize("block_length, fields", tiny.first([
    (2, {"mask_draw": "exact_count"}), (3, {"mask_draw": "exact_count", "time": "independent"}),
    (2, {"schedule": {"name": "cosine", "eps": 1e-5}}), (4, {"mask_draw": "exact_count"}),
    (4, {"mask_draw": "exact_count", "complementary": True})], 2))
def test_drawn_bounds_have_the_nll_as_their_mean(block_length, fields):
  rows = _drawn(_objective(block_length, **fields), np.tile(JOINT.sequences, (200, 1)))
  assert abs(oracle.z_score(rows - np.tile(JOINT.nll, 200), 0)) < 4


def test_blocks_of_one_token_are_autoregressive_and_exact_for_every_draw():
  rows = _drawn(_objective(1, mask_draw="exact_count"), JOINT.sequences)
  np.testing.assert_allclose(rows, JOINT.nll, rtol=1e-5)


@functools.cache
def _model(shift):
  spec = transformer.Transformer(num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=7,
                                 vocab_multiple=1, max_length=12, scan_layers=False, tied=False)
  objective = block_diffusion.BlockDiffusion(
      network=spec.network(), mask_id=0, shift=shift,
      attention={"name": "block_causal", "block_length": 3})
  draw = np.random.default_rng(0)
  params = tree.map_with_path(
      lambda path, x: jnp.asarray(draw.normal(size=x.shape) / (
          x.shape[-2] ** 0.5 / 2 if path.endswith("kernel") else 1), jnp.float32),
      jax.eval_shape(objective.init, rng.root(0)))
  return objective, params


@pytest.mark.parametrize("shift", [False, True])
def test_two_streams_are_the_blocks_of_packed_documents_one_by_one(shift):
  objective, params = _model(shift)
  draw = np.random.default_rng(1)
  clean = draw.integers(1, 7, (2, 12))
  noisy = np.where(draw.random((2, 12)) < 0.5, 0, clean)
  batch = {"tokens": clean, "noisy_tokens": noisy, "positions": POSITIONS,
           "segment_ids": SEGMENTS}
  batch = {k: jnp.asarray(v, jnp.int32) for k, v in batch.items()}
  hidden = jax.jit(objective._hidden)(params, batch)  # pylint: disable=protected-access
  found = objective.network.head(params["model"], hidden)
  # Alone: the clean text of the document before the block, and the noisy block; and padding, so
  # that there is one program.
  read = jax.jit(lambda canvas, segments: objective.answer(params, types.Request(
      canvas, jnp.ones(1), segment_ids=segments)).logits)
  num_blocks = 0
  for row, document in ((0, 1), (0, 2), (1, 1), (1, 2)):
    where = np.flatnonzero(SEGMENTS[row] == document)
    for begin in range(0, len(where), 3):
      block = where[begin:begin + 3]
      canvas = np.concatenate([clean[row, where[:begin]], noisy[row, block]])
      alone = read(*(jnp.asarray(np.pad(x, (0, 12 - len(canvas))))[None]
                     for x in (canvas, np.ones(len(canvas), int))))
      np.testing.assert_allclose(found[row, block, 1:], alone[0, begin:begin + len(block), 1:],
                                 atol=2e-5)
      num_blocks += 1
  assert num_blocks == 3 + 2 + 1 + 3


def test_the_clean_text_of_a_block_does_not_reach_its_noisy_half():
  objective, params = _model(False)
  batch = {"tokens": jnp.ones((1, 12), jnp.int32), "noisy_tokens": jnp.zeros((1, 12), jnp.int32)}
  read = jax.jit(objective._hidden)  # pylint: disable=protected-access
  before, after = (read(params, batch | {"tokens": batch["tokens"].at[0, 5].set(value)})
                   for value in (2, 3))
  changed = np.any(np.asarray(before != after), axis=(0, 2))
  np.testing.assert_array_equal(changed, np.arange(12) >= 6)


def test_blocks_begin_anew_with_every_document():
  found = block_lib.block_index(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS), 3)
  np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 5],
                                        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]])
  cut = block_lib.block_index(jnp.array([[4, 5, 6, 7]]), None, 3)  # the rest of a document
  np.testing.assert_array_equal(cut, [[0, 0, 1, 1]])


def test_exact_counts_hold_in_every_block_and_are_uniform():
  num = 6000
  blocks = jnp.tile(jnp.array([[0, 0, 0, 1, 1, 2]]), (num, 1))
  allowed = jnp.tile(jnp.array([[True, True, True, True, False, True]]), (num, 1))
  count = jnp.tile(jnp.array([[2, 2, 2, 1, 1, 0]]), (num, 1))
  keys = rng.per_example(rng.root(0), jnp.arange(num))
  chosen = np.asarray(jax.jit(block_lib.exact_count)(keys, count, blocks, allowed))
  np.testing.assert_array_equal(chosen[:, :3].sum(axis=1), 2)
  assert chosen[:, 3].all() and not chosen[:, 4:].any()
  assert oracle.chi_square(chosen[:, :3].sum(axis=0), np.ones(3)) > 1e-4
  np.testing.assert_array_equal(block_lib.count_in_block(blocks, allowed)[0], [3, 3, 3, 1, 1, 1])


def test_times_of_all_blocks_of_a_batch_are_a_lattice():
  index = jnp.arange(8)
  times = time_lib.of_blocks(rng.per_example(rng.root(1), index),
                             time_lib.lattice(rng.root(0), index), 5)
  np.testing.assert_allclose(np.diff(np.sort(np.asarray(times).ravel())), 1 / 40, atol=1e-6)
  np.testing.assert_array_equal(np.sort(np.ceil(times * 5 - 1e-6), axis=1)[3], [1, 2, 3, 4, 5])
  assert len({tuple(np.argsort(row)) for row in np.asarray(times)}) > 1


@pytest.mark.slow
def test_training_clips_times_and_likelihoods_do_not():
  objective = _objective(2, clip=[0.3, 0.8], time="stratified",
                         schedule={"name": "linear", "eps": 0.0})
  batch = oracle.batch_of(JOINT, np.tile(JOINT.sequences, (6, 1)))
  draw = jax.jit(lambda b: objective.prepare({}, b, rng.root(0), CONTEXT)[0])
  clipped, whole = draw(batch), draw(batch | {"time": (jnp.arange(486) + 0.5) / 486})
  level = np.asarray(clipped["noise_level"])
  assert 0.3 <= level.min() < 0.31 and 0.79 < level.max() <= 0.8
  np.testing.assert_array_equal(level[:, 0], level[:, 1])
  assert np.any(level[:, 1] != level[:, 2])
  np.testing.assert_allclose(clipped["token_weight"], 1 / level, rtol=1e-6)
  assert np.asarray(whole["noise_level"]).min() < 0.01 < 0.99 < whole["noise_level"].max()


@pytest.mark.parametrize("mask_draw", ["exact_count", "bernoulli"])
@pytest.mark.parametrize("clip", [(0.3, 0.8), (0.6, 1.0), (0.0, 0.5), (0.45, 0.55)])
@pytest.mark.parametrize("block_length", tiny.first([4, 16], 1))
def test_clipped_mask_rates_lie_where_they_are_asked_for(mask_draw, clip, block_length):
  objective = block_diffusion.BlockDiffusion(
      network=_oracle(2), mask_id=0, mask_draw=mask_draw, clip=clip,
      attention={"name": "block_causal", "block_length": block_length})
  batch = {"tokens": jnp.ones((2000, 16), jnp.int32), "loss_mask": jnp.ones((2000, 16), bool),
           "example_index": jnp.arange(2000)}
  drawn = jax.jit(lambda b: objective.prepare({}, b, rng.root(0), CONTEXT)[0])(batch)
  rate = np.asarray(drawn["is_masked"]).reshape(-1, block_length).mean(axis=1)
  # At least one token of a block is masked, which few rates below 1 / block_length feel.
  least = 0.02 if clip[0] == 0 and mask_draw == "exact_count" else 0
  assert -0.01 < rate.mean() - sum(clip) / 2 < 0.01 + 3 * least
  if mask_draw == "exact_count":
    assert rate.min() > clip[0] - 1 / block_length and rate.max() < clip[1] + 1 / block_length
    level = np.asarray(drawn["noise_level"]).reshape(-1, block_length)[:, 0]
    np.testing.assert_allclose(rate, level, rtol=1e-6)


@pytest.mark.slow
def test_rows_draws_follow_them_and_padding_is_never_masked():
  objective = block_diffusion.BlockDiffusion(
      network=_oracle(2), mask_id=0, mask_draw="exact_count", time="independent",
      attention={"name": "block_causal", "block_length": 3})
  batch = {"tokens": jnp.ones((2, 12), jnp.int32), "loss_mask": jnp.asarray(SEGMENTS > 0),
           "segment_ids": jnp.asarray(SEGMENTS), "positions": jnp.asarray(POSITIONS),
           "example_index": jnp.array([5, 9])}
  draw = jax.jit(lambda b: objective.prepare({}, b, rng.root(0), CONTEXT)[0])
  one, other = draw(batch), draw({k: v[::-1] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(one[name], other[name][::-1], err_msg=name)
  assert not one["is_masked"][0, 11] and np.all(np.isfinite(one["token_weight"]))
  blocks = block_lib.block_index(batch["positions"], batch["segment_ids"], 3)
  length = block_lib.count_in_block(blocks, batch["loss_mask"])
  count = block_lib.count_in_block(blocks, one["is_masked"])
  real = np.asarray(batch["loss_mask"])
  assert np.all(np.asarray(count)[real] >= 1)
  np.testing.assert_allclose(np.asarray(one["token_weight"])[real],
                             np.asarray(length / count)[real])


def test_sampling_may_cache_finished_blocks_of_the_models_own_length():
  objective, _ = _model(False)
  fields = dict(name="confidence", cache="block", gen_length=12, steps=12)
  assert samplers.build(fields | {"block_length": 6}, objective, mask_id=0).cache == "block"
  with pytest.raises(ValueError, match="blocks of 4 tokens are no multiples of the model's"):
    samplers.build(fields | {"block_length": 4}, objective, mask_id=0)
  with pytest.raises(ValueError, match="use prefix, dual or none"):
    samplers.build(fields | {"block_length": 6}, _model(True)[0], mask_id=0)


def _table_objective(**fields):
  """Blocks of 3 tokens; the logits of a position are a function of its own token alone."""
  table = np.random.default_rng(2).normal(size=(7, 7)).astype(np.float32) * 2

  def encode(params, inputs, *, attention, time=None, noise=None):
    del params, attention, time, noise
    return types.Hidden(jnp.asarray(table)[inputs.tokens])

  network = types.Network(lambda key: {"unused": jnp.zeros(())}, encode,
                          lambda params, hidden, name: hidden, 7)
  return table, block_diffusion.BlockDiffusion(
      network=network, mask_id=0, attention={"name": "block_causal", "block_length": 3},
      **{"mask_draw": "exact_count", "clean_stream": "token"} | fields)


def _rows(num):
  tokens = np.random.default_rng(3).integers(1, 7, (num, 12))
  return {"tokens": jnp.asarray(tokens, jnp.int32), "example_index": jnp.arange(num),
          "segment_ids": jnp.asarray(np.resize(SEGMENTS, (num, 12)), jnp.int32),
          "positions": jnp.asarray(np.resize(POSITIONS, (num, 12)), jnp.int32),
          "loss_mask": jnp.asarray(np.resize(SEGMENTS > 0, (num, 12)))}


@pytest.fixture(name="all_terms", scope="module")
def _all_terms():
  table, objective = _table_objective(ar_weight=0.5, complementary=True, confidence_weight=2.0,
                                      edit_rate=0.3, edit_weight=0.7)
  batch = _rows(200)

  def score(batch):
    prepared, weights = objective.prepare({}, batch, rng.root(0), CONTEXT)
    return prepared, weights, *objective(enumerated.PARAMS, prepared, CONTEXT)

  return table, batch, objective, *jax.jit(score)(batch)


@pytest.mark.slow
def test_every_token_is_masked_in_exactly_one_of_two_complementary_texts(all_terms):
  _, batch, _, drawn, *_ = all_terms
  real, masked, other = (np.asarray(x) for x in (
      batch["loss_mask"], drawn["is_masked"], drawn["is_other"]))
  np.testing.assert_array_equal(masked ^ other, real)
  assert not np.any(masked & other) and 0.2 < masked[real].mean() < 0.8
  np.testing.assert_array_equal(np.asarray(drawn["noisy_tokens"] == 0), masked)
  np.testing.assert_array_equal(np.asarray(drawn["other_tokens"] == 0), other)


@pytest.mark.slow
def test_edits_replace_tokens_that_are_shown_by_uniform_ones(all_terms):
  _, batch, _, drawn, *_ = all_terms
  tokens, real = np.asarray(batch["tokens"]), np.asarray(batch["loss_mask"])
  for noisy, masked in (("noisy_tokens", "is_masked"), ("other_tokens", "is_other")):
    noisy, shown = np.asarray(drawn[noisy]), real & ~np.asarray(drawn[masked])
    changed = noisy != tokens
    np.testing.assert_array_equal(noisy[~real], tokens[~real])
    rate = changed[shown]  # one in six of the uniform tokens is the old one
    assert abs(oracle.z_score(rate, 0.3 * 5 / 6)) < 4
    offset = (noisy - tokens)[shown & changed] % 6  # of ids 1 .. 6
    assert oracle.chi_square(np.bincount(offset, minlength=6)[1:], np.ones(5)) > 1e-4


def test_every_term_is_the_sum_by_hand(all_terms):
  table, batch, objective, drawn, weights, totals, aux = all_terms
  table = np.where(np.arange(7) == 0, -1e30, table.astype(np.float64))  # no mask is predicted
  log_probs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
  tokens, real = np.asarray(batch["tokens"]), np.asarray(batch["loss_mask"])
  of = lambda inputs: np.take_along_axis(log_probs[inputs], tokens[..., None], axis=2)[..., 0]
  begins = np.resize(POSITIONS == 0, real.shape)
  previous = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  wanted = {"elbo": 0.0, "edit": 0.0, "confidence": 0.0,
            "ar": -of(previous)[real & ~begins].sum()}
  entropy = -(np.exp(log_probs) * np.maximum(log_probs, -1e9)).sum(axis=1)
  for names in (("noisy_tokens", "is_masked", "token_weight"),
                ("other_tokens", "is_other", "other_weight")):
    noisy, masked, weight = (np.asarray(drawn[name]) for name in names)
    wanted["elbo"] -= (of(noisy) * weight)[masked].sum()
    wanted["edit"] -= of(noisy)[real & ~masked].sum()
    right = masked & (log_probs[noisy].argmax(axis=2) == tokens)
    wanted["confidence"] += entropy[noisy][right].sum()
    assert right.any()
  assert set(totals) == set(wanted) == set(weights) == set(objective.scales)
  for name, value in wanted.items():
    np.testing.assert_allclose(totals[name], value, rtol=1e-4, err_msg=name)
  count = real.sum()
  assert weights["edit"] == weights["confidence"] == weights["elbo"] == count
  assert weights["ar"] == count - (real & begins).sum() == aux.metrics["ar_nats_per_token"][1]
  assert aux.metrics["nats_per_token"][1] == aux.metrics["masked_nats"][1] == count
  np.testing.assert_allclose(aux.rows["nll"].sum(), wanted["elbo"], rtol=1e-4)
  np.testing.assert_allclose(aux.metrics["nats_per_token"][0], wanted["elbo"], rtol=1e-4)
  assert objective.scales == {"elbo": 1.0, "ar": 0.5, "confidence": 2.0, "edit": 0.7}


def test_likelihoods_have_no_terms_of_training(all_terms):
  objective = all_terms[2]
  plain = objective.bound("stratified")
  assert plain.scales == {"elbo": 1.0} and not plain.complementary and not plain.edit_rate
  assert plain.clean_stream == "token" and objective.bound("exact") is None
  assert _objective(2).bound("stratified").block_phases == ()


@pytest.mark.slow
def test_a_causal_clean_text_is_read_as_a_causal_model_reads_it():
  plain, params = _model(False)
  objective = dataclasses.replace(plain, clean_stream="token", ar_weight=1.0)
  batch = {k: jnp.asarray(v, jnp.int32) for k, v in _rows(2).items()}
  draw = np.random.default_rng(1)
  batch["noisy_tokens"] = jnp.where(draw.random((2, 12)) < 0.5, 0, batch["tokens"])
  noisy, clean = jax.jit(objective._both)(params, batch)  # pylint: disable=protected-access
  wanted = jax.jit(lambda batch: reading.encode(
      objective.network, params["model"], batch, attention=attention_lib.Causal()))(batch)
  real = SEGMENTS > 0
  np.testing.assert_allclose(clean[real], wanted[real], atol=2e-5)
  # A sampler asks for the same, with the canvas behind itself.
  answer = jax.jit(lambda tokens: objective.answer(params, types.Request(
      tokens, jnp.ones(2), positions=batch["positions"], segment_ids=batch["segment_ids"])))(
          batch["tokens"].at[0, 3:].set(batch["noisy_tokens"][0, 3:]))
  found = objective.network.head(params["model"], noisy[:1, 3:6], "lm")
  np.testing.assert_allclose(answer.logits[:1, 3:6, 1:], found[..., 1:], atol=2e-5)


@pytest.mark.parametrize("clean", ["block", "token"])
def test_visibility_is_the_definition_document_by_document(clean):
  value = attention_lib.TwoStream(3, clean)
  twice = lambda x: jnp.asarray(np.concatenate([x, x], axis=1))
  found = np.asarray(attention_lib.visible(value, twice(POSITIONS), twice(SEGMENTS)))
  phased = attention_lib.visible(visibility.Phased(value, jnp.int32(3)), twice(POSITIONS),
                                 twice(SEGMENTS))
  np.testing.assert_array_equal(found, phased)
  for row in range(2):
    for i, j in itertools.product(range(24), repeat=2):
      (own, q), (other, k) = (divmod(n, 12) for n in (i, j))
      ahead = POSITIONS[row, q] // 3 - POSITIONS[row, k] // 3
      wanted = {(0, 0): ahead == 0, (0, 1): ahead > 0, (1, 0): False,
                (1, 1): ahead >= 0 if clean == "block" else k <= q}[own, other]
      assert found[row, 0, i, j] == (wanted and SEGMENTS[row, q] == SEGMENTS[row, k])


@pytest.mark.slow
def test_phases_of_block_lengths_are_one_program_and_each_is_its_own_objective():
  def score(objective, batch, step):
    context = types.context(step)
    prepared, _ = objective.prepare({}, batch, rng.root(0), context)
    return prepared, objective(params, prepared, context)[0]["elbo"]

  plain, params = _model(False)
  phased = dataclasses.replace(plain, mask_draw="exact_count",
                               block_phases=[[0, 1], [10, 6], [20, 3]])
  batch = {k: v for k, v in _rows(2).items() if k not in ("segment_ids", "positions")}
  run = jax.jit(functools.partial(score, phased))
  for step, length in ((9, 1), (10, 6), (19, 6), (20, 3)):
    drawn, total = run(batch, jnp.int32(step))
    blocks = np.asarray(drawn["noise_level"]).reshape(2, -1, length)
    np.testing.assert_array_equal(blocks, blocks[..., :1] + 0 * blocks)
    fixed = dataclasses.replace(plain, mask_draw="exact_count", attention={
        "name": "block_causal", "block_length": length})
    given = {k: drawn[k] for k in ("is_masked", "token_weight", "noise_level")}
    np.testing.assert_allclose(total, score(fixed, batch | given, 0)[1], rtol=1e-5)
  assert run._cache_size() == 1  # pylint: disable=protected-access


@pytest.mark.parametrize("fields, message", [
    ({"clean_stream": "tokens"}, "clean_stream is 'tokens'; choose from block, token"),
    ({"ar_weight": 0.3}, "already shows; set objective.clean_stream=token"),
    ({"complementary": True}, "got mask_draw bernoulli; use exact_count"),
    ({"edit_rate": 1.0}, "edit_rate"), ({"confidence_weight": -1.0}, "confidence_weight"),
    ({"block_phases": ((0, 4), (5, 8))}, "block_phases needs pairs .first step, block length"),
    ({"block_phases": ((1, 16),)}, "block_phases needs pairs"),
    ({"block_phases": 3}, "block_phases needs pairs")])
def test_settings_of_2026_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    block_diffusion.BlockDiffusion(network=_oracle(2), mask_id=1, **fields)
  assert "\n" not in str(error.value)


def test_lengths_and_caches_that_do_not_fit_are_refused():
  objective = _objective(2, block_phases=((0, 3), (5, 2)))
  with pytest.raises(ValueError, match="blocks of 3 tokens, which do not divide data.length 4"):
    objective.check_length(4)
  fields = dict(name="confidence", cache="block", gen_length=12, steps=12, block_length=6)
  with pytest.raises(ValueError, match="reads its clean text causally, beside the canvas"):
    samplers.build(fields, dataclasses.replace(_model(False)[0], clean_stream="token"), mask_id=0)


@pytest.mark.parametrize("fields, message", [
    ({"attention": {"name": "full"}}, "needs attention block_causal with a block_length"),
    ({"attention": {"name": "block_causal", "block_length": 0}}, "block_length must be at least 1"),
    ({"clip": (0.5, 0.5)}, "clip needs 0 <= low < high <= 1, got 0.5, 0.5"),
    ({"clip": (0.0, 1.5)}, "clip needs"), ({"weighting": "cart"}, "cart weighs context on both")])
def test_settings_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    block_diffusion.BlockDiffusion(network=_oracle(2), mask_id=1, **fields)
  assert "\n" not in str(error.value)
