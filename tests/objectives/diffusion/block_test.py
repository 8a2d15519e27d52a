"""Block diffusion: two streams against blocks one by one, and the bound of a known joint.

Reference: Arriola et al. 2025, arXiv:2503.09573.
"""

import functools

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
from mdx.objectives.diffusion import block as block_diffusion
from mdx.utils import rng
from mdx.utils import tree

import enumerated
import oracle

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


@pytest.mark.parametrize("block_length, fields", [
    (2, {"mask_draw": "exact_count"}), (3, {"mask_draw": "exact_count", "time": "independent"}),
    (2, {"schedule": {"name": "cosine", "eps": 1e-5}}), (4, {"mask_draw": "exact_count"})])
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
@pytest.mark.parametrize("block_length", [4, 16])
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


@pytest.mark.parametrize("fields, message", [
    ({"attention": {"name": "full"}}, "needs attention block_causal with a block_length"),
    ({"attention": {"name": "block_causal", "block_length": 0}}, "block_length must be at least 1"),
    ({"clip": (0.5, 0.5)}, "clip needs 0 <= low < high <= 1, got 0.5, 0.5"),
    ({"clip": (0.0, 1.5)}, "clip needs"), ({"weighting": "cart"}, "cart weighs context on both")])
def test_settings_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    block_diffusion.BlockDiffusion(network=_oracle(2), mask_id=1, **fields)
  assert "\n" not in str(error.value)
