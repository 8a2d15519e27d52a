"""Caches: exact where they say so, and otherwise what a plain loop with frozen keys computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.samplers import batching
from mdx.samplers import loop
from mdx.utils import rng

import driving
import tiny

MASK = driving.MASK_ID
DRAW = np.random.default_rng(0)


def _decode_all(model, sampler, prompts, batch_size=8, gen_length=12):
  """Answers and calls of prompts, decoded in batches as the library does."""
  objective, params = model
  found = {}
  for batch in batching.batches(prompts, gen_length=gen_length, batch_size=batch_size,
                                mask_id=MASK, pad_id=2, max_length=64):
    decoded = driving.decode(objective.answer, sampler, batch.canvas, params=params,
                             row_index=batch.row_index, start=batch.start,
                             positions=batch.positions, segment_ids=batch.segment_ids,
                             is_shifted=objective.reader().is_shifted)
    for row, (i, length) in enumerate(zip(batch.members, batch.lengths)):
      found[i] = decoded.tokens[row, -length:].tolist(), int(decoded.nfe[row])
  return [found[i] for i in range(len(prompts))]


RAGGED = [DRAW.integers(2, 7, n).astype(np.int32) for n in (3, 9, 4, 11, 6, 8, 1, 16)]
_HOLES = [DRAW.integers(2, 7, 20).astype(np.int32) for _ in range(4)]
for _row, _places in zip(_HOLES, ([1, 2, 13, 14, 15, 19], [5, 18], [8, 9, 10, 11], range(3, 20))):
  _row[list(_places)] = MASK


def _plain_twin(sampler):
  """A sampler without a cache that has the blocks of one with an exact cache."""
  twin = type("Twin", (type(sampler),), {
      "init": lambda self, *args: sampler.init(*args), "max_steps": sampler.max_steps,
      "in_blocks": lambda self, state: sampler.in_blocks(state)})
  fields = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler)}
  return twin(**fields | {"cache": "none"})


@pytest.mark.slow
@pytest.mark.parametrize("seen,block,name,prompts", [
    (attention_lib.BlockCausal(4), 4, "threshold", RAGGED),
    (attention_lib.BlockCausal(4), 4, "threshold", _HOLES[:3]),
    (attention_lib.BlockCausal(2), 6, "rcr", RAGGED), (attention_lib.Causal(), 3, "rcr", _HOLES)])
def test_the_block_cache_is_exact_wherever_prompts_end_and_holes_are(seen, block, name, prompts):
  model = driving.model(seen)
  sampler = driving.build(model[0], name=name, threshold=0.3, block_length=block, gen_length=12,
                          steps=12 // block * 2, cache="block", also=samplers.SAMPLERS)
  cached = _decode_all(model, sampler, prompts)
  plain = _decode_all(model, _plain_twin(sampler), prompts)
  assert plain == cached and len({nfe for _, nfe in plain}) > 1


@pytest.mark.slow
def test_the_block_cache_is_exact_where_prompts_are_whole_blocks():
  # Then the blocks of the decode without a cache are those of the model, too.
  model = driving.model(attention_lib.BlockCausal(4))
  prompts = [p[:len(p) // 4 * 4] for p in RAGGED if len(p) > 3]
  fields = dict(name="threshold", threshold=0.3, block_length=4, gen_length=12)
  plain, cached = (_decode_all(model, driving.build(model[0], **fields, cache=cache), prompts)
                   for cache in ("none", "block"))
  assert plain == cached


@pytest.mark.slow
def test_the_cache_of_an_autoregressive_model_is_exact():
  spec = transformer.Transformer(num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=7,
                                 vocab_multiple=1, max_length=64, scan_layers=False)
  objective = ar.AutoRegressive(network=spec.network(), mask_id=MASK)
  params = jax.tree.map(lambda x: 3 * x, objective.init(rng.root(0)))
  plain, cached = (_decode_all((objective, params), driving.build(
      objective, name="autoregressive", gen_length=12, cache=cache), RAGGED)
                   for cache in ("none", "block"))
  assert plain == cached and all(nfe == 12 for _, nfe in plain)
  assert len({str(tokens) for tokens, _ in plain}) == 8


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_with_one_step_a_block_a_cache_changes_nothing(cache):
  model = driving.Memory(), None
  fields = dict(name="confidence", block_length=4, steps=3, gen_length=12)
  plain, cached = (_decode_all(model, driving.build(model[0], **fields, cache=c), RAGGED)
                   for c in ("none", cache))
  assert plain == cached


# A transformer in numpy, one row at a time, with keys and values that may be old.

SPEC = dict(position="learned", mlp="relu")


def _norm(p, x):
  return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) * p["scale"]


def _logits(params, tokens, places, memory):
  """Logits at `places`, whose keys and values are written to `memory` [layers][2][S, 16]."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params["model"])
  x = params["embed"]["embedding"][tokens[places]] + params["position_embed"]["embedding"][places]
  for i, kept in enumerate(memory):
    p = jax.tree.map(lambda leaf: leaf[i], params["layers"])  # pylint: disable=cell-var-from-loop
    y = _norm(p["attention_norm"], x)
    query, kept[0][places], kept[1][places] = (y @ p["attention"][n]["kernel"] for n in "qkv")
    heads = []
    for h in (slice(0, 8), slice(8, 16)):
      scores = np.exp(query[:, h] @ kept[0][:, h].T / np.sqrt(8))
      heads.append(scores / scores.sum(-1, keepdims=True) @ kept[1][:, h])
    x = x + np.concatenate(heads, axis=1) @ p["attention"]["o"]["kernel"]
    y = _norm(p["mlp_norm"], x)
    x = x + np.maximum(y @ p["mlp"]["up"]["kernel"], 0) @ p["mlp"]["down"]["kernel"]
  logits = _norm(params["final_norm"], x) @ params["lm_head"]["kernel"]
  logits[:, MASK] = -np.inf
  return logits


