"""GRPO of autoregressive models: log-probabilities are exact, and other policies are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.objectives.policies import causal_grpo
from mdx.utils import rng

MASK, EOS = 0, 1


def _batch(tokens, length, reward):
  free = np.ones((len(tokens), length), bool)
  return {"tokens": jnp.asarray(tokens), "is_free": jnp.asarray(free),
          "reward": jnp.asarray(reward, jnp.float32),
          "example_index": jnp.arange(len(tokens))}


def test_the_log_probability_is_the_model_s_own_and_ends_with_the_text():
  network = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=6,
                                    vocab_multiple=1, max_length=8, scan_layers=False).network()
  model = ar.AutoRegressive(network=network, mask_id=MASK)
  params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init)(rng.root(1)))
  policy = causal_grpo.CausalGRPO(model=model, mask_id=MASK, eos_id=EOS, group_size=2, kl=0.0)
  tokens = np.array([[2, 3, 4, EOS, 5], [2, 3, 5, 5, 2]], np.int32)
  batch = _batch(tokens, 3, [1.0, 0.0])
  prepare = jax.jit(lambda params: policy.prepare(params, batch, rng.root(0), types.context(0)))
  prepared, weights = prepare(params)
  found = jax.jit(policy.log_prob)(params, prepared)

  @jax.jit
  def cuts(params):
    rows, _ = model.prepare(params, {"tokens": batch["tokens"]}, rng.root(0), types.context(0))
    cut = lambda k: model(params, {x: y[:, :k] for x, y in rows.items()},
                          types.context(0))[1].rows["nll"]
    return jnp.stack([cut(k) - cut(k + 1) for k in (2, 3, 4)], axis=1)

  each = np.asarray(cuts(params))
  np.testing.assert_allclose(found[1], each[1], atol=1e-5)
  np.testing.assert_allclose(found[0], each[0] * [1, 1, 0], atol=1e-5)
  np.testing.assert_array_equal(prepared["token_weight"], [[1, 1, 0], [1, 1, 1]])
  assert float(weights["policy"]) == 5
  np.testing.assert_array_equal(prepared["noisy_tokens"][:, 0], tokens)  # nothing is masked

  def loss(params):
    return policy(params, prepared, types.context(0))[0]["policy"]

  # On unchanged weights the gradient is that of -sum of A log p, A = r - mean.
  expected = jax.jit(jax.grad(lambda p: -(policy.log_prob(p, prepared)
                                          * jnp.array([[0.5], [-0.5]])).sum()))(params)
  for a, b in zip(jax.tree.leaves(jax.jit(jax.grad(loss))(params)), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-5)


def _policy(**fields):
  network = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=6,
                                    vocab_multiple=1, max_length=16, scan_layers=False).network()
  model = ar.AutoRegressive(network=network, mask_id=MASK)
  return causal_grpo.CausalGRPO(model=model, mask_id=MASK, eos_id=EOS, group_size=2, kl=0.0,
                                **fields)


@pytest.mark.slow
def test_means_over_tokens_and_over_rollouts_weigh_short_answers_as_by_hand():
  tokens = np.array([[2, 3, EOS, 5, 5], [2, 3, 5, 5, 2]], np.int32)  # 1 and 3 tokens
  batch = _batch(tokens, 3, [1.0, 0.0])
  prepare = lambda **fields: _policy(**fields).prepare({}, batch, rng.root(0), types.context(0))
  (whole, total), (own, number) = prepare(), prepare(mean_over="rollouts")
  np.testing.assert_array_equal(whole["token_weight"], [[1, 0, 0], [1, 1, 1]])
  np.testing.assert_allclose(own["token_weight"], [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
  assert float(total["policy"]) == 4 and float(number["policy"]) == 2
  with pytest.raises(ValueError, match="mean_over is 'rows'"):
    _policy(mean_over="rows")


@pytest.mark.slow
def test_dapo_s_higher_clip_is_of_ratios_above_one_and_positive_advantages_alone():
  tokens = np.array([[2, 3, 4, 5, 5], [2, 3, 5, 5, 2]], np.int32)
  narrow, wide = _policy(clip=0.2), _policy(clip=0.2, clip_high=0.28)
  params = wide.init(rng.root(0))
  batch, _ = wide.prepare(params, _batch(tokens, 3, [1.0, 0.0]), rng.root(0), types.context(0))
  log_prob = wide.log_prob(params, batch)

  def gain(policy, log_ratio, advantage):
    rows = batch | {"old_log_prob": log_prob - log_ratio, "advantage": jnp.full(2, advantage)}
    return -float(policy(params, rows, types.context(0))[0]["policy"]) / 6

  for ratio, advantage, low, high in ((1.25, 1.0, 1.2, 1.25), (1.5, 1.0, 1.2, 1.28),
                                      (1.5, -1.0, -1.5, -1.5), (0.5, -1.0, -0.8, -0.8),
                                      (0.5, 1.0, 0.5, 0.5)):
    found = gain(narrow, np.log(ratio), advantage), gain(wide, np.log(ratio), advantage)
    np.testing.assert_allclose(found, (low, high), rtol=1e-5)


@pytest.mark.slow
def test_tokens_of_replies_and_padding_between_turns_change_no_log_probability():
  # A prompt, a turn of two tokens, padding, a reply, padding, another turn.
  policy = _policy()
  params = jax.tree.map(lambda x: 3 * x, policy.init(rng.root(1)))
  apart = np.array([[0, 2, 3, 4, 0, 5, 5, 0, 3, EOS]], np.int32)
  real = np.array([[0, 1, 1, 1, 0, 1, 1, 0, 1, 1]], bool)
  acts = np.array([[0, 0, 1, 1, 0, 0, 0, 0, 1, 1]], bool)
  rows = lambda tokens, real, acts: _batch(tokens, tokens.shape[1] - 2, [1.0]) | {
      "segment_ids": jnp.asarray(real, jnp.int32), "is_action": jnp.asarray(acts),
      "positions": jnp.asarray(np.where(real, np.cumsum(real, axis=1) - 1, 0))}
  dense = apart[real][None]
  found, wanted = ({}, {})
  for out, batch in ((found, rows(apart, real, acts)),
                     (wanted, rows(np.pad(dense, ((0, 0), (2, 0))), np.pad(
                         np.ones_like(dense, bool), ((0, 0), (2, 0))), np.pad(
                             acts[real][None], ((0, 0), (2, 0)))))):
    policy_one = dataclasses.replace(policy, group_size=2)
    two = {k: jnp.concatenate([v, v]) for k, v in batch.items()}
    prepared, _ = policy_one.prepare(params, two, rng.root(0), types.context(0))
    out["weight"] = np.asarray(prepared["token_weight"][0])
    out["log_prob"] = np.asarray(policy_one.log_prob(params, prepared)[0])
  np.testing.assert_array_equal(found["weight"], acts[0, 2:])
  np.testing.assert_allclose(found["log_prob"][found["weight"] > 0],
                             wanted["log_prob"][wanted["weight"] > 0], atol=1e-5)
