"""Records of decodes: steps, canvases, predictions, log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.samplers import decoder
from mdx.samplers import loop
from mdx.samplers import trajectory
from mdx.utils import rng

import driving

MASK = driving.MASK_ID
MODEL = driving.Memory()
CANVAS = np.zeros((6, 16), np.int32)
CANVAS[:, :4] = np.random.default_rng(0).integers(2, 7, (6, 4))
CANVAS[2, [7, 11]] = 5
FIELDS = dict(name="confidence", gen_length=12, block_length=6, steps=6, temperature=0.7, top_k=4,
              top_p=0.9, schedule="cosine")


def _decode(record, **fields):
  sampler = driving.build(MODEL, **FIELDS | fields, also=samplers.SAMPLERS)
  return driving.decode(MODEL.answer, sampler, CANVAS, start=4, record=record)


@pytest.mark.slow
def test_the_record_says_nothing_new_about_the_text():
  decodes = {level: _decode(level) for level in trajectory.RECORDS}
  for level, decoded in decodes.items():
    np.testing.assert_array_equal(decoded.tokens, decodes["none"].tokens, err_msg=level)
    np.testing.assert_array_equal(decoded.nfe, decodes["none"].nfe)
    if level == "none":
      assert decoded.trajectory is None
      continue
    record = decoded.trajectory
    np.testing.assert_array_equal(record.tokens, decoded.tokens[:, 4:])
    np.testing.assert_array_equal(record.nfe, decoded.nfe)
    np.testing.assert_array_equal(record.is_free, CANVAS[:, 4:] == MASK)
    for name in ("step", "confidence", "log_prob"):
      np.testing.assert_array_equal(getattr(record, name),
                                    getattr(decodes["full"].trajectory, name))
    assert (record.canvas is None) == (level in ("commits", "entropy"))
    assert (record.entropy is None) == (level != "entropy")
    assert (record.prediction is None) == (level != "full")


@pytest.mark.slow
def test_canvases_before_each_step_follow_from_the_steps_alone():
  record = _decode("full").trajectory
  for step in range(record.nfe.max()):
    active = record.nfe > step
    found = trajectory.canvas_before(record, step, MASK)
    np.testing.assert_array_equal(found[active], record.canvas[active, step])
  np.testing.assert_array_equal(trajectory.canvas_before(record, record.nfe, MASK), record.tokens)
  first = np.asarray(trajectory.canvas_before(record, np.zeros(6, int), MASK))
  np.testing.assert_array_equal(first, CANVAS[:, 4:])
  assert np.all(record.step[~record.is_free] == -1) and np.all(record.step[record.is_free] >= 0)
  # Block 0 is finished before block 1 begins; cosine commits more and more.
  assert np.all(record.step[0, :6].max() < record.step[0, 6:].min())
  np.testing.assert_array_equal(np.bincount(record.step[0]), [1, 2, 3] * 2)


def _law(canvas, temperature, top_k, top_p):
  """Untempered and sampling log-probabilities at all places, in float64: [B, S, V]."""
  logits = np.asarray(MODEL.answer(None, types.Request(
      jnp.asarray(canvas), jnp.zeros(len(canvas)))).logits, np.float64)
  softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  plain = softmax(logits)
  logits[..., MASK] = -np.inf
  probs = softmax(logits / temperature)
  probs = np.where(probs >= -np.sort(-probs, -1)[..., top_k - 1:top_k], probs, 0)
  probs /= probs.sum(-1, keepdims=True)
  ranked = -np.sort(-probs, -1)
  num = 1 + (np.cumsum(ranked, -1) < top_p).sum(-1, keepdims=True)
  probs = np.where(probs >= np.take_along_axis(ranked, num - 1, -1), probs, 0)
  return plain, probs / probs.sum(-1, keepdims=True)


def test_log_probabilities_are_those_of_the_law_that_tokens_were_drawn_from():
  record = _decode("full").trajectory
  for step in range(record.nfe.max()):
    canvas = np.concatenate([CANVAS[:, :4], record.canvas[:, step]], axis=1)
    plain, law = (x[:, 4:] for x in _law(canvas, 0.7, 4, 0.9))
    pick = lambda x, tokens: np.take_along_axis(x, tokens[..., None], -1)[..., 0]
    here = record.step == step
    assert here.any()
    np.testing.assert_allclose(record.log_prob[here], np.log(pick(law, record.tokens)[here]),
                               atol=1e-4)
    np.testing.assert_allclose(record.confidence[here], pick(plain, record.tokens)[here], rtol=1e-4)
    masked = (canvas[:, 4:] == MASK) & (record.nfe > step)[:, None]
    np.testing.assert_allclose(record.step_log_prob[:, step][masked],
                               np.log(pick(law, record.prediction[:, step])[masked]), atol=1e-4)
    np.testing.assert_allclose(record.step_confidence[:, step][masked],
                               pick(plain, record.prediction[:, step])[masked], rtol=1e-4)
  given = ~record.is_free
  assert given.sum() == 2 and np.all(record.log_prob[given] == 0)


def test_entropies_are_those_of_the_distributions_that_tokens_were_drawn_from():
  record = _decode("entropy", steps=2, block_length=0).trajectory
  number = 0
  for step in range(2):
    shown = np.asarray(trajectory.canvas_before(record, jnp.int32(step), MASK))
    _, law = (x[:, 4:] for x in _law(np.concatenate([CANVAS[:, :4], shown], axis=1), 0.7, 4, 0.9))
    entropy = -(law * np.log(np.maximum(law, 1e-30))).sum(axis=-1)
    here = record.step == step
    number += here.sum()
    np.testing.assert_allclose(record.entropy[here], entropy[here], atol=1e-4)
  assert number == record.is_free.sum() and np.all(record.entropy[~record.is_free] == 0)


def test_a_full_prediction_has_the_canvas_where_it_is_known_and_draws_elsewhere():
  record = _decode("full").trajectory
  for row in range(6):
    for step in range(record.nfe[row]):
      canvas, prediction = record.canvas[row, step], record.prediction[row, step]
      np.testing.assert_array_equal(prediction[canvas != MASK], canvas[canvas != MASK])
      assert not (prediction == MASK).any()
      here = record.step[row] == step
      np.testing.assert_array_equal(prediction[here], record.tokens[row, here])
    assert not record.prediction[row, record.nfe[row]:].any()


@pytest.mark.parametrize("name", ["confidence", pytest.param("rcr", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_branches_are_further_draws_of_the_same_canvas_and_change_nothing_else(name):
  sampler = driving.build(MODEL, **FIELDS | dict(name=name, top_k=0, top_p=1.0),
                          also=samplers.SAMPLERS)
  rows = np.repeat(CANVAS[2:3], 400, axis=0)  # one canvas at the first step
  one, many = (jax.jit(lambda rows, m=m: loop.decode(
      lambda request: MODEL.answer(None, request), sampler, rows, key=rng.root(0),
      row_index=jnp.arange(400), start=4, record="full", num_predictions=m))(
          jnp.asarray(rows)).trajectory for m in (1, 4))
  assert one.branches is None and many.branches.shape == (400, one.canvas.shape[1], 3, 12)
  for field in one._fields:
    if field != "branches" and getattr(one, field) is not None:
      np.testing.assert_array_equal(getattr(one, field), getattr(many, field))
  branches, canvas = np.asarray(many.branches), np.asarray(many.canvas)[:, :, None]
  active = np.arange(canvas.shape[1])[None] < np.asarray(many.nfe)[:, None]
  given = np.broadcast_to((canvas != MASK) & active[..., None, None], branches.shape)
  np.testing.assert_array_equal(branches[given], np.broadcast_to(canvas, branches.shape)[given])
  assert not (branches == MASK).any() and not branches[~active].any()
  # Each is of the distribution at its position, and independent of the sampler's own.
  _, law = _law(rows[:1], 0.7, driving.VOCAB, 1 - 1e-9)
  first = np.concatenate([np.asarray(many.prediction)[:, :1], branches[:, 0]], axis=1)
  for place in np.flatnonzero(rows[0, 4:] == MASK):
    expected = law[0, 4 + place]
    drawn = np.eye(driving.VOCAB)[first[:, :, place]]
    np.testing.assert_allclose(drawn[:, 1:].mean(axis=(0, 1)), expected, atol=0.05)
    together = np.einsum("nja,nkb->jkab", drawn, drawn) / 400
    for j, k in ((0, 1), (1, 2), (0, 3), (2, 3)):
      np.testing.assert_allclose(together[j, k], np.outer(expected, expected), atol=0.09)


def test_the_record_of_canvases_looks_at_the_active_block_only():
  record = _decode("canvas").trajectory
  assert np.all(record.step_confidence[0, 0, :6] > 0) and not record.step_confidence[0, 0, 6:].any()
  assert np.all(_decode("full").trajectory.step_confidence[0, 0] > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rcr", "token_editing"])
def test_the_steps_of_revised_tokens_are_those_after_which_they_stood(name):
  decoded = _decode("canvas", name=name, edit_threshold=0.3, threshold=0.3)
  record, revised = decoded.trajectory, 0
  for row in range(6):
    canvases = list(record.canvas[row, :record.nfe[row]]) + [record.tokens[row]]
    for place in np.flatnonzero(record.is_free[row]):
      values = [c[place] for c in canvases]
      last = max(i for i in range(len(values) - 1) if values[i] != values[i + 1])
      assert record.step[row, place] == last
      revised += len({v for v in values if v != MASK}) > 1
      # It was written with what the step saw.
      assert record.confidence[row, place] == record.step_confidence[row, last, place] != 0
  assert revised > 0


@pytest.mark.slow
def test_a_token_that_was_filled_in_has_no_confidence_even_where_one_was_written_before():
  recorder = trajectory.Recorder(level="canvas", start=0, max_steps=4, mask_id=MASK)
  canvas = jnp.array([[MASK, MASK, 3]])
  record = recorder.init(canvas)
  state = lambda canvas, nfe: {"canvas": jnp.array([canvas]), "nfe": jnp.array([nfe])}
  step = lambda written, conf: decoder.Step(
      jnp.array([[0, 1]]), jnp.array([written]), jnp.array([[4, 5]]), jnp.array([conf]),
      jnp.log(jnp.array([conf])))
  active = jnp.array([True])
  moves = [([MASK, MASK, 3], [4, MASK, 3], step([True, False], [.9, .2])),  # 0 is written,
           ([4, MASK, 3], [MASK, MASK, 3], step([False, False], [.8, .3])),  # masked again,
           ([MASK, MASK, 3], [6, 5, 3], step([False, True], [.7, .6]))]  # and filled
  for nfe, (before, after, done) in enumerate(moves):
    record = recorder.add(record, state(before, nfe), state(after, nfe + 1), done, active)
    assert record.confidence[0, 0] == np.float32([.9, .9, 0][nfe])
  np.testing.assert_allclose(record.confidence, [[0, .6, 0]])
  np.testing.assert_allclose(record.log_prob, [[0, np.log(.6), 0]], rtol=1e-6)
  np.testing.assert_array_equal(record.step, [[2, 2, -1]])
  waits = recorder.add(record, state([6, 5, 3], 3), state([6, 4, 3], 4), moves[0][2], ~active)
  np.testing.assert_array_equal(waits.confidence, record.confidence)
  np.testing.assert_array_equal(waits.step, record.step)
  np.testing.assert_array_equal(waits.canvas, record.canvas)


def test_frames_show_each_canvas_and_the_confidence_of_each_token():
  record = _decode("canvas", name="rcr").trajectory
  canvas, confidence = trajectory.frames(record, 2, MASK)
  assert canvas.shape == confidence.shape == (record.nfe[2] + 1, 12)
  np.testing.assert_array_equal(canvas[0], CANVAS[2, 4:])
  np.testing.assert_array_equal(canvas[-1], record.tokens[2])
  written = (canvas != MASK) & record.is_free[2]
  np.testing.assert_array_equal(np.isnan(confidence), ~written)
  np.testing.assert_array_equal(confidence[-1][record.is_free[2]],
                                record.confidence[2][record.is_free[2]])
  step = np.flatnonzero((canvas[1:] != canvas[:-1]).any(axis=1))
  np.testing.assert_array_equal(step, np.arange(record.nfe[2]))


def _call(record, num_predictions=1, **fields):
  sampler = driving.build(MODEL, **FIELDS | fields)
  loop.decode(lambda request: MODEL.answer(None, request), sampler, jnp.asarray(CANVAS),
              key=rng.root(0), row_index=jnp.arange(6), record=record,
              num_predictions=num_predictions)


def test_a_record_that_cannot_be_made_is_refused():
  with pytest.raises(ValueError, match="record is 'all'; choose from none, commits, entropy, canvas, full"):
    _call("all")
  with pytest.raises(ValueError, match="cache dual leaves out; use cache none, or record canvas"):
    _call("full", cache="dual")
  for record, number in (("commits", 2), ("full", 0)):
    with pytest.raises(ValueError, match=f"num_predictions is {number} with record {record}"):
      _call(record, num_predictions=number)
