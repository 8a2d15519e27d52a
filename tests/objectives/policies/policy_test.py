"""Policy losses: ratios, microbatches, and what is no target."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.policies import grpo
from mdx.objectives.policies import mdpo
from mdx.samplers import loop
from mdx.train import step as step_lib
from mdx.utils import rng

import rollouts
from rollouts import EOS_ID, GROUP, MASK_ID, MODEL, OTHER, PARAMS, PROMPT, SPEC
import tiny


@pytest.mark.slow
@pytest.mark.parametrize("temperature, padded, confidence", [
    (1.0, False, "probability"), (0.6, True, "probability"), (1.0, True, "random")])
def test_with_unchanged_parameters_every_ratio_is_one(temperature, padded, confidence):
  batch = rollouts.rollout(temperature, confidence=confidence, padded=padded)
  policy = rollouts.policy(mdpo.MDPO, temperature=temperature, step_choice="all")
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  is_target = np.asarray(prepared["token_weight"]) != 0
  ratio = np.exp(np.asarray(rollouts.log_prob(policy, PARAMS, prepared) - prepared["old_log_prob"]))
  assert is_target.sum() == 3 * GROUP * (4 + 2)  # 4 masks before the first step, 2 before the next
  np.testing.assert_allclose(ratio[is_target], 1, atol=1e-5)
  # Another temperature is another distribution.
  other = rollouts.policy(mdpo.MDPO, temperature=1.7, step_choice="all")
  ratio = np.exp(np.asarray(rollouts.log_prob(other, PARAMS, prepared) - prepared["old_log_prob"]))
  assert np.abs(ratio[is_target] - 1).max() > 0.05


TIMED = diffusion.MaskedDiffusion(
    network=dataclasses.replace(SPEC, time_conditioning=True).network(), mask_id=MASK_ID)


def _moved(params):
  """Parameters of which none is zero, so that time conditioning says something."""
  flat, tree = jax.tree.flatten(params)
  keys = jax.random.split(rng.root(7), len(flat))
  return jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape, x.dtype)
                                   for k, x in zip(keys, flat)])


@functools.cache
def _timed_rollout(rule, rows=2 * GROUP):
  """A rollout of texts of 7 tokens that are filled in where they stand, 3 of them given."""
  params = _moved(TIMED.init(rng.root(0)))
  sampler = samplers.build(dict(name=rule, gen_length=7, steps=3, temperature=0.8), TIMED,
                           mask_id=MASK_ID, eos_id=EOS_ID)
  canvas = jnp.where(jnp.arange(7) % 3 > 0, MASK_ID, jnp.arange(rows)[:, None] % 5)
  record = jax.jit(lambda params: loop.decode(
      lambda request: TIMED.answer(params, request), sampler, canvas, key=rng.root(1),
      row_index=jnp.arange(rows), record="full").trajectory)(params)
  reward = np.random.default_rng(0).integers(0, 2, record.canvas.shape[:2]).astype(np.float32)
  batch = {k: v for k, v in record._asdict().items() if v is not None}
  return params, batch | {"step_reward": jnp.asarray(reward), "reward": jnp.asarray(reward[:, 0]),
                          "example_index": jnp.arange(rows)}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["confidence", "rcr", "ancestral", "first_hitting"])
def test_a_model_that_reads_time_is_scored_at_the_times_it_was_sampled_at(rule):
  params, batch = _timed_rollout(rule)
  policy = mdpo.MDPO(model=TIMED, mask_id=MASK_ID, group_size=GROUP, temperature=0.8,
                     step_choice="all")
  prepared, _ = policy.prepare(params, batch, rng.root(0), rollouts.context())
  is_target = np.asarray(prepared["token_weight"]) != 0
  change = np.asarray(rollouts.log_prob(policy, params, prepared) - prepared["old_log_prob"])[is_target]
  np.testing.assert_allclose(np.exp(change), 1, atol=1e-5)
  assert len(change) > 2 * GROUP * 5
  if rule == "confidence":  # whose times are those of the masks, which a batch need not have
    again = {k: v for k, v in batch.items() if k != "step_time"}
    again, _ = policy.prepare(params, again, rng.root(0), rollouts.context())
    np.testing.assert_allclose(*(rollouts.log_prob(policy, params, x) for x in (prepared, again)),
                               atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cls, fields", [
    (grpo.DiffuGRPO, {"prompt_mask_rate": 0.0}),
    (grpo.WeightedLikelihood, {"prompt_mask_rate": 0.0}),
    (grpo.CoupledGRPO, {"min_rate": 0.5, "max_rate": 0.5})])
def test_own_canvases_are_scored_at_the_times_a_sampler_would_tell(cls, fields):
  params, batch = _timed_rollout("confidence")
  policy = cls(model=TIMED, mask_id=MASK_ID, eos_id=EOS_ID, group_size=GROUP, temperature=0.8,
               **fields)
  prepared, _ = policy.prepare(params, batch, rng.root(0), rollouts.context())
  sampler = samplers.build(dict(name="confidence", gen_length=7), TIMED, mask_id=MASK_ID)
  noisy = prepared["noisy_tokens"]
  free = jnp.broadcast_to(batch["is_free"][:, None], noisy.shape).reshape(-1, 7)
  canvas = noisy.reshape(-1, 7)
  time = sampler.noise_level({"canvas": canvas, "free": free})
  logits = TIMED.answer(params, types.Request(tokens=canvas, noise_level=time)).logits
  log_probs = jax.nn.log_softmax(logits.at[..., MASK_ID].set(-1e30) / 0.8, axis=-1).reshape(
      *noisy.shape, -1)
  picked = jnp.take_along_axis(log_probs, prepared["targets"][:, None, :, None], axis=-1)[..., 0]
  expected = jnp.where(prepared["mix"] != 0, prepared["mix"] * picked, 0.0).sum(axis=1)
  np.testing.assert_allclose(rollouts.log_prob(policy, params, prepared), expected, atol=1e-5)
  if cls is not grpo.CoupledGRPO:  # tokens committed first were drawn from the same canvas
    first = (batch["step"] == 0) & batch["is_free"] & (prepared["token_weight"] > 0)
    assert first.sum() > GROUP
    np.testing.assert_allclose(jnp.where(first, expected - batch["log_prob"], 0.0), 0, atol=1e-5)


@pytest.mark.parametrize("confidence", tiny.mostly_slow(["entropy", "random", "margin"],
                                                        ["entropy"]))
@pytest.mark.slow
def test_tokens_weigh_their_probability_whatever_the_sampler_goes_by(confidence):
  batch = rollouts.rollout(0.6, confidence=confidence)
  policy = rollouts.policy(mdpo.MDPO, temperature=0.6, step_choice="all", token_mean=False)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  is_masked = np.asarray(prepared["mix"])[:, 0] > 0
  weight = np.asarray(prepared["token_weight"])
  np.testing.assert_allclose(weight[is_masked],
                             np.exp(np.asarray(rollouts.log_prob(policy, PARAMS, prepared)))[is_masked],
                             rtol=1e-4)
  assert np.all(weight[is_masked] > 0) and np.all(weight[~is_masked] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [mdpo.MDPO, grpo.CoupledGRPO])
def test_microbatches_accumulate_exactly(cls):
  batch = rollouts.rollout(num_prompts=4)
  policy = rollouts.policy(cls)
  context = rollouts.context(OTHER)
  prepared, weights = policy.prepare(PARAMS, batch, rng.root(0), context)
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(policy, p, b, weights, context, n)[::2])(
      PARAMS, prepared) for n in (1, 4)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)


@pytest.mark.parametrize("cls, fields, message", [
    (mdpo.MDPO, {"temperature": 0.0}, "positive temperature"),
    (mdpo.MDPO, {"group_size": 1}, "group_size must be at least 2"),
    (mdpo.MDPO, {"advantage": "best"}, "choose from improvement_and_tail"),
    (mdpo.MDPO, {"step_choice": "last"}, "choose from largest"),
    (mdpo.MDPO, {"targets": "all"}, "choose from masked"),
    (mdpo.MDPO, {"kl_form": "k1"}, "choose from k2, k3"),
    (mdpo.MDPO, {"num_steps": 0}, "num_steps must be at least 1, got 0"),
    (mdpo.MDPO, {"clip": 0.0}, "clip must be positive"),
    (mdpo.MDPO, {"clip": float("nan")}, "clip must be positive, got nan"),
    (mdpo.MDPO, {"kl": float("nan")}, "kl must be at least 0, got nan"),
    (mdpo.MDPO, {"temperature": float("nan")}, "positive temperature.*got nan"),
    (grpo.DiffuGRPO, {"prompt_mask_rate": 1.0}, r"must lie in \[0, 1\)"),
    (grpo.DiffuGRPO, {"advantage": "tail"}, "choose from mean"),
    (grpo.CoupledGRPO, {"min_rate": 0.9}, "0 < min <= max < 1")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(model=MODEL, mask_id=MASK_ID, **({"group_size": GROUP} | fields))


@pytest.mark.parametrize("kind", tiny.mostly_slow([grpo.DiffuGRPO, grpo.CoupledGRPO, mdpo.MDPO],
                                                 [mdpo.MDPO]))
@pytest.mark.slow
def test_what_was_given_inside_an_answer_is_no_target_and_stays_visible(kind):
  batch = rollouts.rollout(num_prompts=3)
  given = np.asarray(batch["tokens"])[:, PROMPT]
  batch["canvas"] = batch["canvas"].at[:, :, 0].set(given[:, None])
  batch["is_free"] = batch["is_free"].at[:, 0].set(False)
  fields = {} if kind is mdpo.MDPO else {"prompt_mask_rate": 0.0}
  policy = rollouts.policy(kind, **fields)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  noisy = np.asarray(prepared["noisy_tokens"])
  times = len(noisy) // len(given)
  assert np.all(noisy[..., PROMPT] == np.repeat(given, times)[:, None])
  assert np.all(np.asarray(prepared["token_weight"])[:, 0] == 0)
  assert np.any(np.asarray(prepared["token_weight"])[:, 1] > 0)
