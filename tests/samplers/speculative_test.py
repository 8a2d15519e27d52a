"""Self-speculation: what is written is a draw of the causal reading, whatever was proposed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.objectives import reading
from mdx.objectives.diffusion import block
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import loop
from mdx.utils import rng

import driving
import oracle
import tiny

LENGTH, BLOCK = 8, 4
_quick = functools.partial(jax.jit, compiler_options=driving.QUICK)


@functools.cache
def _model(block_length=BLOCK, shift=False):
  base, params = driving.model(max_length=32)
  return block.BlockDiffusion(
      network=base.network, mask_id=driving.MASK_ID, shift=shift,
      attention=dict(name="block_causal", block_length=block_length)), params


def _decode(name, objective, params, rows, **fields):
  sampler = samplers.build(dict(name=name, gen_length=LENGTH, **fields), objective,
                           mask_id=driving.MASK_ID, eos_id=driving.EOS_ID)
  canvas = jnp.full((rows, LENGTH), driving.MASK_ID).at[:, 0].set(3)
  index = jnp.arange(rows)
  run = _quick(lambda params: loop.decode(
      reading.answerer(objective, params), sampler, canvas, key=rng.root(0), row_index=index,
      start=1, record="commits"))
  return jax.device_get(run(params))


def _noise(rows):
  """The keys of the rows' draws: those of `init`."""
  keys = rng.per_example(rng.stream(rng.root(0), "sample"), jnp.arange(rows))
  return jax.vmap(lambda key: rng.stream(key, "init"))(keys)


@pytest.mark.parametrize("temperature, shift", tiny.mostly_slow(
    [(0.0, False), (0.0, True), (1.0, False), (1.0, True)], [(1.0, False)]))
def test_every_token_is_that_of_the_causal_reading_with_the_same_noise(temperature, shift):
  objective, params = _model(shift=shift)
  rows = 6
  found = _decode("speculative", objective, params, rows, block_length=BLOCK,
                  temperature=temperature)
  # Left to right, a token a call, by the same weights with blocks of one token.
  causal, _ = _model(1, shift)
  tokens = np.full((rows, LENGTH), driving.MASK_ID, np.int32)
  tokens[:, 0] = 3
  answer = _quick(lambda params, tokens: causal.answer(params, types.Request(
      tokens, jnp.zeros(rows))).logits)
  for i in range(1, LENGTH):
    logits = answer(params, jnp.asarray(tokens))[:, i]
    if temperature:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(_noise(rows))
      drawn = jax.vmap(lambda key, row: jax.random.categorical(key, row, mode="high"))(keys, logits)
      tokens[:, i] = drawn
    else:
      tokens[:, i] = logits.argmax(axis=-1)
  np.testing.assert_array_equal(found.tokens, tokens)
  assert np.all(found.nfe % 2 == 0) and np.all(found.nfe <= 2 * (LENGTH - 1))


@pytest.mark.slow
def test_rows_are_distributed_as_the_causal_reading_says():
  joint = oracle.random_joint()
  tokens = []
  for seed in range(2):
    sampler = samplers.SAMPLERS["speculative"](
        mask_id=joint.mask_id, gen_length=joint.length, block_length=joint.length)
    objective = diffusion.MaskedDiffusion(network=joint.network(), mask_id=joint.mask_id)

    def ask(request, clean=None, objective=objective):
      """The oracle's conditionals: of all masks, or each behind the tokens before it."""
      if clean is None:
        return objective.answer({"model": {}}, request)
      length = clean.shape[1]
      shown = jnp.where(jnp.arange(length)[None] < jnp.arange(length)[:, None], clean[:, None],
                        joint.mask_id)  # [B, position, S]
      rows = shown.reshape(-1, length)
      every = objective.answer({"model": {}}, types.Request(rows, jnp.zeros(len(rows)))).logits
      own = every.reshape(*shown.shape, -1)[:, jnp.arange(length), jnp.arange(length)]
      own = jnp.take_along_axis(own, jnp.minimum(request.targets, length - 1)[..., None], axis=1)
      return types.Answer(own)

    canvas = jnp.full((4000, joint.length), joint.mask_id)
    decoded = jax.jit(lambda seed, ask=ask, sampler=sampler: loop.decode(
        ask, sampler, canvas, key=rng.root(seed), row_index=jnp.arange(len(canvas))))(seed)
    tokens.append(np.asarray(decoded.tokens))
    assert set(decoded.nfe.tolist()) == {2, 4}  # the first of a draft is always right
  counts = np.bincount(joint.index(np.concatenate(tokens)), minlength=len(joint.probs))
  assert counts[joint.probs == 0].sum() == 0
  possible = joint.probs > 0
  assert oracle.chi_square(counts[possible], joint.probs[possible]) > 1e-3


@pytest.mark.slow
def test_a_model_whose_readings_agree_needs_two_calls_a_block():
  base, params = _model()
  network = base.network
  blind = dataclasses.replace(base, network=network._replace(encode=lambda params, inputs, **kw: (
      network.encode(params, inputs._replace(tokens=jnp.zeros_like(inputs.tokens)), **kw))))
  found = _decode("speculative", blind, params, 4, block_length=BLOCK)
  assert found.nfe.tolist() == [4] * 4  # two blocks
  # Every token was written in the first step of its block.
  np.testing.assert_array_equal(found.trajectory.step[:, :BLOCK - 1], 0)
  np.testing.assert_array_equal(found.trajectory.step[:, BLOCK - 1:], 1)


def test_what_cannot_be_verified_is_refused():
  objective, _ = _model()
  build = lambda objective=objective, **fields: samplers.build(
      dict(name="speculative", gen_length=8, **fields), objective, mask_id=0, eos_id=1)
  for fields, message in ((dict(cache="block"), "speculative needs cache none, got 'block'"),
                          (dict(guidance_scale=1.0), "needs guidance_scale 0.0, got 1.0"),
                          (dict(eos="last"), "use allow or forbid")):
    with pytest.raises(ValueError, match=message):
      build(**fields)
  with pytest.raises(ValueError, match="a causal reading, which a model trained with MaskedDiff"):
    build(driving.model()[0])
