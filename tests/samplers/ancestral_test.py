"""Ancestral, first-hitting, random and left-to-right orders: their laws, enumerated exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import ancestral

import driving
import oracle
import tiny

JOINT = oracle.random_joint()
# 1 - alpha(t), written out again.
MASK_PROB = {"linear": lambda t: t, "cosine": lambda t: 1 - (1 - np.cos(np.pi / 2 * (1 - t))),
             "polynomial": lambda t: t ** 2}
_LINEAR = {"name": "linear", "eps": 1e-4}


def _objective(**fields):
  return diffusion.MaskedDiffusion(network=JOINT.network(), mask_id=JOINT.mask_id, **fields)


ANSWER = driving.on_joint(_objective())


def _sampler(name="ancestral", schedule=None, **fields):
  fields = dict(gen_length=JOINT.length, steps=4) | fields
  return samplers.build(dict(name=name, **fields), _objective(schedule=schedule or _LINEAR),
                        mask_id=JOINT.mask_id)


def _decode(canvas, name="ancestral", schedule=None, answer=ANSWER, seed=0, row_index=None,
            **fields):
  return driving.decode(answer, _sampler(name, schedule, **fields), canvas, seed=seed,
                        row_index=row_index)


def _masked(num_rows):
  return np.full((num_rows, JOINT.length), JOINT.mask_id)


def _pvalue(tokens, probs):
  counts = np.bincount(JOINT.index(tokens), minlength=len(JOINT.probs))
  assert counts[probs == 0].sum() == 0
  return oracle.chi_square(counts[probs > 0], probs[probs > 0])


def _exact_law(schedule, steps, blocks=1):
  """Law of the sampler on its grid over JOINT.sequences, by its transition matrices."""
  ids = (JOINT.mask_id,) + JOINT.real
  states = np.array(list(itertools.product(ids, repeat=JOINT.length)))
  is_masked = states == JOINT.mask_id
  probs = JOINT.conditionals(states)  # [S, L, V]
  eps = schedule.get("eps", 1e-4)
  mask_prob = lambda t: (1 - eps) * MASK_PROB[schedule["name"]](t) + eps
  law = np.zeros(len(states))
  law[is_masked.all(axis=1).argmax()] = 1
  size = JOINT.length // blocks
  for block, step in itertools.product(range(blocks), range(steps)):
    now, then = mask_prob(1 - step / steps), mask_prob(1 - (step + 1) / steps)
    reveal = 1 - then / now if step < steps - 1 else 1.0
    transition = np.ones((len(states), len(states)))
    for i in range(JOINT.length):
      chance = reveal if i // size == block else 0.0
      drawn = chance * probs[:, i, states[:, i]]
      drawn[:, is_masked[:, i]] = 1 - chance
      stays = states[:, None, i] == states[None, :, i]
      transition *= np.where(is_masked[:, None, i], drawn, stays)
    law = law @ transition
  assert abs(law.sum() - 1) < 1e-9 and law[is_masked.any(axis=1)].max() == 0
  found = np.zeros(len(JOINT.probs))
  found[JOINT.index(states[~is_masked.any(axis=1)])] = law[~is_masked.any(axis=1)]
  return found


@pytest.mark.parametrize("schedule,steps", tiny.first([
    ({"name": "linear", "eps": 0.2}, 1), ({"name": "linear", "eps": 0.2}, 3),
    ({"name": "cosine"}, 2), ({"name": "polynomial", "power": 2.0}, 5)], 1))
def test_samples_follow_the_exact_law_of_the_grid(schedule, steps):
  decoded = _decode(_masked(20000), schedule=schedule, steps=steps)
  assert _pvalue(decoded.tokens, _exact_law(schedule, steps)) > 1e-4
  assert decoded.nfe.max() <= steps
  if steps > 1:  # the test can tell grids apart
    assert oracle.chi_square(_exact_law(schedule, 1) * 20000, _exact_law(schedule, steps)) < 1e-4


def test_blocks_follow_the_law_of_their_grids_one_after_another():
  decoded = _decode(_masked(20000), steps=4, block_length=2)
  assert _pvalue(decoded.tokens, _exact_law(_LINEAR, 2, blocks=2)) > 1e-4
  assert oracle.chi_square(_exact_law(_LINEAR, 4) * 20000, _exact_law(_LINEAR, 2, 2)) < 1e-4


@pytest.mark.slow
def test_many_steps_sample_the_model():
  decoded = _decode(_masked(15000), steps=100)
  assert _pvalue(decoded.tokens, JOINT.probs) > 1e-4
  # The same test sees the error of few steps.
  assert oracle.chi_square(_exact_law(_LINEAR, 1) * 15000, JOINT.probs) < 1e-6
  assert np.abs(_exact_law(_LINEAR, 100) - JOINT.probs).sum() < 0.02


@pytest.mark.parametrize("name,fields", tiny.first([
    ("first_hitting", {}), ("first_hitting", dict(block_length=2)), ("autoregressive", {}),
    ("confidence", dict(confidence="random")), ("confidence", dict(confidence="entropy"))], 2))
def test_one_place_a_step_samples_the_model(name, fields):
  # The last by a rule that reads the model: no order that is chosen without the tokens can bias.
  decoded = _decode(_masked(20000), name=name, **fields)
  assert _pvalue(decoded.tokens, JOINT.probs) > 1e-4
  assert np.all(decoded.nfe == JOINT.length)


@pytest.mark.parametrize("name,fields", tiny.first([
    ("first_hitting", {}), ("ancestral", dict(steps=80)),
    ("confidence", dict(confidence="random"))], 1))
@pytest.mark.slow
def test_any_given_tokens_stay_and_the_rest_follows_its_conditional(name, fields):
  canvas = _masked(30000)
  canvas[:15000, [0, 2]] = [2, 3]
  canvas[15000:, 1] = 0
  decoded = _decode(canvas, name=name, **fields)
  for rows, places, values in ((slice(0, 15000), [0, 2], [2, 3]), (slice(15000, None), [1], [0])):
    probs = np.where((JOINT.sequences[:, places] == values).all(axis=1), JOINT.probs, 0)
    assert _pvalue(decoded.tokens[rows], probs) > 1e-4
  if name != "ancestral":
    np.testing.assert_array_equal(decoded.nfe, (canvas == JOINT.mask_id).sum(axis=1))


def _flat(params, request):
  """The same logits everywhere, whatever is given."""
  del params
  return types.Answer(jnp.zeros(request.targets.shape + (JOINT.vocab_size,)))


def test_given_tokens_stay_whatever_the_model_says_of_them():
  # The true conditionals are point masses there; a real model's are not.
  canvas = np.where(np.arange(4)[None] < 2, JOINT.sequences, JOINT.mask_id)
  decoded = _decode(canvas, answer=_flat)
  np.testing.assert_array_equal(decoded.tokens[:, :2], JOINT.sequences[:, :2])
  assert np.isin(decoded.tokens, JOINT.real + (JOINT.pad_id,)).all()


def test_temperature_zero_takes_the_likeliest_token():
  canvas = _masked(81 * 4)
  for i in range(JOINT.length):  # one unknown each: its greedy value does not depend on order
    canvas[81 * i:81 * (i + 1)] = JOINT.sequences
    canvas[81 * i:81 * (i + 1), i] = JOINT.mask_id
  decoded = _decode(canvas, temperature=0.0)
  wanted = np.where(canvas == JOINT.mask_id, JOINT.conditionals(canvas).argmax(axis=2), canvas)
  np.testing.assert_array_equal(decoded.tokens, wanted)


@pytest.mark.parametrize("fields", tiny.first([dict(temperature=0.5), dict(temperature=2.0, top_k=2),
                                    dict(temperature=2.0, top_p=0.7)], 1))
def test_temperature_then_filters_shape_the_conditional(fields):
  canvas = np.tile(JOINT.sequences[40], (20000, 1))
  canvas[:, 1] = JOINT.mask_id
  decoded = _decode(canvas, steps=1, **fields)
  probs = JOINT.conditionals(canvas[:1])[0, 1] ** (1 / fields["temperature"])
  probs /= probs.sum()
  order = np.argsort(-probs)
  num = fields.get("top_k") or 1 + (np.cumsum(probs[order]) < fields.get("top_p", 1)).sum()
  probs[order[num:]] = 0
  counts = np.bincount(decoded.tokens[:, 1], minlength=JOINT.vocab_size)
  assert counts[probs == 0].sum() == 0 and (probs > 0).sum() >= 2
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_a_nucleus_is_that_of_the_tempered_law():
  # 0.6 / 0.3 / 0.1 at temperature 1/2: 0.78 / 0.2 / 0.02, so the first alone holds 0.7.
  logits = jnp.log(jnp.array([0.6, 1e-9, 0.3, 0.1, 1e-9]))

  def fixed(params, request):
    del params
    return types.Answer(jnp.broadcast_to(logits, request.targets.shape + (5,)))

  decoded = _decode(_masked(200), answer=fixed, temperature=0.5, top_p=0.7)
  assert np.all(decoded.tokens == 0)


@pytest.mark.slow
def test_rows_are_called_only_at_steps_that_reveal_something():
  canvas = _masked(4200)
  canvas[:100] = JOINT.sequences[3]
  canvas[100:200, 1:] = JOINT.sequences[3, 1:]
  decoded = _decode(canvas, steps=8)
  assert np.all(decoded.nfe[:100] == 0) and np.all(decoded.tokens[:100] == JOINT.sequences[3])
  assert np.all(decoded.nfe[100:200] == 1)
  # Four places fall into eight equal cells: the number of distinct ones.
  cells = np.array(list(itertools.product(range(8), repeat=4)))
  distinct = np.array([len(set(row)) for row in cells.tolist()])
  law = np.bincount(distinct, minlength=5)[1:] / len(cells)
  counts = np.bincount(decoded.nfe[200:], minlength=5)
  assert oracle.chi_square(counts[1:5], law) > 1e-4 and len(counts) == 5


def _time_told(schedule, name, num=300, **fields):
  """Times the network is told, with the largest mask probability yet to come, by step."""
  sampler, told = _sampler(name, schedule, **fields), []
  state = sampler.init(jnp.asarray(_masked(num)), jnp.broadcast_to(jnp.arange(4), (num, 4)),
                       driving.keys(num))
  update = jax.jit(sampler.update, compiler_options=driving.QUICK)
  for _ in range(4):
    hit = np.where(sampler.wanted(state), state["hit"], -1).max(axis=1)
    told += [(h, t) for h, t in zip(hit, np.asarray(sampler.noise_level(state))) if h >= 0]
    index = jnp.broadcast_to(jnp.arange(4), (num, 4))
    state, _ = update({}, state, index, types.Answer(jnp.zeros((num, 4, 5))), driving.keys(num))
  return np.array(told).T


@pytest.mark.parametrize("schedule", [_LINEAR, {"name": "cosine", "eps": 0.05}])
def test_first_hitting_tells_the_network_the_time_of_the_event(schedule):
  hit, told = _time_told(schedule, "first_hitting")
  alpha = schedule_lib.SCHEDULES[schedule["name"]](eps=schedule["eps"])
  later = hit > alpha.eps
  np.testing.assert_allclose(alpha.mask_prob(told[later]), hit[later], atol=1e-5)
  assert len(hit) == 1200 and np.all(told[~later] == 0)
  assert np.all(np.diff(hit.reshape(4, 300), axis=0) < 0)  # the latest time comes first
  assert oracle.z_score(hit[:300], 4 / 5) ** 2 < 16  # the largest of four uniforms


@pytest.mark.slow
def test_ancestral_tells_the_network_the_time_at_which_the_step_begins():
  hit, told = _time_told({"name": "cosine", "eps": 0.0}, "ancestral", steps=4)
  np.testing.assert_allclose(told, np.ceil(np.arcsin(hit) / (np.pi / 2) * 4) / 4, atol=1e-5)
  assert len(np.unique(told)) == 4


@pytest.mark.slow
def test_the_temperature_stays_one_over_1024_steps():
  # Of 2 ** 10 tokens with Zipf's law, drawn at the few places that a step reveals. One
  # categorical over "stay" and all tokens would lose a third of them to float32 noise.
  length, vocab = 1024, 2 ** 10
  law = 1 / np.arange(1, vocab + 1)
  law /= law.sum()
  sampler = ancestral.Ancestral(mask_id=vocab, gen_length=length, steps=1024)
  table = jnp.asarray(np.append(np.log(law), -1e30), jnp.float32)
  state = sampler.init(jnp.full((2, length), vocab), jnp.broadcast_to(
      jnp.arange(length), (2, length)), driving.keys(2))
  narrow = 6  # places a step reveals at most here; the places whose time comes next

  def body(state):
    _, index = jax.lax.top_k(jnp.where(sampler.wanted(state), state["hit"], -1.0), narrow)
    index = jnp.sort(index, axis=1)
    keys = jax.vmap(jax.random.fold_in)(driving.keys(2), state["nfe"])
    logits = jnp.broadcast_to(table, (2, narrow, vocab + 1))
    new, _ = sampler.update({}, state, index, types.Answer(logits), keys)
    return jax.tree.map(lambda old, new: jnp.where(
        sampler.active(state).reshape((-1,) + (1,) * (new.ndim - 1)), new, old), state, new)

  out = jax.jit(lambda s: jax.lax.while_loop(
      lambda s: jnp.any(sampler.active(s)), body, s))(state)
  tokens = np.asarray(out["canvas"]).ravel()
  bins = 2 ** np.arange(11)
  expected = np.array([law[a - 1:b - 1].sum() for a, b in zip(bins, bins[1:])])
  counts = np.histogram(tokens + 1, bins)[0]
  assert counts.sum() == np.sum(tokens < vocab - 1)
  assert oracle.chi_square(counts, expected) > 1e-4
  steps = np.asarray(out["nfe"])
  distinct = 1024 * (1 - (1 - 1 / 1024) ** 1024)  # of 1024 places among 1024 steps
  assert np.all(np.abs(steps - distinct) < 60)


LEFT_TO_RIGHT = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)
LEFT_TO_RIGHT_ANSWER = driving.on_joint(LEFT_TO_RIGHT)


def _left_to_right(canvas, row_index=None, **fields):
  sampler = samplers.build(dict(name="autoregressive", **fields), LEFT_TO_RIGHT,
                           mask_id=JOINT.mask_id)
  return driving.decode(LEFT_TO_RIGHT_ANSWER, sampler, canvas, row_index=row_index)


def test_samples_from_left_to_right_follow_the_joint():
  decoded = _left_to_right(np.full((20000, 4), JOINT.mask_id))
  counts = np.bincount(JOINT.index(decoded.tokens), minlength=len(JOINT.probs))
  assert oracle.chi_square(counts, JOINT.probs) > 1e-4
  assert np.all(decoded.nfe == 4)


def test_prompts_stay_and_the_rest_follows_its_conditional():
  canvas = np.full((20000, 4), JOINT.mask_id)
  canvas[:, :2] = [3, 0]
  decoded = _left_to_right(canvas)
  counts = np.bincount(JOINT.index(decoded.tokens), minlength=len(JOINT.probs))
  probs = np.where((JOINT.sequences[:, :2] == [3, 0]).all(axis=1), JOINT.probs, 0)
  assert counts[probs == 0].sum() == 0 and np.all(decoded.nfe == 2)
  assert oracle.chi_square(counts[probs > 0], probs[probs > 0]) > 1e-4


def test_temperature_zero_is_greedy():
  canvas = np.full((1, 4), JOINT.mask_id)
  tokens = _left_to_right(canvas, temperature=0.0).tokens
  for i in range(4):
    canvas[0, i] = JOINT.conditionals(canvas)[0, i].argmax()
  np.testing.assert_array_equal(tokens, canvas)


def test_rows_are_called_once_for_each_mask():
  canvas = np.array([[0, 2, 3, 0], [0, 2, 3, 1], [1, 2, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
  decoded = _left_to_right(canvas)
  np.testing.assert_array_equal(decoded.nfe, (canvas == JOINT.mask_id).sum(axis=1))
  given = canvas != JOINT.mask_id
  np.testing.assert_array_equal(decoded.tokens[given], canvas[given])
  assert np.isin(decoded.tokens, JOINT.real).all()


@pytest.mark.slow
def test_a_rows_sample_is_the_same_in_any_batch_and_place():
  tokens = _left_to_right(np.full((64, 4), JOINT.mask_id)).tokens
  order = np.random.default_rng(0).permutation(64)[:11]
  part = _left_to_right(np.full((11, 4), JOINT.mask_id), row_index=order).tokens
  np.testing.assert_array_equal(tokens[order], part)


def test_every_position_is_a_block_whatever_the_block_length():
  canvas = np.full((16, 4), JOINT.mask_id)
  np.testing.assert_array_equal(_left_to_right(canvas, gen_length=4, block_length=2).tokens,
                                _left_to_right(canvas).tokens)


def test_an_autoregressive_model_is_decoded_only_so():
  with pytest.raises(ValueError, match="decoded by sampler.name=autoregressive"):
    samplers.build({"name": "threshold"}, LEFT_TO_RIGHT, mask_id=JOINT.mask_id)
