"""Policies that replay trajectories: canvases, ratios, exact gradients, draws of steps, blocks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.objectives.diffusion import block as block_diffusion
from mdx.objectives.policies import agrpo
from mdx.objectives.policies import cj_grpo
from mdx.objectives.policies import d2
from mdx.objectives.policies import grpo
from mdx.objectives.policies import just_grpo
from mdx.objectives.policies import mdpo
from mdx.objectives.policies import policy as policy_lib
from mdx.objectives.policies import replay
from mdx.objectives.policies import trace_rl
from mdx.samplers import loop
from mdx.train import step as step_lib
from mdx.utils import rng

import rollouts
from rollouts import EOS_ID, GROUP, MASK_ID, OTHER, PARAMS, PROMPT
import table_model
from table_model import REAL
import tiny

LENGTH, ROWS, BLOCK = 8, 2 * GROUP, 4
BLOCKS = block_diffusion.BlockDiffusion(
    network=rollouts.SPEC.network(), mask_id=MASK_ID,
    attention={"name": "block_causal", "block_length": BLOCK})
METHODS = {"trace_rl": trace_rl.TraceRL, "d2": d2.D2, "agrpo": agrpo.AGRPO,
           "cj_grpo": cj_grpo.CJGRPO, "just_grpo": just_grpo.JustGRPO}


@functools.cache
def _rollout(has_blocks=False, prompt=PROMPT, **fields):
  """A batch of rollouts of 8 tokens behind padded prompts, with random rewards."""
  model = BLOCKS if has_blocks else rollouts.MODEL
  fields = dict(name="confidence", steps=6, temperature=0.7) | fields
  sampler = samplers.build(dict(fields, gen_length=LENGTH), model, mask_id=MASK_ID, eos_id=EOS_ID)
  draw = np.random.default_rng(0)
  prompts = np.repeat(draw.integers(0, 5, (ROWS // GROUP, prompt)), GROUP, axis=0)
  canvas = jnp.asarray(np.concatenate([prompts, np.full((ROWS, LENGTH), MASK_ID)], 1), jnp.int32)
  canvas = canvas.at[:, -2].set(1)  # given inside the answer
  index, begin = np.arange(prompt + LENGTH)[None], np.repeat([0, 2], GROUP)[:, None]
  optional = {"segment_ids": jnp.asarray(index >= begin, jnp.int32),
              "positions": jnp.asarray(np.maximum(index - begin, 0), jnp.int32)}
  record = jax.jit(lambda params: loop.decode(
      lambda request: model.answer(params, request), sampler, canvas, key=rng.root(0),
      row_index=jnp.arange(ROWS), start=prompt, record="entropy", **optional).trajectory)(PARAMS)
  batch = {k: v for k, v in record._asdict().items() if v is not None} | optional | {
      "tokens": jnp.concatenate([canvas[:, :prompt], record.tokens], axis=1),
      "reward": jnp.asarray(draw.integers(0, 2, ROWS), jnp.float32),
      "example_index": jnp.arange(ROWS)}
  sizes = [size for size, _ in sampler.components]
  decoding = policy_lib.Decoding(
      sampler.max_steps(LENGTH), 1 + max(LENGTH // size for size in sizes),
      sampler.block_steps if sampler.counts_steps else LENGTH,
      has_blocks and sampler.cache == "block")
  return model, batch, decoding


def _policy(cls, model, decoding, **fields):
  fields = dict(group_size=GROUP, eos_id=EOS_ID, temperature=0.7, until_eos=False) | fields
  return cls(model=model, mask_id=MASK_ID, decoding=decoding, **fields)


def _prepare(policy, batch, key=0):
  return jax.jit(lambda batch: policy.prepare({}, batch, rng.root(key), types.context(0)))(batch)


_CASES = [
    ("cj_grpo", {}), ("cj_grpo", dict(schedule="doubling")),
    ("d2", dict(block_length=2, steps=8)), ("agrpo", dict(confidence="random")),
    ("just_grpo", dict(name="autoregressive")), ("cj_grpo", dict(name="threshold", threshold=0.4)),
    ("cj_grpo", dict(eos_stop="row", temperature=1.5))]


@pytest.mark.parametrize("has_blocks, method, fields", tiny.first([
    (False, "trace_rl", dict(block_length=4)), (True, "trace_rl", dict(block_length=BLOCK, cache="block")),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        *((False, *case) for case in _CASES),
        *((True, method, dict(block_length=BLOCK, cache="block", **fields))
          for method, fields in _CASES[:4] if "block_length" not in fields),
        (True, "trace_rl", dict(block_length=8)),
        (True, "just_grpo", dict(name="autoregressive"))))], 1))
@pytest.mark.slow
def test_with_unchanged_weights_every_stored_token_has_ratio_one(has_blocks, method, fields):
  model, batch, decoding = _rollout(has_blocks, **fields)
  temperature = fields.get("temperature", 0.7)
  more = {"num_steps": 0} if method == "agrpo" else {}
  policy = _policy(METHODS[method], model, decoding, temperature=temperature, **more)
  prepared, weights = _prepare(policy, batch)
  rows = len(prepared["targets"]) // ROWS
  assert rows <= (6 if policy.is_packed else 9) and policy.is_packed == (
      fields.get("cache") == "block" and method in ("cj_grpo", "trace_rl"))
  is_target = np.asarray(prepared["token_weight"]) != 0
  drawn = np.asarray(batch["log_prob"]) != 0
  np.testing.assert_array_equal(is_target.reshape(ROWS, rows, LENGTH).sum(axis=1), drawn)
  assert drawn.sum() > ROWS * LENGTH / 2 and not drawn[:, -2].any()
  stored = np.repeat(np.asarray(batch["log_prob"]), rows, axis=0)
  found = np.asarray(rollouts.log_prob(policy, PARAMS, prepared))
  np.testing.assert_allclose(np.exp(found - stored)[is_target], 1, atol=1e-5)
  other = np.asarray(rollouts.log_prob(policy, OTHER, prepared))
  assert np.abs(other - stored)[is_target].max() > 0.1
  assert all(w > 0 for w in weights.values())


@pytest.mark.slow
def test_merged_steps_end_with_their_block_and_segments_do_not():
  # Two blocks of three and two steps; the second token is given, the last filled after an end.
  batch = {"step": jnp.array([[0, -1, 1, 2, 3, 4, 4]]), "block": jnp.array([[0, 0, 0, 0, 1, 1, 1]]),
           "tokens": jnp.zeros((1, 7), jnp.int32)}
  is_drawn = jnp.array([[1, 0, 1, 1, 1, 1, 0]], bool)
  decoding = policy_lib.Decoding(7, 2, 4, False)
  number = functools.partial(replay.step_numbers, batch, is_drawn, decoding)
  np.testing.assert_array_equal(number(), [[0, -1, 1, 2, 3, 4, 4]])
  np.testing.assert_array_equal(number(shrink=2), [[0, -1, 0, 1, 2, 2, 2]])
  np.testing.assert_array_equal(number(shrink=2, in_blocks=True), [[0, -1, 0, 1, 0, 0, 0]])
  np.testing.assert_array_equal(number(shrink=9), [[0, -1, 0, 0, 1, 1, 1]])
  for segments, wanted in ((2, [0, -1, 0, 0, 1, 1, 1]), (3, [0, -1, 0, 1, 1, 2, 2]),
                           (6, [0, -1, 1, 2, 3, 4, 4])):
    policy = d2.D2(model=None, mask_id=9, decoding=decoding, num_segments=segments)
    found, bound = policy._numbers(batch, is_drawn)  # pylint: disable=protected-access
    np.testing.assert_array_equal(found, [wanted])
    assert bound == segments


@pytest.mark.parametrize("method, fields", [
    ("trace_rl", {"shrink": 2}), pytest.param("d2", {"num_segments": 2}, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_merged_step_is_scored_at_the_canvas_before_its_first(method, fields):
  model, batch, decoding = _rollout(block_length=4)
  policy = _policy(METHODS[method], model, decoding, **fields)
  prepared, _ = _prepare(policy, batch)
  rows, host = len(prepared["targets"]) // ROWS, jax.tree.map(np.asarray, batch)
  is_target = np.asarray(prepared["token_weight"]).reshape(ROWS, rows, LENGTH) != 0
  canvas = np.asarray(prepared["noisy_tokens"])[:, 0, PROMPT:].reshape(ROWS, rows, LENGTH)
  found = 0
  for row, merged in itertools.product(range(ROWS), range(rows)):
    steps = set(host["step"][row][is_target[row, merged]].tolist())
    if not steps:
      continue
    found += 1
    shown = (host["step"][row] < min(steps)) | ~host["is_free"][row]
    np.testing.assert_array_equal(canvas[row, merged],
                                  np.where(shown, host["tokens"][row, PROMPT:], MASK_ID))
    assert len(steps) <= 3 and (method == "d2" or len(
        set(host["block"][row][is_target[row, merged]].tolist())) == 1)
  assert found == ROWS * (4 if method == "trace_rl" else 2)


# Enumeration: all trajectories over three positions, each with its probability.
TRIPLE = table_model.Table(3)
TABLE = TRIPLE.init(0)
VALUES = np.random.default_rng(1).normal(size=(REAL,) * 3).astype(np.float32)


def _trajectories(orders):
  """A batch of all trajectories of some orders, int [num, 3] steps of the positions."""
  answers = np.array(list(itertools.product(range(REAL), repeat=3)))
  steps = np.repeat(np.array(orders), len(answers), axis=0)
  tokens = np.tile(answers, (len(orders), 1))
  rows = len(tokens)
  return {"tokens": jnp.asarray(tokens), "step": jnp.asarray(steps),
          "block": jnp.zeros((rows, 3), jnp.int32), "is_free": jnp.ones((rows, 3), bool),
          "log_prob": jnp.full((rows, 3), -1.0), "confidence": jnp.zeros((rows, 3)),
          "entropy": jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (rows, 3)), jnp.float32),
          "reward": jnp.zeros(rows), "nfe": jnp.full(rows, steps.max() + 1),
          "example_index": jnp.arange(rows)}


def _log_probs(params, batch):
  """Log-probability of each trajectory, given its order, [N]."""
  tokens, step = batch["tokens"], batch["step"]
  found = 0.0
  for s in range(3):
    index = (jnp.where(step < s, tokens, REAL) * (REAL + 1) ** jnp.arange(3)[None]).sum(axis=1)
    law = jax.nn.log_softmax(params["table"][index].at[..., REAL].set(-1e30))
    picked = jnp.take_along_axis(law, tokens[..., None], axis=-1)[..., 0]
    found += jnp.where(step == s, picked, 0.0).sum(axis=1)
  return found


@pytest.mark.parametrize("method, orders", tiny.first([
    ("agrpo", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    pytest.param("agrpo", [[0, 1, 2], [2, 1, 0], [1, 2, 0]], marks=pytest.mark.slow),
    ("just_grpo", [[0, 1, 2]])], 1))
def test_the_gradient_over_all_trajectories_is_that_of_the_expected_reward(method, orders):
  """Orders are drawn without the model, alike in probability."""
  batch = _trajectories(orders)
  values = jnp.asarray(VALUES[tuple(np.asarray(batch["tokens"]).T)])

  @jax.jit
  def expected(params):
    log_prob = _log_probs(params, batch)
    return -(jnp.exp(log_prob) * values).sum() / len(orders), log_prob

  (_, log_prob), exact = jax.value_and_grad(expected, has_aux=True)(TABLE)
  np.testing.assert_allclose(jnp.exp(log_prob).sum(), len(orders), rtol=1e-5)
  fields = {"num_steps": 0, "step_mean": False} if method == "agrpo" else {}
  policy = METHODS[method](model=TRIPLE, mask_id=REAL, eos_id=-1, group_size=len(values),
                           decoding=policy_lib.Decoding(3, 1, 3), **fields)
  prepared, weights = _prepare(policy, batch)
  assert weights["policy"] == len(values)
  rows = len(prepared["advantage"]) // len(values)
  prepared["advantage"] = jnp.repeat(values * jnp.exp(log_prob) / len(orders), rows)
  prepared.pop("old_log_prob")
  scale = 1 if method == "agrpo" else 3  # a mean over three tokens
  found = jax.jit(jax.grad(lambda p: scale * policy(p, prepared, types.context(0))[0]["policy"]))(
      TABLE)
  assert np.abs(exact["table"]).max() > 1e-2
  np.testing.assert_allclose(found["table"], exact["table"], atol=2e-6)
  if method == "just_grpo":  # the chain rule, token by token
    chain = rollouts.log_prob(policy, TABLE, prepared).reshape(len(values), -1).sum(axis=1)
    np.testing.assert_allclose(chain, log_prob, atol=1e-5)


@pytest.mark.parametrize("fields", tiny.mostly_slow(
    [dict(step_draw="uniform"), dict(step_draw="entropy"),
     dict(step_draw="entropy", step_mean=False)], [dict(step_draw="entropy")]))
def test_the_mean_over_draws_of_steps_is_the_sum_over_all(fields):
  """The weight of every token over draws for 6000 copies of one rollout with an EOS tail."""
  step = jnp.array([[0, 1, 1, 2, 3]])
  tokens = jnp.array([[1, 2, 0, 1, EOS_ID]])  # the last step commits an end of text alone
  one = {"tokens": tokens, "step": step, "block": jnp.zeros_like(step),
         "is_free": jnp.ones(step.shape, bool), "log_prob": jnp.full(step.shape, -1.0),
         "confidence": jnp.zeros(step.shape), "reward": jnp.zeros(1),
         "entropy": jnp.array([[0.1, 0.5, 0.4, 2.0, 1.0]])}
  copies = 6000
  batch = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), one) | {
      "example_index": jnp.arange(copies)}
  policy = functools.partial(agrpo.AGRPO, model=table_model.Table(5), mask_id=MASK_ID, eos_id=EOS_ID,
                             group_size=4, decoding=policy_lib.Decoding(5, 1, 5))
  total = lambda prepared: np.asarray(prepared["token_weight"]).reshape(copies, -1, 5).sum(axis=1)
  full = total(_prepare(policy(num_steps=0, **fields), batch)[0])
  count = 3 if fields.get("step_mean", True) else 1
  np.testing.assert_allclose(full, np.tile([1, 1, 1, 1, 0], (copies, 1)) / count, rtol=1e-6)
  for num_steps in (1, 2):
    drawn = total(_prepare(policy(num_steps=num_steps, **fields), batch)[0])
    error = drawn.std(axis=0) / np.sqrt(copies)
    assert np.all(error[:4] > 0) and np.all(drawn[:, 4] == 0)
    np.testing.assert_allclose((drawn - full).mean(axis=0)[:4] / error[:4], 0, atol=4)
  if fields["step_draw"] == "uniform":  # as many draws as steps: each stratum is a step
    np.testing.assert_allclose(total(_prepare(policy(num_steps=3, **fields), batch)[0]), full,
                               rtol=1e-5)


@pytest.mark.slow
def test_the_mean_over_drawn_positions_is_the_mean_over_all():
  model, batch, decoding = _rollout(name="autoregressive")
  copies = jax.tree.map(lambda x: jnp.repeat(x[:GROUP], 1000, axis=0), batch)
  copies["example_index"] = jnp.arange(1000 * GROUP)
  make = functools.partial(_policy, just_grpo.JustGRPO, model, decoding, until_eos=True)
  total = lambda prepared: np.asarray(prepared["token_weight"]).reshape(
      GROUP, 1000, -1, LENGTH).sum(axis=2)
  full, drawn = (total(_prepare(make(num_positions=n), copies)[0]) for n in (0, 3))
  assert np.all((drawn > 0).sum(axis=2) == np.minimum((full > 0).sum(axis=2), 3))
  np.testing.assert_allclose(drawn.sum(axis=2), 1, rtol=1e-5)
  np.testing.assert_allclose(drawn.mean(axis=1), full.mean(axis=1), atol=0.03)
  ends = np.asarray(batch["tokens"])[:GROUP, PROMPT:] == EOS_ID
  np.testing.assert_array_equal(full[:, 0] > 0, (np.cumsum(ends, 1) - ends == 0) & np.asarray(
      batch["is_free"])[:GROUP])


@pytest.mark.parametrize("has_blocks", tiny.mostly_slow([False, True], [False]))
def test_trace_rl_is_its_formula(has_blocks):
  """Row means of the surrogate, and sums of k3 from the old policy, at other parameters."""
  fields = dict(block_length=BLOCK, cache="block") if has_blocks else dict(block_length=4)
  model, batch, decoding = _rollout(has_blocks, **fields)
  policy = _policy(trace_rl.TraceRL, model, decoding, shrink=2, old_kl=0.3)
  first, _ = _prepare(policy, batch)
  batch = batch | {"old_log_prob": rollouts.log_prob(policy, PARAMS, first)}
  prepared, weights = _prepare(policy, batch)
  totals, _ = jax.jit(lambda p: policy(p, prepared, types.context(0)))(OTHER)
  new, old = (np.asarray(rollouts.log_prob(policy, p, first)) for p in (OTHER, PARAMS))
  rows = len(new) // ROWS
  reward = np.asarray(batch["reward"]).reshape(-1, GROUP)
  advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True) + 1e-4)
  is_target = np.asarray(prepared["mix"])[:, 0] > 0
  surrogate = divergence = 0
  for row in np.flatnonzero(is_target.any(axis=1)):
    change = (new - old)[row][is_target[row]]
    a, ratio = advantage.reshape(-1)[row // rows], np.exp(change)
    gain = np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a)
    length = is_target[row // rows * rows:][:rows].sum() if has_blocks else len(change)
    surrogate -= gain.sum() / length
    divergence += (np.exp(-change) - 1 + change).sum() / (length if has_blocks else 1)
  assert weights["policy"] == is_target.any(axis=1).sum()
  np.testing.assert_allclose(totals["policy"], surrogate, rtol=1e-4)
  np.testing.assert_allclose(totals["old_kl"], divergence, rtol=1e-4)
  assert policy.scales == {"policy": 1.0, "old_kl": 0.3} and divergence > 0.1
  totals, _ = policy(PARAMS, prepared, types.context(0))
  np.testing.assert_allclose(totals["old_kl"], 0, atol=1e-5)


@pytest.mark.parametrize("gamma, lam, returns, advantages", [
    (1.0, 1.0, [1, 1, 1, 1], [.8, .6, .5, .4]),
    (0.9, 0.95, [.81, .81, .9, 1], [.5766, .3766, .382, .4])])
def test_returns_and_advantages_of_steps_equal_the_vectors(gamma, lam, returns, advantages):
  """Computed in numpy from the recursions of the paper; a step without targets is skipped."""
  value = jnp.array([[.2, .4, .5, .6, 9.0]])
  for number in ([0, 0, 1, 2, -1], [0, 0, 2, 5, 5]):
    found = trace_rl.step_returns(jnp.array([number]), jnp.array([[1, 1, 1, 1, 0]], bool),
                                jnp.ones(1), value, 6, gamma, lam)
    np.testing.assert_allclose(found[0][0, :4], returns, atol=1e-6)
    np.testing.assert_allclose(found[1][0, :4], advantages, atol=2e-5)  # of four digits


@pytest.mark.slow
def test_values_fit_returns_and_leave_the_model_alone():
  model, batch, decoding = _rollout(block_length=4)
  policy = _policy(trace_rl.TraceRL, model, decoding, value=True, shrink=2, gamma=0.9)
  params = {**PARAMS, **policy.own(rng.root(0))}
  first, _ = _prepare(policy, batch)
  scores = jax.jit(policy.scores)(params, first)
  assert np.all(np.asarray(scores["old_value"]) == 0)
  prepared, _ = _prepare(policy, batch | scores)
  terms = lambda params: policy(params, prepared, types.context(0))[0]
  totals, grads = jax.jit(lambda p: (terms(p), jax.grad(lambda p: terms(p)["value"])(p)))(params)
  weight, returns = (np.asarray(prepared[k]) for k in ("token_weight", "returns"))
  np.testing.assert_allclose(totals["value"], (weight * returns ** 2).sum() / 2, rtol=1e-5)
  np.testing.assert_allclose(grads["value"]["bias"], [-(weight * returns).sum()], rtol=1e-5)
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(grads["model"]))
  reward = np.repeat(np.asarray(batch["reward"]), len(weight) // ROWS)
  later = returns[(weight > 0) & (reward[:, None] > 0)]  # 0.9 to the number of steps that follow
  assert set(np.round(np.log(later) / np.log(0.9), 3)) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_microbatches_accumulate_exactly(method):
  model, batch, decoding = _rollout(block_length=4)
  more = {"agrpo": {"num_steps": 2}, "trace_rl": {"shrink": 2}, "just_grpo": {"num_positions": 2}}
  policy = _policy(METHODS[method], model, decoding, **more.get(method, {}))
  prepared, weights = _prepare(policy, batch)
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(
      policy, p, b, weights, types.context(0), n)[::2])(PARAMS, prepared) for n in (1, 4)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)
  assert max(np.abs(x).max() for x in jax.tree.leaves(runs[0][1])) > 1e-4


@pytest.mark.parametrize("cls, fields", [
    (trace_rl.TraceRL, {"shrink": 2}), *(pytest.param(cls, {}, marks=pytest.mark.slow) for cls in (
        agrpo.AGRPO, cj_grpo.CJGRPO, grpo.DiffuGRPO, grpo.WeightedLikelihood, mdpo.MDPO))])
@pytest.mark.slow
def test_groups_that_are_not_kept_have_no_weight(cls, fields):
  if cls in METHODS.values():
    model, batch, decoding = _rollout(block_length=4)
    policy = _policy(cls, model, decoding, **fields)
  else:
    batch, policy = rollouts.rollout(num_prompts=2), rollouts.policy(cls, **fields)
  is_kept = jnp.arange(len(batch["tokens"])) >= GROUP
  found, weights = _prepare(policy, batch | {"is_kept": is_kept})
  alone, wanted = _prepare(policy, jax.tree.map(lambda x: x[GROUP:], batch))
  assert weights == wanted and weights["policy"] > 0
  half = len(found["token_weight"]) // 2
  assert np.all(np.asarray(found["token_weight"][:half]) == 0)
  np.testing.assert_allclose(found["token_weight"][half:], alone["token_weight"], rtol=1e-6)


@pytest.mark.slow
def test_own_canvases_of_a_model_of_blocks_are_scored_behind_clean_blocks():
  model, batch, _ = _rollout(True, block_length=BLOCK, cache="block")
  policy = grpo.DiffuGRPO(model=model, mask_id=MASK_ID, eos_id=EOS_ID, group_size=GROUP,
                          temperature=0.7, until_eos=False, prompt_mask_rate=0.0)
  prepared, _ = _prepare(policy, batch)
  found = np.asarray(rollouts.log_prob(policy, PARAMS, prepared))
  tokens, free = np.asarray(batch["tokens"]), np.asarray(batch["is_free"])
  is_free = np.pad(free, ((0, 0), (PROMPT, 0)))
  block = np.asarray(batch["positions"]) // BLOCK
  checked = 0
  for number in range(block.max() + 1):
    chosen = is_free & (block == number)  # one stream: this block masked, and the blocks before clean
    request = types.Request(tokens=jnp.asarray(np.where(chosen, MASK_ID, tokens)), noise_level=None,
                            positions=batch["positions"], segment_ids=batch["segment_ids"])
    logits = jax.jit(model.answer)(PARAMS, request).logits.at[..., MASK_ID].set(-1e30) / 0.7
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], 2)[..., 0]
    chosen &= np.asarray(batch["segment_ids"]) > 0
    np.testing.assert_allclose(found[chosen[:, PROMPT:]], picked[chosen], atol=1e-5)
    checked += chosen.sum()
  assert checked == free.sum()


@pytest.mark.parametrize("cls, fields, message", [
    (trace_rl.TraceRL, {"shrink": 0}, "objective.shrink must be at least 1, got 0"),
    (trace_rl.TraceRL, {"old_kl": -1.0}, "objective.old_kl must be at least 0"),
    (trace_rl.TraceRL, {"gamma": 1.5}, r"objective.gamma must lie in \[0, 1\]"),
    (trace_rl.TraceRL, {"value": True, "decoding": policy_lib.Decoding(2, 1, 2, True)}, "use cache none"),
    (d2.D2, {"num_segments": 0}, "objective.num_segments must be at least 1"),
    (agrpo.AGRPO, {"num_steps": -1}, "objective.num_steps must be at least 0"),
    (agrpo.AGRPO, {"step_draw": "best"}, "choose from uniform, entropy"),
    (just_grpo.JustGRPO, {"num_positions": -1}, "objective.num_positions must be at least 0"),
    (cj_grpo.CJGRPO, {"advantage": "tail"}, "choose from mean")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(model=None, mask_id=MASK_ID, group_size=GROUP, **fields)


@pytest.mark.slow
def test_the_mean_over_trees_is_the_gradient_of_whole_trajectories():
  batch = _trajectories([[0, 1, 2], [2, 0, 1]])
  values = jnp.asarray(VALUES[tuple(np.asarray(batch["tokens"]).T)])
  policy = cj_grpo.CJGRPO(model=TRIPLE, mask_id=REAL, group_size=len(values), until_eos=False,
                         decoding=policy_lib.Decoding(3, 1, 3))
  share = jnp.exp(_log_probs(TABLE, batch)) / 2

  @jax.jit
  def gradient(batch):
    prepared, _ = policy.prepare({}, batch, rng.root(0), types.context(0))
    prepared["advantage"] = jnp.repeat(values * share, len(prepared["advantage"]) // len(values))
    prepared.pop("old_log_prob")
    return jax.grad(lambda p: policy(p, prepared, types.context(0))[0]["policy"])(TABLE)["table"]

  whole = gradient(batch)
  parts = [gradient(batch | {"shared_steps": jnp.full(len(values), s)}) for s in range(3)]
  np.testing.assert_allclose(sum(parts) / 3, whole, atol=1e-6)
  assert all(np.abs(part - whole).max() > 1e-3 for part in parts)
  # The last tree has the last token alone, weighted by 1: all trees branch at or before its step.
  is_last = np.asarray(parts[2]).any(axis=(1, 2))
  canvases = np.array(list(np.ndindex(4, 4, 4)))[:, ::-1]
  assert is_last.any() and (canvases[is_last] == REAL).sum(axis=1).max() == 1
