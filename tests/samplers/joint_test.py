"""Several tokens a call by a joint head: exact with a perfect head, the model's own with a new one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import drafter
from mdx.networks import heads
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import joint
from mdx.samplers import loop
from mdx.utils import rng

import driving
import oracle
import tiny

LAW = oracle.random_joint()
EXACT = diffusion.MaskedDiffusion(network=LAW.network(), mask_id=LAW.mask_id)
NOTHING = {"joint": {}, "model": {}}


class Perfect:
  """A head that calls the model again; `is_stale`: one that says what the model has said."""

  network = LAW.network()
  part = types.Part(lambda key: {})

  def __init__(self, is_stale=False):
    self._is_stale = is_stale

  def check(self, own, states):
    """Fits."""

  def check_logits(self, logits):
    """Fits."""

  def step(self, own, model, states, tokens, positions=None, segment_ids=None):
    """States of the new canvas."""
    if self._is_stale:
      return states
    return self.network.encode({}, types.Inputs(tokens), attention=attention_lib.Full()).last

  def logits(self, model, states):
    """The states."""
    return heads.block_columns(states, LAW.mask_id)


def _run(sampler, number, objective=EXACT, params=None, canvas=None, record="commits", **rows):
  canvas = np.full((number, LAW.length), LAW.mask_id, np.int32) if canvas is None else canvas
  decode = jax.jit(lambda params: loop.decode(
      functools.partial(objective.answer, {"model": params["model"]}), sampler, jnp.asarray(canvas),
      params=params, key=rng.root(0), row_index=jnp.arange(number), record=record, **rows),
                   compiler_options=driving.QUICK)
  return jax.device_get(decode(NOTHING if params is None else params))


def _sampler(**fields):
  return joint.Joint(**dict(mask_id=LAW.mask_id, gen_length=LAW.length, confidence="entropy",
                            head=Perfect()) | fields)


@pytest.mark.parametrize("number", tiny.first([2, 3, 4], 1))
def test_a_perfect_head_samples_the_joint_and_records_its_probability(number):
  decoded = _run(_sampler(tokens_per_call=number), 6000)
  assert np.all(decoded.nfe == -(-LAW.length // number))
  row = LAW.index(decoded.tokens)
  assert oracle.chi_square(np.bincount(row, minlength=len(LAW.probs)), LAW.probs) > 1e-3
  np.testing.assert_allclose(decoded.trajectory.log_prob.sum(axis=1), -LAW.nll[row], atol=1e-4)


@pytest.mark.slow
def test_a_head_that_is_not_told_the_tokens_does_not():
  decoded = _run(_sampler(tokens_per_call=4, head=Perfect(is_stale=True)), 6000)
  counts = np.bincount(LAW.index(decoded.tokens), minlength=len(LAW.probs))
  assert oracle.chi_square(counts, LAW.probs) < 1e-6


@pytest.mark.slow
def test_one_token_a_call_is_the_rule_of_confidence_token_by_token():
  one = _run(_sampler(tokens_per_call=1), 50, record="canvas")
  other = _run(samplers.SAMPLERS["confidence"](
      mask_id=LAW.mask_id, gen_length=LAW.length, steps=LAW.length, confidence="entropy"), 50,
               record="canvas")
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_order_is_that_of_the_certainty_after_each_token():
  decoded = _run(_sampler(tokens_per_call=4, temperature=0.0), 1)
  canvas = np.full((1, LAW.length), LAW.mask_id)
  for _ in range(LAW.length):
    probs = LAW.conditionals(canvas)[0]
    entropy = -(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=1)
    best = np.where(canvas[0] == LAW.mask_id, entropy, np.inf).argmin()
    canvas[0, best] = probs[best].argmax()
  np.testing.assert_array_equal(decoded.tokens, canvas)


@pytest.mark.slow
def test_candidates_are_the_positions_that_the_model_is_most_certain_of():
  whole = _run(_sampler(tokens_per_call=2), 200, record="canvas")
  same = _run(_sampler(tokens_per_call=2, candidates=4), 200, record="canvas")
  np.testing.assert_array_equal(whole.tokens, same.tokens)
  decoded = _run(_sampler(tokens_per_call=2, candidates=2), 200)
  empty = np.full((1, LAW.length), LAW.mask_id)
  probs = LAW.conditionals(empty)[0]
  first = (probs * np.log(np.maximum(probs, 1e-30))).sum(axis=1).argsort()[-2:]
  np.testing.assert_array_equal(np.sort(np.argwhere(decoded.trajectory.step == 0)[:, 1].reshape(-1, 2)),
                                np.tile(np.sort(first), (200, 1)))
  assert (whole.trajectory.step != decoded.trajectory.step).any()
  assert np.all(decoded.nfe == 2) and np.all(LAW.index(decoded.tokens) >= 0)


@functools.cache
def _trained(shift=False):
  """A transformer with a random head."""
  objective, params = driving.model(shift=shift)
  head = drafter.Head(objective.network, driving.MASK_ID)
  draw = np.random.default_rng(3)
  own = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32),
                     jax.eval_shape(head.part.init, rng.root(0)))
  return objective, head, {"model": params["model"], "joint": own}


@pytest.mark.parametrize("shift", [False, True])
def test_the_states_of_an_answer_are_those_that_its_logits_are_read_from(shift):
  objective, head, params = _trained(shift)
  canvas = jnp.asarray([[6, 6, 2, 0, 0, 3], [5, 0, 0, 4, 0, 0]], jnp.int32)
  segments = jnp.asarray([[0, 0, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2]])
  targets = jnp.asarray([[3, 4], [1, 5]])
  answer = objective.answer(params, types.Request(canvas, jnp.ones(2), segment_ids=segments,
                                                  targets=targets))
  found = head.logits(params["model"], jnp.take_along_axis(answer.states, targets[..., None], axis=1))
  np.testing.assert_allclose(found, answer.logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [False, True])
def test_a_rows_text_is_the_same_alone_and_behind_padding_and_blocks_are_kept(shift):
  objective, head, params = _trained(shift)
  sampler = joint.Joint(mask_id=0, gen_length=8, block_length=4, tokens_per_call=3, head=head)
  row = np.array([[2, 4, 3] + [0] * 8], np.int32)
  padded = np.concatenate([np.full((1, 3), 5, np.int32), row], axis=1)
  alone = _run(sampler, 1, objective, params, row, start=3)
  behind = _run(sampler, 1, objective, params, padded, start=6, is_shifted=shift,
                positions=jnp.maximum(jnp.arange(14) - 3, 0)[None],
                segment_ids=(jnp.arange(14) >= 3).astype(jnp.int32)[None])
  np.testing.assert_array_equal(alone.tokens[0], behind.tokens[0, 3:])
  np.testing.assert_array_equal(alone.trajectory.step, behind.trajectory.step)
  np.testing.assert_array_equal(np.sort(alone.trajectory.step[0, :4]), [0, 0, 0, 1])
  assert alone.nfe[0] == 4 == sampler.max_steps(8)
  full = _run(sampler, 1, objective, params, row, start=3, record="full")
  np.testing.assert_array_equal(full.tokens, alone.tokens)
  np.testing.assert_allclose(full.trajectory.log_prob, alone.trajectory.log_prob, atol=1e-5)
  assert np.all(full.trajectory.prediction[0, :4] != 0)


@pytest.mark.parametrize("fields, message", [
    (dict(tokens_per_call=0), "sampler.tokens_per_call must be at least 1, got 0"),
    (dict(candidates=-1), "sampler.candidates must be at least 0"),
    (dict(candidates=2, tokens_per_call=3), "candidates 2 is below tokens_per_call 3; use at least"),
    (dict(cache="dual"), "reads the states of whole rows, which cache dual .*; use cache none"),
    (dict(guidance_scale=0.5), "guidance_scale 0.5 does not give; use cache none and guidance_"),
    (dict(mixture=((4, 2), (8, 2))), "sampler.mixture needs .* not Joint"),
    (dict(eos="ramp", eos_id=2), "sampler.eos ramp needs a rule that counts steps")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    joint.Joint(mask_id=0, gen_length=8, **fields)
  assert "\n" not in str(caught.value)


def test_a_model_without_a_head_is_refused():
  with pytest.raises(ValueError, match="sampler joint needs a model with a trained joint head, and "
                     "this one has none; train one with configs/joint.py"):
    driving.build(driving.Memory(), name="joint")
  assert samplers.check_fields(dict(name="joint", tokens_per_call=3)).tokens_per_call == 3


def test_parameters_of_another_model_are_refused_when_the_program_is_traced():
  objective, _, params = _trained()
  other = drafter.Head(driving.model(mlp_width=32)[0].network, 0)
  with pytest.raises(ValueError, match="trained with a model of another width"):
    _run(joint.Joint(mask_id=0, gen_length=4, head=other), 1, objective, params,
         np.zeros((1, 4), np.int32))
