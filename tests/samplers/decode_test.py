"""The sampling loop: keys, rows, guidance, ends of text, devices; every rule with every cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.samplers import confidence
from mdx.samplers import decoder
from mdx.samplers import loop
from mdx.utils import rng

import driving
import tiny

MASK, EOS = driving.MASK_ID, driving.EOS_ID
BOTH = driving.Memory()
BLOCKS = driving.Memory(attention_lib.BlockCausal(4))
# Ragged prompts behind padding, and places in the middle to be filled.
CANVAS = np.array([
    [0, 0, 0, 2, 4, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [3, 3, 3, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [2, 3, 0, 4, 5, 2, 3, 4, 4, 6, 0, 0, 2, 2, 0, 5],
    [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [2] * 16], np.int32)
PADDING = np.array([3, 5, 0, 0, 0, 0])
SEGMENTS = (np.arange(16)[None] >= PADDING[:, None]).astype(np.int32)
POSITIONS = np.maximum(np.arange(16)[None] - PADDING[:, None], 0).astype(np.int32)
CANVAS = np.where(SEGMENTS, CANVAS, 5)
IS_FREE = CANVAS == MASK


def _sampler(objective=BOTH, name="confidence", **fields):
  fields = dict(gen_length=12, block_length=4, steps=6) | fields
  return driving.build(objective, name=name, **fields)


def _decode(sampler, objective=BOTH, rows=slice(None), **kwargs):
  index = np.arange(6)[rows]
  return driving.decode(objective.answer, sampler, CANVAS[rows], row_index=index,
                        positions=POSITIONS[rows], segment_ids=SEGMENTS[rows], **kwargs)


# Every rule with a cache; those that revise or remember with all of them.
_MATRIX = [(name, "block") for name, rule in samplers.SAMPLERS.items()
           if not rule.drafts and name not in driving.LEARNED] + [
    (name, cache) for name in ("rcr", "remdm", "token_editing") for cache in ("dual", "prefix")] + [
        ("klass", "dual"), ("confidence", "prefix"), ("remdm", "none"), ("token_editing", "none")]


@pytest.mark.parametrize("name,cache", tiny.mostly_slow(
    _MATRIX, [("confidence", "block"), ("threshold", "block"), ("rcr", "dual"), ("remdm", "prefix"),
              ("token_editing", "none")]))
def test_every_rule_ends_fills_what_is_free_and_nothing_else(name, cache):
  objective = BLOCKS if cache == "block" else BOTH
  if name == "autoregressive" and cache == "block":
    objective = driving.Memory(attention_lib.Causal())
  if samplers.SAMPLERS[name].searches:
    objective = driving.Memory(attention_lib.Causal(), rule="autoregressive")
    cache = "none" if samplers.SAMPLERS[name].revises else cache
  sampler = _sampler(objective, name, cache=cache, threshold=0.5, also=samplers.SAMPLERS)
  decoded = _decode(sampler, objective)
  np.testing.assert_array_equal(decoded.tokens[~IS_FREE], CANVAS[~IS_FREE])
  assert np.all(decoded.tokens[IS_FREE] != MASK)
  assert np.all(decoded.nfe <= sampler.max_steps(16)) and decoded.nfe[5] == 0
  assert np.all(decoded.nfe[:5] >= 1)
  # The rows in another order.
  order = np.array([3, 5, 0, 4, 2, 1])
  other = _decode(sampler, objective, order)
  np.testing.assert_array_equal(other.tokens, decoded.tokens[order])
  np.testing.assert_array_equal(other.nfe, decoded.nfe[order])


@pytest.mark.slow
@pytest.mark.parametrize("name,cache", [("ancestral", "none"), ("rcr", "dual")])
def test_a_rows_text_is_the_same_alone_and_without_padding(name, cache):
  sampler = _sampler(name=name, cache=cache, confidence="random" if name == "rcr" else "margin")
  together = _decode(sampler)
  for row in (0, 3):
    pad = PADDING[row]
    alone = driving.decode(BOTH.answer, sampler, CANVAS[row:row + 1, pad:], row_index=[row])
    np.testing.assert_array_equal(together.tokens[row, pad:], alone.tokens[0])
    assert together.nfe[row] == alone.nfe[0]


def test_rows_and_seeds_differ():
  sampler = _sampler()
  canvas = np.zeros((30, 16))
  tokens = driving.decode(BOTH.answer, sampler, canvas).tokens
  assert len(np.unique(tokens, axis=0)) > 25
  other = driving.decode(BOTH.answer, sampler, canvas, seed=1).tokens
  assert (tokens != other).any(axis=1).mean() > 0.8
  moved = driving.decode(BOTH.answer, sampler, canvas, row_index=np.arange(1, 31)).tokens
  np.testing.assert_array_equal(tokens[1:], moved[:-1])


def test_decoding_is_one_while_loop_and_the_network_is_traced_once():
  traces = []

  def answer(request):
    traces.append(1)
    return BOTH.answer(None, request)

  sampler = _sampler()
  decode = jax.jit(lambda canvas, index: loop.decode(
      answer, sampler, canvas, key=rng.root(0), row_index=index).tokens)
  for first in (0, 40):
    decode(jnp.asarray(CANVAS), first + jnp.arange(6))
  assert decode._cache_size() == 1 and len(traces) == 1
  jaxpr = jax.make_jaxpr(lambda canvas: loop.decode(
      answer, sampler, canvas, key=rng.root(0), row_index=jnp.arange(6)).tokens)(CANVAS)
  assert [e.primitive.name for e in jaxpr.eqns].count("while") == 1


def test_the_network_is_told_the_time_at_which_so_many_tokens_are_masked():
  told = []

  def answer(params, request):
    jax.debug.callback(lambda t, n: told.append((t, n)), request.noise_level,
                       (request.tokens == MASK).sum(axis=1))
    return BOTH.answer(params, request)

  sampler = confidence.Confidence(mask_id=MASK, gen_length=12, steps=4,
                                  noise={"name": "polynomial", "power": 2.0, "eps": 0.0})
  canvas = np.where(np.arange(16) < 4, 3, np.zeros((2, 16)))
  driving.decode(answer, sampler, canvas)
  jax.effects_barrier()
  times, masked = (np.stack(x) for x in zip(*told))
  np.testing.assert_allclose(times, np.sqrt(masked / 12), rtol=1e-6)
  assert sorted(masked[:, 0].tolist()) == [3, 6, 9, 12]


def test_coarse_logits_are_refused():
  coarse = lambda request: BOTH.answer(None, request)._replace(
      logits=jnp.zeros((6, 8, driving.VOCAB), jnp.bfloat16))
  with pytest.raises(ValueError, match="float32 logits, got bfloat16"):
    loop.decode(coarse, _sampler(), jnp.asarray(CANVAS), key=rng.root(0), row_index=jnp.arange(6))


def test_a_model_that_says_nan_does_not_hang():
  decoded = _decode(_sampler(name="factor"), _Broken)
  assert np.all(decoded.tokens[IS_FREE] != MASK)
  score = jnp.array([[1.0, jnp.nan, jnp.inf, -jnp.inf]])
  among = jnp.array([[False, True, False, True]])
  np.testing.assert_array_equal(decoder.best_of(score, among, jnp.array([2])), among)


class _Broken:
  """A model that has diverged."""

  @staticmethod
  def answer(params, request):
    """NaN."""
    return types.Answer(BOTH.answer(params, request).logits * jnp.nan)


def test_guidance_is_u_plus_one_plus_w_times_c_minus_u():
  scale, places = 1.5, np.broadcast_to(np.arange(16), (6, 16))
  ask = lambda tokens: np.asarray(BOTH.answer(None, _request(tokens, places)).logits)
  given, blank = ask(CANVAS), ask(np.where(SEGMENTS, MASK, CANVAS) * 0)
  wanted = blank + (1 + scale) * (given - blank)
  wanted[..., MASK] = -np.inf
  sampler = _sampler(temperature=0.0, guidance_scale=scale, block_length=0, steps=1)
  decoded = _decode(sampler)
  free = IS_FREE & (np.arange(6)[:, None] != 4)  # row 4 has more masks than gen_length
  np.testing.assert_array_equal(decoded.tokens[free], wanted.argmax(axis=2)[free])
  np.testing.assert_array_equal(decoded.nfe, [2, 2, 2, 2, 4, 0])  # two calls a step
  plain = _decode(_sampler(temperature=0.0, block_length=0, steps=1))
  assert (plain.tokens != decoded.tokens).any() and plain.nfe[0] == 1


def _request(tokens, targets):
  return types.Request(jnp.asarray(tokens), jnp.zeros(len(tokens)), jnp.asarray(POSITIONS),
                       jnp.asarray(SEGMENTS), jnp.asarray(targets))


@pytest.mark.slow
def test_guidance_with_a_cache_keeps_a_second_one():
  # One token a block: every call is a full pass, with or without a cache.
  fields = dict(guidance_scale=0.7, gen_length=4, steps=4, block_length=1, temperature=0.0)
  plain, dual = _decode(_sampler(**fields)), _decode(_sampler(**fields, cache="dual"))
  np.testing.assert_array_equal(plain.tokens, dual.tokens)
  # An exact cache, with prompts of whole blocks.
  fields |= dict(gen_length=12, steps=6, block_length=4)
  canvas = np.where(np.arange(16) < 4, 3, np.zeros((3, 16)))
  plain, exact = (driving.decode(BLOCKS.answer, _sampler(BLOCKS, **fields, cache=cache), canvas,
                                 start=4) for cache in ("none", "block"))
  np.testing.assert_array_equal(plain.tokens, exact.tokens)


def _scripted(tokens, probs, length=8):
  """A model that gives place i the token `tokens[i]` with probability `probs[i]`."""
  logits = np.full((length, driving.VOCAB), -20.0, np.float32)
  rest = np.log((1 - np.asarray(probs)) / (driving.VOCAB - 2))
  logits[:, 1:] = rest[:, None]
  logits[np.arange(length), tokens] = np.log(probs)
  return lambda params, request: types.Answer(jnp.asarray(logits)[request.targets])


def _eos(eos="allow", eos_stop="never", name="confidence", steps=8, block_length=0, record="canvas",
         tokens=(2, 3, EOS, 4, 5, 6, 2, 3), probs=(.6, .7, .9, .5, .55, .45, .8, .4)):
  sampler = driving.build(BOTH, name=name, gen_length=8, steps=steps, block_length=block_length,
                          temperature=0.0, eos=eos, eos_stop=eos_stop, threshold=0.42,
                          entropy_bound=5.0, also=samplers.SAMPLERS)
  decoded = driving.decode(_scripted(tokens, probs), sampler, np.zeros((1, 8)), record=record)
  return decoded.tokens[0], decoded.nfe[0], decoded.trajectory


def test_a_forbidden_end_of_text_is_never_drawn_and_its_probability_goes_to_the_others():
  tokens, _, record = _eos("forbid")
  assert EOS not in tokens
  assert record.confidence[0, 2] == pytest.approx(0.2, abs=1e-3)  # of five equal ones
  assert record.step[0, 2] > record.step[0, 6]  # no longer the surest


@pytest.mark.parametrize("name", ["confidence", "threshold", "entropy_bounded", "rcr"])
def test_the_last_end_of_text_is_committed_when_nothing_else_is_left(name):
  _, _, last = _eos("last", name=name)
  step = last.step[0]
  assert step[2] > np.delete(step, 2).max()
  assert last.confidence[0, 2] == pytest.approx(0.9, abs=1e-3)  # recorded as it is


def test_the_confidence_of_an_end_of_text_rises_from_two_fifths():
  # 0.9 (0.4 + 0.6 s / 7) is 0.36, 0.44, 0.51 and 0.59 against 0.8, 0.7, 0.6 and 0.55.
  _, _, record = _eos("ramp")
  np.testing.assert_array_equal(record.step[0, [6, 1, 0, 2, 4]], [0, 1, 2, 3, 4])
  assert record.confidence[0, 2] == pytest.approx(0.9, abs=1e-3)  # recorded as it is


@pytest.mark.parametrize("eos_stop,expected,nfe", [
    # Order of the confidences: 2, 6, 1, 0: then nothing before the end of text is masked.
    ("row", [2, 3, EOS, EOS, EOS, EOS, 2, EOS], 4), ("never", [2, 3, EOS, 4, 5, 6, 2, 3], 8)])
def test_a_row_stops_once_its_end_of_text_is_settled(eos_stop, expected, nfe):
  tokens, calls, record = _eos(eos_stop=eos_stop)
  np.testing.assert_array_equal(tokens, expected)
  assert calls == nfe
  if eos_stop == "row":
    np.testing.assert_array_equal(record.step[0], [3, 2, 0, 3, 3, 3, 1, 3])
    np.testing.assert_array_equal(record.confidence[0, [3, 4, 5, 7]], 0)  # not drawn


def test_a_block_stops_and_the_next_one_goes_on():
  tokens, calls, _ = _eos(eos_stop="block", block_length=4)
  np.testing.assert_array_equal(tokens, [2, 3, EOS, EOS, 5, 6, 2, 3])
  assert calls == 3 + 4
  tokens, calls, _ = _eos(eos_stop="row", block_length=4)
  np.testing.assert_array_equal(tokens, [2, 3] + [EOS] * 6)
  assert calls == 3


@pytest.mark.parametrize("name", ["remdm", "rcr"])
def test_a_stop_ends_the_rules_that_revise_too(name):
  sampler = driving.build(BOTH, name=name, gen_length=8, steps=8, eos_stop="row", temperature=0.0)
  decoded = driving.decode(_scripted((EOS,) * 8, 0.9 - 0.01 * np.arange(8)), sampler,
                           np.zeros((40, 8)), record="commits")
  assert np.all(decoded.tokens == EOS) and decoded.nfe.mean() < 6 and decoded.nfe.max() <= 8
  # What was written, masked again and then filled has no confidence.
  record, stopped = decoded.trajectory, decoded.nfe < 4
  assert stopped.any() and np.all((record.confidence[stopped] != 0).sum(axis=1) < 8)
  assert np.all(record.step[:, 0] <= decoded.nfe)


def _tokens_on(mesh_axes, sampler, objective, params, canvas, index):
  mesh = sharding.make_mesh(mesh_axes)
  with jax.set_mesh(mesh):
    placed = sharding.place_batch({"canvas": canvas, "index": index}, mesh)
    shapes = jax.tree.map(lambda x, s: jax.device_put(x, jax.sharding.NamedSharding(mesh, s)),
                          params["model"], sharding.specs(params, tiny.PARTS, mesh)["model"])
    run = jax.jit(lambda params, canvas, index: loop.decode(
        lambda request: objective.answer({"model": params}, request), sampler, canvas,
        key=rng.root(0), row_index=index, start=4), compiler_options=driving.QUICK)
    return jax.device_get(run(shapes, placed["canvas"], placed["index"]))


@pytest.mark.slow
@pytest.mark.parametrize("axes,fields", [
    ({"data": 8}, dict(name="ancestral")),
    ({"data": 2, "fsdp": 2, "tensor": 2}, dict(name="rcr", cache="dual"))])
def test_eight_devices_decode_what_one_does(axes, fields):
  objective, params = driving.model(vocab_multiple=8)
  sampler = _sampler(objective, **fields, threshold=0.3, also=samplers.SAMPLERS)
  canvas = np.concatenate([np.random.default_rng(0).integers(2, 7, (16, 4)),
                           np.full((16, 12), MASK)], axis=1).astype(np.int32)
  index = np.arange(16, dtype=np.int32)
  one = driving.decode(objective.answer, sampler, canvas, params=params, start=4)
  eight = _tokens_on(axes, sampler, objective, params, canvas, index)
  # Sums in another order may turn a near tie; then the rest of the row differs.
  equal = (one.tokens == eight.tokens).all(axis=1)
  assert equal.sum() >= 15 and np.array_equal(one.nfe[equal], eight.nfe[equal])


@pytest.mark.slow
def test_rows_with_a_leader_go_the_same_way_until_they_branch():
  shared = jnp.array([0, 1, 2, 3, 4, 4])
  decode = lambda **more: driving.decode(
      BOTH.answer, _sampler(temperature=3.0, block_length=12), CANVAS[np.full(6, 4)],
      row_index=jnp.arange(6) + 7, record="canvas", **more).trajectory.canvas
  alone, tree = decode(), decode(leader=jnp.full(6, 7), shared_steps=shared)
  np.testing.assert_array_equal(tree[0], alone[0])  # the leader
  for i, steps in enumerate(np.asarray(shared)):
    same = (tree[i] == tree[0]).all(axis=1)
    assert same[:steps + 1].all() and same.all() == (i == 0), i
  assert (tree[4] != tree[5]).any()  # both leave the leader at one step, each by its own draws
  assert all((alone[i] != alone[0])[1].any() for i in range(1, 6))
