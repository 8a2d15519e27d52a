"""Training of a joint head: the loss by another route, and heads for which it is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import transformer
from mdx.objectives import joint_head
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng

import oracle

MASK_ID, LENGTH, ROWS = 1, 6, 12
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=5, max_length=8,
                                  vocab_multiple=1, scan_layers=False, init_std=0.5).network()
MODEL = diffusion.MaskedDiffusion(network=NETWORK, mask_id=MASK_ID)
OBJECTIVE = joint_head.JointHead(model=MODEL, mask_id=MASK_ID)
CONTEXT = types.context(0)
LAW = oracle.random_joint()
_ASK = jax.jit(lambda params, canvas: MODEL.answer(params, types.Request(canvas, jnp.ones(1))))
_STEP = jax.jit(OBJECTIVE.head.step)


def _params(seed=0):
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 2, jnp.float32),
                      jax.eval_shape(OBJECTIVE.init, rng.root(0)))


def _batch():
  draw = np.random.default_rng(1)
  mask = np.ones((ROWS, LENGTH), bool)
  mask[:, 0], mask[2, :3], mask[3, :5] = False, False, False  # prompts
  return {"tokens": jnp.asarray(draw.choice([0, 2, 3, 4], (ROWS, LENGTH)), jnp.int32),
          "loss_mask": jnp.asarray(mask), "example_index": jnp.arange(ROWS)}


def _prepared(objective, batch, key=0):
  return jax.jit(lambda b: objective.prepare(None, b, rng.root(key), CONTEXT))(batch)


def _log_softmax(x):
  x = np.array(x, np.float64)
  x[..., MASK_ID] = -np.inf
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _kl(one, other):
  probs = np.exp(one)
  return np.where(probs > 0, probs * (np.where(probs > 0, one, 0) - np.where(probs > 0, other, 0)), 0
                  ).sum(axis=-1)


def _expected(params, canvas, tokens, steps):
  """KL summed over the open positions of one row after some steps, one after another."""
  ask = lambda canvas: _ASK(params, canvas)
  step = lambda states, canvas: _STEP(params["joint"], params["model"], states, canvas)
  canvas = np.array(canvas)
  answer = ask(canvas[None])
  states, logits = answer.states, _log_softmax(answer.logits[0])
  first = logits
  for _ in range(steps):
    probs = np.exp(logits)
    entropy = -np.where(probs > 0, probs * np.where(probs > 0, logits, 0), 0).sum(axis=-1)
    place = np.where(canvas == MASK_ID, entropy, np.inf).argmin()
    canvas[place] = tokens[place]
    states = step(states, canvas[None])
    logits = _log_softmax(OBJECTIVE.head.logits(params["model"], states)[0])
  wanted = _log_softmax(ask(canvas[None]).logits[0])
  is_open = canvas == MASK_ID
  return _kl(wanted, logits)[is_open].sum(), _kl(wanted, first)[is_open].sum(), is_open.sum()


def test_the_loss_is_the_divergence_after_the_last_unrolled_token():
  params, (batch, weights) = _params(), _prepared(OBJECTIVE, _batch())
  totals, aux = jax.jit(lambda p, b: OBJECTIVE(p, b, CONTEXT))(params, batch)
  steps = np.asarray(batch["unroll"])
  assert set(steps) == {0, 1, 2, 3}  # 0: one masked position
  expected = np.array([_expected(params, *(np.asarray(batch[k][i]) for k in (
      "noisy_tokens", "tokens", "unroll"))) for i in range(ROWS)])
  expected[steps == 0] = 0
  np.testing.assert_allclose(aux.rows["nll"], expected[:, 0], rtol=2e-4, atol=1e-5)
  np.testing.assert_array_equal(aux.rows["count"], expected[:, 2])
  assert weights["kl"] == expected[:, 2].sum() and expected[:, 0].min() == 0
  assert totals["kl"] == pytest.approx(expected[:, 0].sum(), rel=1e-4)
  assert aux.metrics["stale_kl_nats"][0] == pytest.approx(expected[:, 1].sum(), rel=1e-4)


def test_masks_are_uniform_in_number_and_leave_prompts_alone():
  many = {k: jnp.tile(v, (200,) + (1,) * (v.ndim - 1)) for k, v in _batch().items()}
  many["example_index"] = jnp.arange(200 * ROWS)
  batch, _ = _prepared(OBJECTIVE, many)
  masked, steps = np.asarray(batch["is_masked"]), np.asarray(batch["unroll"])
  assert not (masked & ~np.asarray(many["loss_mask"])).any()
  counts = masked.sum(axis=1)[np.asarray(many["loss_mask"]).sum(axis=1) == 5]
  assert oracle.chi_square(np.bincount(counts, minlength=6)[1:], np.ones(5)) > 1e-3
  chances = np.exp(0.5 ** np.arange(1, 4))  # where there is room for all three
  drawn = np.bincount(steps[masked.sum(axis=1) >= 4], minlength=4)[1:]
  assert oracle.chi_square(drawn, chances / chances.sum()) > 1e-3
  assert np.all(steps <= masked.sum(axis=1) - 1)


@pytest.mark.slow
def test_a_new_head_has_the_loss_of_the_stale_logits_and_the_model_has_no_gradient():
  params, (batch, _) = _params(), _prepared(OBJECTIVE, _batch())
  params["joint"]["block"]["final_norm"] = {"scale": jnp.zeros(16)}
  loss = lambda p: (lambda totals, aux: (totals["kl"], aux.metrics))(*OBJECTIVE(p, batch, CONTEXT))
  (kl, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  assert kl == pytest.approx(float(metrics["stale_kl_nats"][0]), rel=1e-5) and kl > 0.1
  assert not any(np.abs(x).max() for x in jax.tree.leaves(grads["model"]))
  assert np.abs(grads["joint"]["block"]["final_norm"]["scale"]).max() > 1e-4
  assert not OBJECTIVE.trains_model


class _Again:
  """A head that calls an enumerated model again."""

  network, mask_id, part = LAW.network(), LAW.mask_id, types.Part(lambda key: {})

  def step(self, own, model, states, tokens, positions=None, segment_ids=None):
    """States of the new canvas."""
    return self.network.encode({}, types.Inputs(tokens), attention=attention_lib.Full()).last

  def logits(self, model, states):
    """The states."""
    return heads.block_columns(states, LAW.mask_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Perfect(joint_head.JointHead):
  """The objective of a perfect head."""
  head = _Again()


@pytest.mark.parametrize("tokens", joint_head.TOKENS)
def test_a_perfect_head_has_no_loss(tokens):
  model = diffusion.MaskedDiffusion(network=LAW.network(), mask_id=LAW.mask_id)
  objective = _Perfect(model=model, mask_id=LAW.mask_id, tokens=tokens)
  batch, _ = _prepared(objective, oracle.batch_of(LAW, LAW.sequences))
  aux = jax.jit(lambda b: objective({"model": {}, "joint": {}}, b, CONTEXT)[1])(batch)
  assert np.abs(aux.rows["nll"]).max() < 1e-4 and aux.metrics["stale_kl_nats"][0] > 5


@pytest.mark.slow
def test_the_head_draws_its_tokens_from_what_it_says():
  model = diffusion.MaskedDiffusion(network=LAW.network(), mask_id=LAW.mask_id)
  objective = _Perfect(model=model, mask_id=LAW.mask_id, tokens="head", max_unroll=3)
  batch, _ = _prepared(objective, oracle.batch_of(LAW, np.tile(LAW.sequences[:1], (4000, 1))))
  empty = jnp.full_like(batch["tokens"], LAW.mask_id)
  batch = batch | {"noisy_tokens": empty, "is_masked": empty > 0, "unroll": jnp.full(4000, 3)}
  canvas = np.asarray(jax.jit(lambda b: objective._unrolled(
      {}, {"model": {}}, b, objective._ask({"model": {}}, b, b["noisy_tokens"]))[0])(batch))
  left = canvas == LAW.mask_id
  assert np.all(left.sum(axis=1) == 1)  # each of three positions, by the chain rule
  place = left.argmax(axis=1)
  counts, law = np.bincount(_marginal_index(canvas, place), minlength=4 * 27), _marginal()
  assert not counts[law == 0].any() and oracle.chi_square(counts[law > 0], law[law > 0]) > 1e-3


def _marginal_index(canvas, place):
  digits = np.searchsorted(LAW.real, np.array([np.delete(row, p) for row, p in zip(canvas, place)]))
  return place * 27 + digits @ [9, 3, 1]


def _marginal():
  """Law of three tokens, where the position that is left depends on the path alone."""
  found = np.zeros((4, 27))

  def walk(canvas, mass):
    masked = np.flatnonzero(canvas[0] == LAW.mask_id)
    if len(masked) == 1:
      digits = np.searchsorted(LAW.real, np.delete(canvas[0], masked[0]))
      found[masked[0], digits @ [9, 3, 1]] += mass
      return
    probs = LAW.conditionals(canvas)[0]
    entropy = -(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=1)
    best = np.where(canvas[0] == LAW.mask_id, entropy, np.inf).argmin()
    for token in LAW.real:
      following = canvas.copy()
      following[0, best] = token
      walk(following, mass * probs[best, token])

  walk(np.full((1, 4), LAW.mask_id), 1.0)
  assert found.sum() == pytest.approx(1)
  return found.reshape(-1)


@pytest.mark.parametrize("fields, message", [
    (dict(max_unroll=0), "objective.max_unroll must be at least 1, got 0"),
    (dict(tokens="model"), "objective.tokens is 'model'; choose from data, head"),
    (dict(model=ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID)), "AutoRegressive fills no masks")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    joint_head.JointHead(**dict(model=MODEL, mask_id=MASK_ID) | fields)


def test_a_missing_model_is_refused_and_the_reader_gives_the_head():
  tokenizer = type("Tokenizer", (), {"mask_id": MASK_ID})
  world = types.World(NETWORK, tokenizer, objective=lambda cfg: {"diffusion": MODEL}[cfg["name"]])
  with pytest.raises(ValueError, match="objective.model is missing; give the objective"):
    joint_head.JointHead.build({"name": "joint_head"}, world)
  built = joint_head.JointHead.build({"name": "joint_head", "model": {"name": "diffusion"}}, world)
  assert built == OBJECTIVE and built.reader().given == {"head": built.head}
  assert set(built.parts()) == {"model", "joint"} and built.parts()["joint"].is_served
