"""Policy gradients on whole completions: canvases, scores and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives.policies import grpo
from mdx.utils import rng

import rollouts
from rollouts import ANSWER, EOS_ID, GROUP, MASK_ID, OTHER, PARAMS, PROMPT


@pytest.mark.slow
def test_diffu_grpo_masks_prompts_scores_up_to_eos_and_averages_over_tokens():
  batch = rollouts.rollout(num_prompts=64)
  batch["tokens"] = batch["tokens"].at[::2, PROMPT + 1].set(EOS_ID)
  policy = rollouts.policy(grpo.DiffuGRPO, prompt_mask_rate=0.3, kl=0.0)
  prepared, weights = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  noisy = np.asarray(prepared["noisy_tokens"])[:, 0]
  assert np.all(noisy[:, PROMPT:] == MASK_ID)
  hidden = noisy[:, :PROMPT] == MASK_ID
  assert abs(hidden.mean() - 0.3) < 0.05
  np.testing.assert_array_equal(noisy[:, :PROMPT][~hidden],
                                np.asarray(batch["tokens"])[:, :PROMPT][~hidden])
  tokens = np.asarray(batch["tokens"])[:, PROMPT:]
  keep = np.array([[EOS_ID not in row[:i] for i in range(ANSWER)] for row in tokens])
  np.testing.assert_array_equal(np.asarray(prepared["token_weight"]) > 0, keep)
  assert weights["policy"] == keep.sum()
  # One epoch: the gradient is -A grad log p, averaged over tokens.
  reward = np.asarray(batch["reward"]).reshape(-1, GROUP)
  advantage = (reward - reward.mean(1, keepdims=True)).reshape(-1)
  grad = jax.grad(lambda p: rollouts.loss(policy, p, batch, rng.root(0)))(PARAMS)

  def plain(params):
    log_probs = rollouts.masked_log_probs(params, jnp.asarray(noisy[:, PROMPT:]),
                                  jnp.asarray(noisy[:, :PROMPT]))
    picked = jnp.take_along_axis(log_probs, jnp.asarray(tokens)[..., None], axis=2)[..., 0]
    return -(advantage[:, None] * picked * keep).sum() / keep.sum()

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), grad,
               jax.grad(plain)(PARAMS))


@pytest.mark.slow
def test_inner_epochs_draw_other_canvases_and_are_scored_on_the_same():
  batch = rollouts.rollout(num_prompts=16)
  policy = rollouts.policy(grpo.DiffuGRPO)
  draw = lambda key: policy.prepare(PARAMS, batch, key, rollouts.context())[0]
  first, again, second = (draw(rng.stream(rng.root(0), "train", s)) for s in (0, 0, 1))
  np.testing.assert_array_equal(first["noisy_tokens"], again["noisy_tokens"])
  assert not np.array_equal(first["noisy_tokens"], second["noisy_tokens"])
  scored = batch | {"old_log_prob": rollouts.log_prob(policy, PARAMS, first)}
  key = rng.stream(rng.root(0), "train", 0)
  prepared, _ = policy.prepare(OTHER, scored, key, rollouts.context())
  _, aux = policy(PARAMS, prepared, rollouts.context())
  total, count = aux.metrics["ratio"]
  np.testing.assert_allclose(total / count, 1, atol=1e-5)


def test_coupled_scores_equal_the_vector_and_cover_every_token_twice():
  batch = rollouts.rollout(num_prompts=32)
  policy = rollouts.policy(grpo.CoupledGRPO, until_eos=False)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  noisy, mix = np.asarray(prepared["noisy_tokens"])[..., PROMPT:], np.asarray(prepared["mix"])
  assert noisy.shape[1] == 3 and np.all(noisy[:, 0] == MASK_ID)
  assert np.all((noisy[:, 1] == MASK_ID) ^ (noisy[:, 2] == MASK_ID))
  assert np.all((mix > 0) == (noisy == MASK_ID))
  factor = mix[:, 1].max(axis=1)
  rate = 0.5 / factor[factor > 0]
  assert rate.min() >= 0.2 - 1e-6 and rate.max() <= 0.8 + 1e-6 and rate.std() > 0.1
  # t = 0.6: -2 under the full mask and -1.5 (or -1.2 in the complement) give -2.25 (-2.5).
  np.testing.assert_allclose(0.5 * (-2 + -1.5 / 0.6), -2.25)
  np.testing.assert_allclose(0.5 * (-2 + -1.2 / 0.4), -2.5)
  row = int(np.flatnonzero((noisy[:, 1] == MASK_ID).any(1) & (noisy[:, 2] == MASK_ID).any(1))[0])
  one, two = mix[row, 1].max(), mix[row, 2].max()
  np.testing.assert_allclose(0.5 / one + 0.5 / two, 1, rtol=1e-5)


@pytest.mark.slow
def test_wd1_weighs_log_likelihoods_and_is_silent_where_rewards_are_equal():
  batch = rollouts.rollout(num_prompts=2)
  policy = rollouts.policy(grpo.WeightedLikelihood, prompt_mask_rate=0.0)
  loss, grads = jax.value_and_grad(lambda p: rollouts.loss(policy, p, batch))(PARAMS)
  reward = np.asarray(batch["reward"]).reshape(2, GROUP)
  centred = reward - reward.mean(1, keepdims=True)
  softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
  coefficient = (softmax(-centred) - softmax(centred)).reshape(-1)
  tokens = np.asarray(batch["tokens"])
  log_probs = np.asarray(rollouts.masked_log_probs(PARAMS, jnp.full((2 * GROUP, ANSWER), MASK_ID),
                                           jnp.asarray(tokens[:, :PROMPT])))
  picked = np.take_along_axis(log_probs, tokens[:, PROMPT:, None], axis=2)[..., 0]
  keep = np.array([[EOS_ID not in row[PROMPT:PROMPT + i] for i in range(ANSWER)] for row in tokens])
  np.testing.assert_allclose(loss, (coefficient[:, None] * picked * keep).sum() / 2, rtol=1e-4)
  assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))
  batch["reward"] = jnp.ones_like(batch["reward"])
  silent = jax.tree.leaves(jax.grad(lambda p: rollouts.loss(policy, p, batch))(PARAMS))
  assert len(silent) and all(np.all(np.asarray(g) == 0) for g in silent)


@pytest.mark.slow
def test_every_end_token_ends_an_answer():
  batch = rollouts.rollout(num_prompts=4)
  batch["tokens"] = batch["tokens"].at[:, PROMPT:].set(1).at[:, PROMPT + 1].set(2)
  policy = rollouts.policy(grpo.DiffuGRPO, other_eos_ids=(2,), kl=0.0)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  wanted = np.broadcast_to(np.arange(ANSWER) < 2, prepared["token_weight"].shape)
  np.testing.assert_array_equal(np.asarray(prepared["token_weight"]) > 0, wanted)
