"""Branch credit: the exact gradient in expectation, its formula, its noise, what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.policies import branch_mdpo
from mdx.objectives.policies import grpo
from mdx.objectives.policies import mdpo
from mdx.samplers import loop
from mdx.train import step as step_lib
from mdx.utils import rng

import table_model
from table_model import REAL

import tiny

REWARDS = np.random.default_rng(0).normal(size=(REAL, REAL)).astype(np.float32)
SOLVED = (REWARDS > 0.3).astype(np.float32)


PAIR, MODEL = table_model.Table(2), table_model.Table(4)
PARAMS, OTHER = MODEL.init(0), MODEL.init(1)


def _network(vocab, seed, **fields):
  spec = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=vocab,
                                 max_length=8, scan_layers=False, position="learned", **fields)
  model = diffusion.MaskedDiffusion(network=spec.network(), mask_id=vocab - 1)
  return model, model.init(rng.root(seed))


def _policy(model=MODEL, **fields):
  fields = dict(num_predictions=2, num_steps=1, group_size=1) | fields
  return branch_mdpo.BranchMDPO(model=model, mask_id=model.mask_id, **fields)


def _batch(canvas, answers, reward):
  """Rollouts of one or more steps [N, T, G] with answers [N, T, m, G] and rewards [N, T, m]."""
  canvas, answers, reward = (jnp.asarray(x) for x in (canvas, answers, reward))
  rows, steps, _ = canvas.shape
  return {"tokens": answers[:, -1, 0], "canvas": canvas, "prediction": answers[:, :, 0],
          "branches": answers[:, :, 1:], "step_reward": reward[..., 0],
          "branch_reward": reward[..., 1:], "reward": reward[:, -1, 0],
          "nfe": jnp.full(rows, steps), "is_free": jnp.ones(canvas[:, 0].shape, bool),
          "example_index": jnp.arange(rows)}


def _context(reference=PARAMS):
  return types.context(0, {"reference": reference})


def _prepare(policy, batch):
  return jax.jit(lambda batch: policy.prepare({}, batch, rng.root(0), types.context(0)))(batch)


@pytest.mark.parametrize("canvas, values, num_predictions, temperature", tiny.first([
    ((REAL, REAL), SOLVED, 2, 1.0), ((REAL, REAL), REWARDS, 2, 0.7), ((1, REAL), SOLVED, 3, 1.0),
    ((REAL, 2), REWARDS, 4, 1.0)], 1), ids=["verdicts", "graded", "three", "four"])
def test_the_expected_gradient_is_the_exact_one_of_the_one_step_reward(
    canvas, values, num_predictions, temperature):
  """Over all m-tuples of predictions of a canvas, each with its probability."""
  params = PAIR.init(0)
  masked = [i for i in range(2) if canvas[i] == REAL]
  answers = np.array(list(itertools.product(range(REAL), repeat=2)))
  answers = np.unique(np.where(np.array(canvas) == REAL, answers, canvas), axis=0)

  def log_prob(params):
    law = PAIR.law(params, canvas, temperature)
    return sum(law[i, answers[:, i]] for i in masked)

  exact = jax.jit(jax.grad(lambda p: -(jnp.exp(log_prob(p)) * values[
      answers[:, 0], answers[:, 1]]).sum()))(params)
  tuples = np.array(list(itertools.product(range(len(answers)), repeat=num_predictions)))
  drawn = answers[tuples]
  weight = jnp.exp(log_prob(params)[tuples].sum(axis=1))
  np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)
  batch = _batch(np.tile(canvas, (len(tuples), 1, 1)), drawn[:, None],
                 values[drawn[..., 0], drawn[..., 1]][:, None])
  policy = _policy(PAIR, num_predictions=num_predictions, temperature=temperature, kl=0.0)
  prepared, weights = _prepare(policy, batch)
  live = np.ptp(values[drawn[..., 0], drawn[..., 1]], axis=1) > 0
  assert set(weights) == {"policy"} and weights["policy"] == live.sum() > 0
  prepared["credit"] *= weight[:, None]
  found = jax.jit(jax.grad(lambda p: policy(p, prepared, _context())[0]["policy"]))(params)
  assert np.abs(exact["table"]).max() > 1e-2
  np.testing.assert_allclose(found["table"], exact["table"], atol=2e-6)


def _random_batch(rows=6, steps=3, m=4, seed=0):
  """Rollouts over four positions; fewer and fewer masks, some verdicts equal, some steps not taken."""
  draw = np.random.default_rng(seed)
  answers = draw.integers(0, REAL, (rows, steps, m, 4))
  canvas = answers[:, :, 0].copy()
  for step in range(steps):
    for row in range(rows):
      canvas[row, step, draw.permutation(4)[:3 - step]] = REAL
  answers = np.where(canvas[:, :, None] == REAL, answers, canvas[:, :, None])
  reward = draw.integers(0, 2, (rows, steps, m)).astype(np.float32)
  reward[0] = 1.0
  batch = _batch(canvas.astype(np.int32), answers.astype(np.int32), reward)
  return batch | {"nfe": jnp.asarray([3, 3, 2, 1, 3, 3])}


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_loss_is_its_formula(num_steps):
  batch = _random_batch()
  policy = _policy(num_predictions=4, num_steps=num_steps, kl=0.3, temperature=0.8)
  prepared, weights = _prepare(policy, batch)
  totals, aux = jax.jit(policy)(PARAMS, prepared, _context(OTHER))
  host = jax.tree.map(np.asarray, batch)
  reward = np.concatenate([host["step_reward"][..., None], host["branch_reward"]], axis=2)
  answers = np.concatenate([host["prediction"][:, :, None], host["branches"]], axis=2)
  surrogate = divergence = live = chosen = 0
  for row in range(6):
    mean = reward[row].mean(axis=1)
    value = np.where(np.arange(3) < host["nfe"][row], mean * (1 - mean), -1)
    for step in np.argsort(-value, kind="stable")[:num_steps]:
      if value[step] < 0:
        continue
      chosen += 1
      canvas = host["canvas"][row, step]
      law, other = (np.asarray(MODEL.law(p, canvas, 0.8)) for p in (PARAMS, OTHER))
      masked = canvas == REAL
      divergence += (np.exp(law[masked, :REAL]) * (law - other)[masked, :REAL]).sum()
      live += 0 < mean[step] < 1
      for j in range(4):
        log_prob = law[masked, answers[row, step, j][masked]].sum()
        surrogate -= (reward[row, step, j] - mean[step]) * log_prob / 3
  assert 0 < live < chosen
  assert (weights["policy"], weights["kl"]) == (live, chosen)
  np.testing.assert_allclose(totals["policy"], surrogate, rtol=1e-4)
  np.testing.assert_allclose(totals["kl"], divergence, rtol=1e-4)
  assert policy.scales == {"policy": 1.0, "kl": 0.3}
  assert aux.metrics["live_canvases"] == (live, chosen)
  np.testing.assert_allclose(aux.metrics["kl"], (divergence, chosen), rtol=1e-4)


def test_the_divergence_and_its_gradient_vanish_at_the_reference():
  policy = _policy(num_predictions=4, kl=1.0)
  prepared, _ = _prepare(policy, _random_batch())
  kl = jax.jit(lambda p: policy(p, prepared, _context())[0]["kl"])
  value, grad = jax.value_and_grad(kl)(PARAMS)
  assert abs(value) < 1e-5 and np.abs(grad["table"]).max() < 1e-5
  assert kl(OTHER) > 0.1
  # Elsewhere the gradient is that of the whole expectation, also through its weights.
  canvases, is_target = np.asarray(prepared["noisy_tokens"])[:, 0], prepared["is_target"]

  def plain(params):
    laws = [jnp.stack([MODEL.law(p, x, 1.0)[:, :REAL] for x in canvases]) for p in (params, PARAMS)]
    return jnp.where(is_target, (jnp.exp(laws[0]) * (laws[0] - laws[1])).sum(axis=-1), 0.0).sum()

  np.testing.assert_allclose(jax.grad(kl)(OTHER)["table"], jax.jit(jax.grad(plain))(OTHER)["table"],
                             atol=2e-6)


def test_microbatches_accumulate_exactly():
  policy = _policy(num_predictions=4, num_steps=2)
  prepared, weights = _prepare(policy, _random_batch())
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(
      policy, p, b, weights, _context(OTHER), n)[::2])(PARAMS, prepared) for n in (1, 3)]
  (loss, grad), (loss_of_three, grad_of_three) = runs
  np.testing.assert_allclose(loss, loss_of_three, rtol=1e-5)
  np.testing.assert_allclose(*(x["table"] for x in (grad, grad_of_three)), atol=1e-6)


def test_verdicts_that_are_all_equal_teach_nothing_but_the_divergence():
  batch = _random_batch()
  batch = batch | {k: jnp.full_like(batch[k], 0.3) for k in ("step_reward", "branch_reward")}
  policy = _policy(num_predictions=4, num_steps=2)
  prepared, weights = _prepare(policy, batch)
  assert weights["policy"] == 0 and weights["kl"] == 2 * 5 + 1
  totals, _ = policy(PARAMS, prepared, _context(OTHER))
  assert totals["policy"] == 0 and totals["kl"] > 0


def _decoded(model, params, rows=8, steps=3, m=3, name="confidence", temperature=0.7, given=True):
  sampler = samplers.build(dict(name=name, gen_length=4, steps=steps, temperature=temperature),
                           model, mask_id=model.mask_id)
  canvas = np.full((rows, 4), model.mask_id, np.int32)
  if given:
    canvas[:, 1] = np.arange(rows) % (model.mask_id)
  return jax.jit(lambda p, key: loop.decode(
      lambda request: model.answer(p, request), sampler, jnp.asarray(canvas), key=key,
      row_index=jnp.arange(rows), record="full", num_predictions=m).trajectory)(params, rng.root(1))


@pytest.mark.parametrize("name", ["rcr", pytest.param("confidence", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_canvases_are_scored_with_the_distributions_that_predictions_were_drawn_from(name):
  """Positions of the answer are given, and the network is told the noise level."""
  model, params = _network(REAL + 2, 2, init_std=0.5, time_conditioning=True)
  draw = np.random.default_rng(0)  # at the start the time changes nothing
  params = jax.tree.map(lambda x: x + jnp.asarray(0.3 * draw.normal(size=x.shape), x.dtype), params)
  record = _decoded(model, params, name=name)
  reward = jnp.asarray(np.random.default_rng(0).integers(0, 2, (8, 3, 3)), jnp.float32)
  batch = {k: v for k, v in record._asdict().items() if v is not None} | {
      "step_reward": reward[..., 0], "branch_reward": reward[..., 1:],
      "example_index": jnp.arange(8)}
  policy = _policy(model, num_predictions=3, num_steps=3, temperature=0.7)
  prepared, _ = _prepare(policy, batch)
  law = jax.nn.log_softmax(policy.logits(params, prepared, 4), axis=-1)
  found = np.take_along_axis(np.asarray(law), np.asarray(prepared["targets"])[:, 0, :, None], -1)
  order = np.argsort(-np.asarray(reward.var(axis=-1)), axis=1, kind="stable")
  drawn = np.take_along_axis(np.asarray(record.step_log_prob), order[..., None], 1).reshape(-1, 4)
  is_target = np.asarray(prepared["is_target"])
  assert is_target.sum() >= 8 * (3 + 2 + 1) and not is_target[:, 1].any()
  np.testing.assert_allclose(found[..., 0][is_target], drawn[is_target], atol=1e-5)
  published = mdpo.MDPO(model=model, mask_id=model.mask_id, group_size=2, temperature=0.7, kl=0.0)
  prepared, _ = _prepare(published, batch)
  _, aux = published(params, prepared, _context(params))
  ratio, number = aux.metrics["ratio"]
  np.testing.assert_allclose(ratio, number, rtol=1e-4)
  assert aux.metrics["clipped_rate"][0] == 0


NOISE_M, NOISE_ROWS = 16, 64


@functools.cache
def _noise_setting():
  """Four digits, no two neighbours equal: two predictions in five of the all-masked canvas."""
  model, params = _network(5, 0, init_std=0.1)
  solved = lambda tokens: jnp.all(jnp.diff(tokens, axis=-1) != 0, axis=-1)
  sampler = samplers.build(dict(name="confidence", gen_length=4, steps=2, temperature=1.0), model,
                           mask_id=4)
  canvas = jnp.full((NOISE_ROWS, 4), 4, jnp.int32)

  def rollout(key):
    record = loop.decode(lambda r: model.answer(params, r), sampler, canvas, key=key,
                         row_index=jnp.arange(NOISE_ROWS), record="full",
                         num_predictions=NOISE_M).trajectory
    step_reward = solved(record.prediction).astype(jnp.float32)
    return {k: v for k, v in record._asdict().items() if v is not None} | {
        "step_reward": step_reward, "reward": step_reward[:, -1],
        "branch_reward": solved(record.branches).astype(jnp.float32),
        "example_index": jnp.arange(NOISE_ROWS)}

  return model, params, rollout


def _cosine(make, num=6):
  """Mean cosine of the gradients of independent rollout batches, at equal numbers of rollouts."""
  model, params, rollout = _noise_setting()
  policy = make(model=model, mask_id=4, kl=0.0)

  @jax.jit
  def gradient(key):
    context = types.context(0, {})

    def loss(params):
      prepared, weights = policy.prepare(params, rollout(rng.stream(key, "roll")), key, context)
      return policy(params, prepared, context)[0]["policy"] / jnp.maximum(weights["policy"], 1)

    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(jax.grad(loss)(params))])

  found = np.stack([gradient(rng.stream(rng.root(0), "batch", i)) for i in range(num)])
  found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
  return (found @ found.T)[np.triu_indices(num, 1)].mean()


@pytest.mark.slow
def test_its_gradients_agree_more_than_those_of_mdpo_and_diffu_grpo():
  """No training: the screen that ordered the training runs."""
  branch = _cosine(functools.partial(branch_mdpo.BranchMDPO, group_size=1, num_steps=2,
                                     num_predictions=NOISE_M))
  others = [_cosine(functools.partial(mdpo.MDPO, group_size=8, num_steps=2)),
            _cosine(functools.partial(grpo.DiffuGRPO, group_size=8, prompt_mask_rate=0.0))]
  assert 1 - branch < (1 - max(others)) / 4, (branch, others)


@pytest.mark.parametrize("fields, message", [
    ({"num_predictions": 1}, "objective.num_predictions must be at least 2, got 1"),
    ({"num_steps": 0}, "objective.num_steps must be at least 1, got 0"),
    ({"kl": -0.1}, "objective.kl must be at least 0, got -0.1"),
    ({"kl": float("nan")}, "objective.kl must be at least 0, got nan"),
    ({"temperature": 0.0}, "positive temperature")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _policy(**fields)
  assert "\n" not in str(error.value)