def _frozen_loop(params, prompt, cache, threshold, num_blocks=3, block=4, shift=False):
  """Greedy threshold decoding of blocks, with the keys of other positions frozen at its start.

  A shifted model's window has the position before the block too, unless the block begins the text.
  """
  length = len(prompt) + num_blocks * block
  tokens = np.concatenate([prompt, np.full(num_blocks * block, MASK)])
  nfe, run = 0, []
  for begin in range(len(prompt), length, block):
    memory = [[np.zeros((length, 16)), np.zeros((length, 16))] for _ in range(2)]
    places = np.arange(length)
    while (tokens[begin:begin + block] == MASK).any():
      logits = np.zeros((length, driving.VOCAB))
      logits[places] = _logits(params, tokens, places, memory)
      if shift:
        logits = logits[np.maximum(np.arange(length) - 1, 0)]
      run.append(len(places))
      nfe += 1
      probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
      masked = begin + np.flatnonzero(tokens[begin:begin + block] == MASK)
      best = masked[probs[masked].max(axis=1).argmax()]
      for i in masked:
        if probs[i].max() >= threshold or i == best:
          tokens[i] = probs[i].argmax()
      places = np.arange(max(begin - shift, 0), length if cache == "prefix" else begin + block)
  return tokens, nfe


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_an_approximate_cache_freezes_what_lies_outside_the_block(cache):
  objective, params = model = driving.model(**SPEC)
  prompts = DRAW.integers(2, 7, (24, 5)).astype(np.int32)
  sampler = driving.build(objective, name="threshold", threshold=0.6, block_length=4,
                          gen_length=12, temperature=0.0, cache=cache)
  found = _decode_all(model, sampler, prompts, batch_size=24)
  for prompt, (tokens, nfe) in zip(prompts, found):
    expected, calls = _frozen_loop(params, prompt, cache, 0.6)
    assert tokens == expected.tolist() and nfe == calls
  # It is an approximation, and this test would see another one.
  others = [[_frozen_loop(params, p, other, 0.6)[0].tolist() for p in prompts]
            for other in ("prefix", "dual")]
  assert others[0] != others[1]


@pytest.mark.parametrize("cache", ["dual", tiny.releases("prefix")])
@pytest.mark.slow
def test_the_window_of_a_shifted_model_has_the_position_before_the_block(cache):
  # As Dream; rows of several lengths are padded on the left, and empty prompts begin with a block.
  objective, params = model = driving.model(**SPEC, shift=True)
  assert objective.reader().is_shifted and cache in objective.reader().caches
  lengths = [0, 1, 2, 3, 5, 6, 0, 4] if cache == "dual" else [0, 2, 5, 0]
  prompts = [DRAW.integers(2, 7, n).astype(np.int32) for n in lengths]
  sampler = driving.build(objective, name="threshold", threshold=0.6, block_length=4,
                          gen_length=12, temperature=0.0, cache=cache)
  for batch_size in (len(prompts), 1):  # padded together, and each alone
    found = _decode_all(model, sampler, prompts[:4 if batch_size == 1 else None], batch_size)
    for prompt, (tokens, nfe) in zip(prompts, found):
      expected, calls = _frozen_loop(params, prompt, cache, 0.6, shift=True)
      assert tokens == expected.tolist() and nfe == calls
  more = DRAW.integers(2, 7, (40, 5)).astype(np.int32)
  others = [[_frozen_loop(params, p, other, 0.6, shift=s)[0].tolist() for p in more]
            for other, s in (("prefix", True), ("dual", True), (cache, False))]
  assert others[0] != others[1] and others[2] not in others[:2]


