"""Rules that revise: running confidence, ReMDM, token editing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.samplers import confidence as confidence_lib
from mdx.samplers import revise

import driving
import oracle
import tiny

MASK = driving.MASK_ID


_UPDATES = {}


def _update(sampler):
  """`sampler.update` where the model gives some tokens with some confidence; kept."""

  def update(state, where, tokens, scores, keys):
    scores = jnp.clip(scores, 1e-6, 1 - 1e-6)[..., None]
    others = jnp.log((1 - scores) / (driving.VOCAB - 1))
    logits = jnp.where(jax.nn.one_hot(tokens, driving.VOCAB, dtype=bool), jnp.log(scores), others)
    return sampler.update({}, state, where, types.Answer(logits), keys)

  return _UPDATES.setdefault(repr(sampler), jax.jit(update, compiler_options=driving.QUICK))


def _drive(sampler, canvas, propose, num_steps, seed=0):
  """Canvases before each step, with proposals (tokens, confidence) of our own.

  `propose(step, canvas)` gives int [B, S] and float [B, S].
  """
  canvas = jnp.asarray(canvas, jnp.int32)
  rows, length = canvas.shape
  where = jnp.broadcast_to(jnp.arange(length), canvas.shape)
  state = sampler.init(canvas, where, driving.keys(rows, seed))
  canvases = [np.asarray(state["canvas"])]

  update = _update(sampler)
  for step in range(num_steps):
    tokens, scores = propose(step, canvases[-1])
    keys = jax.vmap(jax.random.fold_in, (0, None))(driving.keys(rows, seed), step)
    new, _ = update(state, where, jnp.asarray(tokens), jnp.asarray(scores, jnp.float32), keys)
    active = sampler.active(state)
    state = jax.tree.map(lambda n, o: jnp.where(  # pylint: disable=cell-var-from-loop
        active.reshape((-1,) + (1,) * (n.ndim - 1)), n, o), new, state)
    canvases.append(np.asarray(state["canvas"]))
  return np.array(canvases), state


def _rcr(**fields):
  return revise.RunningConfidence(mask_id=MASK, gen_length=6, steps=3, temperature=0.0, **fields)


CONFIDENCES = np.array([[.9, .2, .8, .5, .6, .3], [0, .95, 0, .9, .85, .88],
                        [.2, .2, .97, .2, .6, .2]])


def _golden(sampler, confidences=CONFIDENCES):
  canvases, _ = _drive(sampler, np.zeros((1, 6)), lambda step, canvas: (
      np.full((1, 6), 2 + step), confidences[step][None]), 3)
  return canvases[:, 0]


@pytest.mark.slow
def test_running_confidence_on_six_tokens():
  # By hand from arXiv:2508.13148: two tokens a step; token 2, committed by the first step, is
  # masked again by the second.
  canvases = _golden(_rcr())
  np.testing.assert_array_equal(canvases[1], [2, 0, 2, 0, 0, 0])
  np.testing.assert_array_equal(canvases[2], [2, 3, 0, 3, 0, 3])
  np.testing.assert_array_equal(canvases[3], [2, 3, 4, 3, 4, 3])
  plain = confidence_lib.Confidence(mask_id=MASK, gen_length=6, steps=3, temperature=0.0)
  canvases = _golden(plain)
  np.testing.assert_array_equal(canvases[1], [2, 0, 2, 0, 0, 0])
  np.testing.assert_array_equal(canvases[2], [2, 3, 2, 3, 0, 0])
  np.testing.assert_array_equal(canvases[3], [2, 3, 2, 3, 4, 4])


@pytest.mark.slow
def test_the_latest_confidence_and_the_running_maximum_differ_where_one_falls():
  # The confidence of token 4 falls from 0.79 to 0.1; those of 3 and 5 rise to 0.7 and 0.75.
  confidences = np.array([[.9, .2, .8, .5, .79, .1], [0, .95, 0, .7, .1, .75], [.5] * 6])
  latest, maximum = _golden(_rcr(), confidences), _golden(_rcr(rcr_stat="max"), confidences)
  np.testing.assert_array_equal(latest[2] == MASK, [0, 0, 0, 1, 1, 0])
  np.testing.assert_array_equal(maximum[2] == MASK, [0, 0, 0, 1, 0, 1])


@pytest.mark.slow
def test_running_confidence_makes_as_many_calls_and_masks_as_the_schedule_leaves():
  draw = np.random.default_rng(0)
  sampler = revise.RunningConfidence(mask_id=MASK, gen_length=12, block_length=6, steps=8,
                                     schedule="cosine", temperature=0.0)
  plain = confidence_lib.Confidence(mask_id=MASK, gen_length=12, block_length=6, steps=8,
                                    schedule="cosine", temperature=0.0)
  propose = lambda step, canvas: (draw.integers(2, 7, canvas.shape), draw.random(canvas.shape))
  ours, state = _drive(sampler, np.zeros((40, 12)), propose, 9)
  theirs, other = _drive(plain, np.zeros((40, 12)), propose, 9)
  np.testing.assert_array_equal((ours == MASK).sum(axis=2), (theirs == MASK).sum(axis=2))
  np.testing.assert_array_equal(state["nfe"], other["nfe"])
  # Tokens of the first block are revised while the second is active, and only there.
  second = (ours[4:-1, :, :6] != ours[5:, :, :6]).any()
  assert second and not (theirs[4:, :, :6] == MASK).any()
  assert np.all(ours[:4, :, 6:] == MASK)


@pytest.mark.slow
def test_no_tie_masks_a_prompt_or_a_later_block():
  sampler = revise.RunningConfidence(mask_id=MASK, gen_length=8, block_length=4, steps=4,
                                     temperature=0.0, confidence="margin")
  canvas = np.concatenate([np.full((3, 4), 5), np.zeros((3, 8))], axis=1)
  canvases, state = _drive(sampler, canvas, lambda step, c: (np.full(c.shape, 3), np.ones(c.shape)),
                           5)
  assert np.all(canvases[:, :, :4] == 5) and np.all(state["nfe"] == 4)
  np.testing.assert_array_equal((canvases == MASK).sum(axis=2)[:, 0], [8, 6, 4, 2, 0, 0])


# ReMDM. The tokens do not matter for what is masked, so one stands for all.


def _remdm(**fields):
  return revise.Remdm(mask_id=MASK, gen_length=16, **fields)


def _is_masked(sampler, num_steps, rows=2000, confidence=0.5):
  canvases, state = _drive(sampler, np.zeros((rows, 16)), lambda step, c: (
      np.full(c.shape, 3), np.broadcast_to(confidence, c.shape)), num_steps)
  return canvases == MASK, state


@pytest.mark.parametrize("fields,noise", tiny.first([
    (dict(remdm="cap", eta=0.3), {"name": "linear", "eps": 0.0}),
    (dict(remdm="cap", eta=1.0), {"name": "cosine"}),
    (dict(remdm="rescale", eta=0.7), {"name": "cosine"}),
    (dict(remdm="cap", eta=0.0), {"name": "linear"})], 1))
@pytest.mark.slow
def test_remasking_keeps_the_marginals(fields, noise):
  steps = 5
  masked, state = _is_masked(_remdm(steps=steps, noise=noise, **fields), steps)
  alpha = schedule_lib.SCHEDULES[noise["name"]](**{k: v for k, v in noise.items() if k != "name"})
  for step in range(1, steps):
    rate = float(alpha.mask_prob(jnp.float32(1 - step / steps)))
    assert abs(oracle.z_score(masked[step].ravel(), rate)) < 4.5
  assert not masked[steps].any() and np.all(state["nfe"] == steps)
  again = (~masked[:-1] & masked[1:]).any()
  assert again == (fields["eta"] > 0)


def _pairs(masked, step):
  """Counts of (masked before, masked after) over all places: [2, 2]."""
  pair = 2 * masked[step].astype(int) + masked[step + 1]
  return np.bincount(pair.ravel(), minlength=4).reshape(2, 2)


def _limit(now, then):
  return min(1.0, (1 - then) / now) if now else 1.0


@pytest.mark.parametrize("remdm", tiny.first([
    "cap", pytest.param("rescale", marks=pytest.mark.slow), "loop"], 1))
def test_transitions_have_the_probabilities_of_the_paper(remdm):
  steps, eta = 10, 0.4
  fields = dict(remdm=remdm, eta=eta, loop_on=0.75, loop_off=0.25, loop_alpha=0.6)
  masked, _ = _is_masked(_remdm(steps=steps, noise={"name": "linear", "eps": 0.0}, **fields), steps)

  def alpha(t):
    if remdm != "loop":
      return 1 - t
    return (1 - t) / 0.25 * 0.6 if t > 0.75 else 0.6 if t > 0.25 else 1 - t / 0.25 * 0.4

  for step in range(steps - 1):
    time = 1 - step / steps
    now, then = alpha(time), alpha(1 - (step + 1) / steps)
    sigma = {"cap": min(eta, _limit(now, then)), "rescale": eta * _limit(now, then),
             "loop": min(eta, _limit(now, then)) if 0.25 < time <= 0.75 else 0.0}[remdm]
    reveal = (then - (1 - sigma) * now) / (1 - now)
    (_, up), (down, stays) = _pairs(masked, step)
    visible = (~masked[step]).sum()
    for count, total, rate in ((up, visible, sigma), (down, masked[step].sum(), reveal)):
      spread = 4.5 * np.sqrt(total * max(rate * (1 - rate), 1e-12)) + 1e-3 * total * (rate == 0)
      assert abs(count - total * rate) <= spread, (step, rate, count / max(total, 1))
    assert down + stays == masked[step].sum()


@pytest.mark.slow
def test_confidence_remasks_the_unsure_more_and_at_most_the_limit_in_all():
  steps, confidence = 8, np.where(np.arange(16) < 8, 0.99, 0.05)
  masked, _ = _is_masked(_remdm(remdm="confidence", steps=steps,
                                noise={"name": "linear", "eps": 0.0}), steps, confidence=confidence)
  for step in range(2, steps - 1):
    now, then = step / steps, (step + 1) / steps
    visible, again = ~masked[step], ~masked[step] & masked[step + 1]
    weight = np.where(visible, np.exp(-confidence.clip(1e-6, 1 - 1e-6)), 0)
    rate = _limit(now, then) * weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    for half in (slice(0, 8), slice(8, 16)):
      assert abs(oracle.z_score((again - rate)[:, half].ravel(), 0)) < 4.5
    reveal = (then - now) / (1 - now)
    assert abs(oracle.z_score((masked[step] & ~masked[step + 1])[masked[step]], reveal)) < 4.5
  assert not masked[-1].any()


def test_remasking_samples_the_model_where_tokens_are_independent():
  law = np.array([0.0, 0.5, 0.3, 0.15, 0.05])
  logits = jnp.log(jnp.asarray(np.maximum(law, 1e-30), jnp.float32))

  def answer(params, request):
    del params
    return types.Answer(jnp.broadcast_to(logits, request.targets.shape + (5,)))

  sampler = revise.Remdm(mask_id=0, gen_length=4, steps=12, eta=0.5)
  decoded = driving.decode(answer, sampler, np.zeros((3000, 4)))
  number = (decoded.tokens - 1) @ 4 ** np.arange(4)
  joint = np.array([np.prod(law[1:][list(d)]) for d in itertools.product(range(4), repeat=4)])
  assert oracle.chi_square(np.bincount(number, minlength=256), joint) > 1e-4


# Token editing, by scripts.


def _editing(**fields):
  return revise.TokenEditing(mask_id=MASK, temperature=0.0, **dict(
      gen_length=4, threshold=0.8, edit_threshold=0.7) | fields)


def _script(steps):
  """Proposals from a list of (tokens, confidences)."""
  return lambda step, canvas: tuple(np.asarray(x)[None] for x in steps[step])


def test_a_token_is_replaced_where_the_model_is_sure_of_another():
  canvases, state = _drive(_editing(), np.zeros((1, 4)), _script([
      ([2, 3, 4, 5], [.9, .95, .5, .4]),  # writes 0 and 1
      ([6, 4, 4, 5], [.75, .65, .85, .4]),  # replaces 0 (not 1: 0.65), writes 2
      ([6, 3, 4, 5], [.9, .9, .9, .5]),  # writes 3, the surest left
      ([6, 3, 2, 5], [.9, .9, .9, .9]),  # no masks: replaces 2
      ([6, 3, 2, 5], [.9, .9, .9, .9]),  # changes nothing: the end
      ([5, 5, 5, 5], [.9, .9, .9, .9])]), 6)
  np.testing.assert_array_equal(canvases[:, 0], [
      [0, 0, 0, 0], [2, 3, 0, 0], [6, 3, 4, 0], [6, 3, 4, 5], [6, 3, 2, 5], [6, 3, 2, 5],
      [6, 3, 2, 5]])
  assert state["nfe"][0] == 5


@pytest.mark.parametrize("edit_steps", [0, 1, 3])
def test_replacing_ends_after_the_steps_it_may_take(edit_steps):
  flips = [([2 + step % 2] * 4, [.99] * 4) for step in range(8)]
  sampler = _editing(edit_steps=edit_steps)
  canvases, state = _drive(sampler, np.zeros((1, 4)), _script(flips), 8)
  assert state["nfe"][0] == 1 + edit_steps <= sampler.max_steps(4)
  np.testing.assert_array_equal(canvases[-1, 0], [2 + edit_steps % 2] * 4)


def test_only_the_active_block_is_edited_and_a_settled_one_is_left():
  sampler = _editing(block_length=2)
  canvases, state = _drive(sampler, np.array([[5, 0, 0, 0, 0]]), _script([
      ([6, 2, 2, 2, 2], [.9] * 5),  # writes 1 and 2; never the given token
      ([6, 2, 2, 3, 3], [.9] * 5),  # nothing changes: on to the next block
      ([6, 4, 4, 4, 4], [.9] * 5),  # writes 3 and 4; the first block stays
      ([6, 4, 4, 4, 4], [.9] * 5), ([6, 4, 4, 4, 4], [.9] * 5)]), 5)
  np.testing.assert_array_equal(canvases[-1, 0], [5, 2, 2, 4, 4])
  assert state["nfe"][0] == 4


def test_the_surest_is_written_when_none_is_sure():
  canvases, _ = _drive(_editing(), np.zeros((1, 4)), _script([([2, 3, 4, 5], [.1, .2, .4, .3])]), 1)
  np.testing.assert_array_equal(canvases[1, 0], [0, 0, 4, 0])
