"""Rules with parameters, actions and hidden states, defined outside mdx."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib
from mdx.samplers import loop
from mdx.utils import rng

import driving
import tiny

MODEL = driving.Memory(scale=0.7)
PARAMS = {"unmasking": {"bias": jnp.float32(-0.4), "slope": jnp.float32(1.5)}}
CANVAS = np.where(np.arange(12) < 4, 3, np.zeros((5, 12))).astype(np.int32)
CANVAS[2, 9] = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unmasking(decoder.Decoder):
  """Writes each open position with probability sigmoid(bias + slope * confidence), or the first."""
  counts_steps = False
  acts = True

  def parts(self):
    """Two numbers."""
    init = lambda key: {"bias": jnp.float32(0), "slope": jnp.float32(0)}
    return {"unmasking": types.Part(init)}

  def commit(self, params, state, proposal, keys):
    """A Bernoulli draw at each open position; where all say no, the first is written."""
    own = params["unmasking"]
    score = own["bias"] + own["slope"] * proposal.confidence
    draw = logits_lib.uniforms(keys, proposal.positions) < jax.nn.sigmoid(score)
    log_prob = jnp.where(draw, jax.nn.log_sigmoid(score), jax.nn.log_sigmoid(-score))
    first = decoder.best_of(-proposal.positions, proposal.is_open,
                            jnp.ones(len(score), jnp.int32))
    none = ~jnp.any(draw & proposal.is_open, axis=1, keepdims=True)
    return decoder.Commit(
        proposal.is_open & (draw | (first & none)),
        action=jnp.where(proposal.is_open, draw, 0).astype(jnp.int32),
        action_log_prob=jnp.where(proposal.is_open, log_prob, 0.0))


def _decode(sampler, record, params=None, answer=MODEL.answer, start=4):
  run = jax.jit(lambda params, canvas: loop.decode(
      functools.partial(answer, None), sampler, canvas, params=params, key=rng.root(3),
      row_index=jnp.arange(5), start=start, record=record))
  return jax.device_get(run({} if params is None else params, CANVAS))


@pytest.mark.parametrize("record", tiny.first(["commits", "full"], 1))
@pytest.mark.slow
def test_recorded_action_log_probs_are_those_of_the_policy(record):
  decoded = _decode(Unmasking(mask_id=0, gen_length=8), record, PARAMS)
  found, other = decoded.trajectory, _decode(Unmasking(mask_id=0, gen_length=8), "canvas",
                                             PARAMS).trajectory
  assert np.all(decoded.tokens != 0) and found.action.shape == (5, 8, 8)
  np.testing.assert_array_equal(found.tokens, other.tokens)
  checked = 0
  for row in range(5):
    for step in range(found.nfe[row]):
      is_open = other.canvas[row, step] == 0
      score = -0.4 + 1.5 * other.step_confidence[row, step]
      taken = found.action[row, step]
      expected = np.where(is_open, -np.log1p(np.exp(np.where(taken == 1, -score, score))), 0)
      np.testing.assert_allclose(found.action_log_prob[row, step], expected, atol=1e-5)
      assert set(taken) <= {0, 1} and not taken[~is_open].any()
      after = (other.canvas[row, step + 1] if step + 1 < found.nfe[row] else found.tokens[row])
      written = is_open & (after != 0)
      assert written.sum() == max(taken.sum(), 1) and (taken <= written).all()
      checked += is_open.sum()
    assert not found.action[row, found.nfe[row]:].any()
  assert checked > 60


@pytest.mark.slow
def test_other_parameters_make_other_steps_and_a_rule_without_actions_records_none():
  eager = jax.tree.map(lambda x: x + 9, PARAMS)
  assert _decode(Unmasking(mask_id=0, gen_length=8), "none", eager).nfe.max() == 1
  sampler = driving.build(MODEL, name="confidence", gen_length=8, steps=4)
  found = _decode(sampler, "full").trajectory
  assert found.action is None and found.action_log_prob is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(decoder.Decoder):
  """Draws all open tokens greedily, one after another, each from its own state and the last token.

  The logits of a position get, on top of the model's, its hidden state projected by `pair` of the
  token drawn before it.
  """
  counts_steps = False

  def parts(self):
    """Logits of the next token given one, [V, D, V]."""
    return {"pair": types.Part(lambda key: jnp.zeros((driving.VOCAB, 3, driving.VOCAB)))}

  def propose(self, params, state, index, answer, keys):
    """The tokens of the joint head in place of those of independent draws."""
    found = super().propose(params, state, index, answer, keys)

    def draw(last, at):
      logits, hidden = at
      more = jnp.einsum("bd,bdv->bv", hidden, params["pair"][last])
      token = jnp.argmax((logits + more).at[:, self.mask_id].set(-jnp.inf), axis=-1)
      return token, token

    begin = jnp.full(len(index), 3)
    _, tokens = jax.lax.scan(draw, begin, (jnp.swapaxes(answer.logits, 0, 1),
                                           jnp.swapaxes(found.hidden, 0, 1)))
    return found._replace(tokens=tokens.T.astype(jnp.int32))

  def commit(self, params, state, proposal, keys):
    """Everything at once."""
    return decoder.Commit(proposal.is_open)


def _with_hidden(params, request):
  answer = MODEL.answer(params, request)
  index = jnp.minimum(request.targets, 11).astype(jnp.float32)
  return answer._replace(hidden=jnp.stack([jnp.ones_like(index), index, jnp.sin(index)], axis=-1))


@pytest.mark.slow
def test_a_joint_rule_reads_hidden_states():
  pair = np.random.default_rng(0).normal(size=(driving.VOCAB, 3, driving.VOCAB)) * 2
  decoded = _decode(Joint(mask_id=0, gen_length=8, temperature=0.0), "commits",
                    {"pair": jnp.asarray(pair, jnp.float32)}, _with_hidden)
  assert np.all(decoded.nfe == 1)
  logits = np.asarray(MODEL.answer(None, types.Request(
      tokens=jnp.asarray(CANVAS), noise_level=jnp.ones(5))).logits)
  for row in range(5):
    last = 3
    for place in np.flatnonzero(CANVAS[row] == 0):
      hidden = np.array([1.0, place, np.sin(place)])
      score = logits[row, place] + hidden @ pair[last]
      score[0] = -np.inf
      last = int(score.argmax())
      assert decoded.tokens[row, place] == last
  assert (decoded.tokens != _decode(Joint(mask_id=0, gen_length=8, temperature=0.0), "none",
                                    {"pair": jnp.zeros_like(pair)}, _with_hidden).tokens).any()