@pytest.mark.parametrize("name,cache", tiny.first([("rcr", "dual"), ("token_editing", "prefix"),
                                        ("confidence", "dual")], 1))
@pytest.mark.slow
def test_with_one_step_a_block_a_cache_of_a_shifted_model_changes_nothing(name, cache):
  # Given tokens inside the answer make several runs of masks, each with a position before it.
  model = driving.model(**SPEC, shift=True)
  canvas = np.where(np.isin(np.arange(14), [0, 1, 4, 7, 8]), 3, np.zeros((4, 14)))
  fields = dict(name=name, gen_length=12, block_length=4, steps=3, temperature=0.0, threshold=0.0,
                also=samplers.SAMPLERS)
  plain, cached = (driving.decode(
      model[0].answer, driving.build(model[0], cache=c, **fields), canvas, params=model[1],
      is_shifted=True) for c in ("none", cache))
  np.testing.assert_array_equal(plain.tokens, cached.tokens)


@pytest.mark.parametrize("name,given", [("rcr", []), ("confidence", [1, 2, 6, 7, 11])])
def test_tokens_that_changed_since_the_block_began_are_run_again(name, given):
  # A memory holds what was said when a place was last run: with "dual" neither the tokens of
  # the block, wherever they are, nor those revised in earlier blocks may stay stale in it.
  model = driving.Memory()
  stale = []

  class Watched:
    """Compares the memory with the canvas outside the active block."""

    @staticmethod
    def answer(params, request):
      """As Memory, and tells how many places before the last masked one are stale."""
      out = model.answer(params, request)
      if request.slots is not None:
        old = (out.cache[0][:, :, 0, 0] != request.tokens) & (request.tokens != MASK)
        jax.debug.callback(lambda n: stale.append(int(n)), old.sum(axis=1).max())
      return out

  sampler = driving.build(model, name=name, block_length=4, steps=12, gen_length=12, cache="dual")
  canvas = np.where(np.isin(np.arange(12), given), 3, np.zeros((4, 12)))
  decoded = driving.decode(Watched.answer, sampler, canvas, record="canvas")
  jax.effects_barrier()
  if name == "rcr":
    assert (decoded.trajectory.canvas[:, 4:, :4] == MASK).any()  # something was revised
  assert stale and max(stale) == 0


@pytest.mark.parametrize("cache,widest", [("dual", 4), ("block", 8), ("prefix", 12)])
def test_a_call_against_the_cache_runs_a_part_of_the_row(cache, widest):
  model, widths = driving.Memory(attention_lib.BlockCausal(4) if cache == "block" else
                                 attention_lib.Full()), []

  def answer(params, request):
    if request.slots is not None:
      widths.append(request.slots.shape[1])
      assert request.targets.shape[1] <= 4
    return model.answer(params, request)

  sampler = driving.build(model, name="confidence", block_length=4, steps=12, gen_length=12,
                          cache=cache)
  canvas = np.concatenate([np.full((2, 20), 3), np.zeros((2, 12))], axis=1)
  jax.eval_shape(lambda canvas: loop.decode(
      lambda request: answer(None, request), sampler, canvas, key=rng.root(0),
      row_index=jnp.arange(2), start=20), jnp.asarray(canvas, jnp.int32))
  steps = [w for w in widths if w != 20]  # but for the call that reads the prompts
  assert max(steps) == widest and len(steps) + 1 >= len(widths)
  assert cache != "prefix" or sorted(set(steps)) == [3, 6, 9, 12]


@pytest.mark.slow
def test_a_ragged_prompt_reads_the_same_without_padding():
  model = driving.model()
  sampler = driving.build(model[0], name="ancestral", gen_length=12, steps=6)
  together = _decode_all(model, sampler, RAGGED[:4], batch_size=4)
  decoded = driving.decode(model[0].answer, sampler, np.concatenate(
      [RAGGED[1], np.full(12, MASK)])[None], params=model[1], row_index=[1], start=9)
  assert together[1] == (decoded.tokens[0].tolist(), int(decoded.nfe[0]))
