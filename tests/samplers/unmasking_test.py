"""The learned rule: what it records is what it drew, experts, speed, and policies that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import samplers
from mdx import types
from mdx.samplers import loop
from mdx.samplers import unmasking
from mdx.utils import rng

import driving

MODEL = driving.Memory(scale=0.7)
CANVAS = np.where(np.arange(12) < 4, 3, np.zeros((6, 12))).astype(np.int32)
CANVAS[2, 9] = 5
FIELDS = dict(mask_id=0, gen_length=8, temperature=0.0, policy_width=8, policy_heads=1)


def _params(rule, seed=0):
  """Parameters of a policy whose scores vary and whose block does something."""
  params = rule.parts()["unmasking"].init(rng.root(seed))
  draw = np.random.default_rng(seed)
  return {"unmasking": jax.tree.map(
      lambda x: x + jnp.asarray(0.5 * draw.normal(size=x.shape), jnp.float32), params)}


def _decode(rule, params, record="canvas", group_size=1):
  index = jnp.arange(6)
  run = jax.jit(lambda params, canvas: loop.decode(
      functools.partial(MODEL.answer, None), rule, canvas, params=params, key=rng.root(3),
      row_index=index, component_index=index // group_size, start=4, record=record),
                compiler_options=driving.QUICK)
  return jax.device_get(run(params, CANVAS))


_ALL = dict(actions="plackett_luce", block_length=4, expert_rate=0.5, expert_threshold=0.3,
            speed_range=(0.5, 5.0), action_temperature=0.7)


@pytest.mark.parametrize("fields", tiny.mostly_slow([dict(), _ALL], [_ALL]), ids=str)
@pytest.mark.slow
def test_the_log_probability_of_recorded_actions_is_found_again_without_the_model(fields):
  rule = unmasking.Unmasking(**FIELDS | fields)
  params = _params(rule)
  decoded = _decode(rule, params)
  record = decoded.trajectory
  assert np.all(decoded.tokens != 0) and np.all(decoded.nfe >= 1)
  found = np.asarray(jax.jit(rule.action_log_prob, compiler_options=driving.QUICK)(
      params, {k: v for k, v in record._asdict().items() if v is not None}))
  np.testing.assert_allclose(found, record.action_log_prob.sum(axis=2), atol=2e-5)
  taken = np.arange(8) < decoded.nfe[:, None]
  assert (found[taken] <= 0).all() and (found[taken] < 0).mean() > 0.5 and not found[~taken].any()
  is_masked = (record.canvas == 0) & record.is_free[:, None]
  assert not record.action[~is_masked].any() and not record.step_confidence[~is_masked].any()
  experts = record.row_draws["is_expert"]
  assert experts.any() == bool(fields) and not experts.all()
  if fields:
    assert (found[experts][taken[experts]] > np.log(0.5)).all()
  for row, step in zip(*np.nonzero(taken)):  # what is drawn is written, and else one position
    last = step + 1 == decoded.nfe[row]
    after = decoded.tokens[row, 4:] if last else record.canvas[row, step + 1]
    written = is_masked[row, step] & (after != 0)
    assert written.sum() == max((record.action[row, step] > 0).sum(), 1)
    assert written[record.action[row, step] > 0].all()


@pytest.mark.slow
def test_the_confidence_is_that_of_the_likeliest_token_whatever_is_drawn():
  rule = unmasking.Unmasking(**FIELDS | dict(temperature=1.0))
  record = _decode(rule, _params(rule)).trajectory
  logits = np.array(MODEL.answer(None, _request(record.canvas[:, 0])).logits)
  probs = np.asarray(jax.nn.softmax(logits, axis=-1))
  expected = np.where(record.canvas[:, 0] == 0, probs[..., 1:].max(axis=-1)[:, 4:], 0.0)
  np.testing.assert_allclose(record.step_confidence[:, 0], expected, rtol=1e-5)


def _request(canvas):
  tokens = np.concatenate([CANVAS[:, :4], canvas], axis=1)
  return types.Request(jnp.asarray(tokens), jnp.ones(len(tokens)))


@pytest.mark.slow
def test_an_expert_decodes_as_the_threshold_rule_in_its_blocks():
  rule = unmasking.Unmasking(**FIELDS | dict(expert_rate=0.999, expert_threshold=0.3,
                                             expert_block_length=4))
  decoded = _decode(rule, _params(rule))
  assert decoded.trajectory.row_draws["is_expert"].all()
  expert = _decode(samplers.build(dict(name="threshold", threshold=0.3, block_length=4,
                                       temperature=0.0, gen_length=8), MODEL, mask_id=0), {})
  np.testing.assert_array_equal(decoded.tokens, expert.tokens)
  np.testing.assert_array_equal(decoded.nfe, expert.nfe)
  assert 2 <= expert.nfe.min() < 8


@pytest.mark.slow
def test_rollouts_of_a_prompt_are_asked_for_one_speed_in_the_range():
  rule = unmasking.Unmasking(**FIELDS | dict(speed_range=(0.5, 5.0)))
  alpha = _decode(rule, _params(rule), group_size=3).trajectory.row_draws["speed_alpha"]
  assert len(set(alpha[:3].tolist())) == len(set(alpha[3:].tolist())) == 1
  assert alpha[0] != alpha[3] and alpha.min() >= 0.5 and alpha.max() <= 5
  assert rule.deployed.speed_range == () and rule.deployed.speed_alpha == 1


def test_the_reward_is_the_published_one():
  # L = 256, S = 1, 16, 64, 128, 256; figures of the paper's formula.
  rule = unmasking.Unmasking(**FIELDS)
  for alpha, expected in ((1.0, [1, 0.941, 0.754, 0.504, 0.004]),
                          (3.0, [1, 0.834, 0.428, 0.128, 0.0]), (0.0, [1] * 5)):
    record = {"is_free": jnp.ones((5, 256), bool), "nfe": jnp.array([1, 16, 64, 128, 256]),
              "row_draws": {"speed_alpha": jnp.full(5, alpha)}}
    np.testing.assert_allclose(rule.reward(record, jnp.ones(5)), expected, atol=6e-4)
    assert not rule.reward(record, jnp.zeros(5)).any()


@pytest.mark.parametrize("fields, message", [
    (dict(speed_alpha=-0.5), "sampler.speed_alpha must lie in"),
    (dict(speed_alpha=1e3), "sampler.speed_alpha must lie in"),
    (dict(speed_range=(3.0, 1.0)), "sampler.speed_range must be .low, high."),
    (dict(expert_rate=1.0), "sampler.expert_rate must lie in"),
    (dict(actions="sets"), "sampler.actions is 'sets'; choose from"),
    (dict(action_temperature=0.0), "sampler.action_temperature must lie in"),
    (dict(policy_width=9), "policy_width 9 must be a multiple of twice the 1 heads"),
    (dict(eos="last", eos_id=1), "sampler.eos is 'last'; choose from allow, forbid")])
def test_fields_without_meaning_are_refused_in_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    unmasking.Unmasking(**FIELDS | fields)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trained, fields, message", [
    (dict(block_length=4), dict(), "block_length is 0, and the policy of runs/x was trained with "
     "blocks of 4 tokens; use 4"),
    (dict(), dict(block_length=2), "block_length is 2, and .* trained with one block; use 0"),
    (dict(policy_width=16), dict(), "policy_width is 8, and the policy of runs/x was trained with "
     "16; leave it out"),
    (dict(actions="plackett_luce"), dict(actions="bernoulli"), "actions is 'bernoulli', and"),
    (dict(confidence="margin"), dict(), "confidence is probability, and .* was trained on margin"),
    (dict(speed_range=(0.5, 2.0)), dict(speed_alpha=3.0), "speed_alpha is 3, and .* trained on "
     r"\[0.5, 2\]; use a value in it")])
def test_a_policy_of_another_form_is_refused_in_one_line(trained, fields, message):
  rule = unmasking.Unmasking(**FIELDS | fields)
  with pytest.raises(ValueError, match=message) as caught:
    rule.under(unmasking.Unmasking(**FIELDS | trained), "runs/x")
  assert "\n" not in str(caught.value)


def test_a_policy_takes_the_form_that_it_was_trained_with_to_any_length():
  trained = unmasking.Unmasking(**FIELDS | dict(actions="plackett_luce", speed_range=(0.0, 4.0),
                                                expert_rate=0.5))
  found = unmasking.Unmasking(mask_id=0, gen_length=32, speed_alpha=2.0).under(trained, "runs/x")
  assert found.form == trained.form and found.gen_length == 32 and found.speed_alpha == 2
  assert found.expert_rate == 0 and found.speed_range == ()
  assert found == found.under(trained, "runs/x")
