"""MDPO: its formula, and an exact policy gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.policies import mdpo
from mdx.samplers import loop
from mdx.utils import rng

import rollouts
from rollouts import ANSWER, GROUP, MASK_ID, OTHER, PARAMS, PROMPT

import tiny


@pytest.mark.parametrize("fields", tiny.first([
    {}, {"confidence_weight": False}, {"length_weight": False}, {"token_mean": False},
    {"kl": 0.0}, {"kl_form": "k3", "kl": 0.5}, {"num_steps": 1}, {"advantage": "final"},
    {"targets": "committed"}, {"drop_dead": True}, {"clip": 0.01}], 3),
                         ids=lambda f: "-".join(f) or "default")
def test_mdpo_is_its_formula(fields):
  batch = rollouts.rollout(steps=2, seed=3)
  batch["step_reward"] = batch["step_reward"].at[:GROUP].set(1.0)  # a dead group
  policy = rollouts.policy(mdpo.MDPO, **({"num_steps": 2} | fields))
  moved = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, PARAMS, OTHER)
  found = rollouts.loss(policy, moved, batch, reference=OTHER)

  host = jax.tree.map(np.asarray, batch)
  reward = host["step_reward"].reshape(3, GROUP, 2)
  gain = np.diff(reward, axis=2, prepend=0)
  tail = np.stack([reward[..., 1], reward[..., 1]], axis=2)
  credit = reward[..., 1:].repeat(2, 2) if policy.advantage == "final" else gain + tail
  advantage = (credit - credit.mean(1, keepdims=True)) / (credit.std(1, ddof=1, keepdims=True)
                                                          + 1e-4)
  advantage = advantage.reshape(-1, 2)
  prompts = jnp.repeat(batch["tokens"][:, :PROMPT], 2, axis=0)
  news, refs = (np.asarray(rollouts.masked_log_probs(
      p, batch["canvas"].reshape(-1, ANSWER), prompts)).reshape(12, 2, ANSWER, -1)
                for p in (moved, OTHER))
  total = rows = 0.0
  for n in range(len(advantage)):
    order = np.argsort(-np.abs(advantage[n]), kind="stable")[:policy.num_steps]
    for s in order:
      a = advantage[n, s]
      if policy.drop_dead and a == 0:
        continue
      rows += 1
      canvas = host["canvas"][n, s]
      new, ref = news[n, s], refs[n, s]
      chosen = canvas == MASK_ID
      if policy.targets == "committed":
        after = host["canvas"][n, 1] if s == 0 else host["tokens"][n, PROMPT:]
        chosen &= after != MASK_ID
      count, one = chosen.sum(), 0.0
      for i in np.flatnonzero(chosen):
        token = host["prediction"][n, s, i]
        ratio = np.exp(new[i, token] - host["step_log_prob"][n, s, i])
        surrogate = min(ratio * a, np.clip(ratio, 1 - policy.clip, 1 + policy.clip) * a)
        d = ref[i, token] - new[i, token]
        kl = d * d / 2 if policy.kl_form == "k2" else np.exp(d) - 1 - d
        weight = host["step_confidence"][n, s, i] if policy.confidence_weight else 1.0
        length = ANSWER / count if policy.length_weight else 1.0
        one += weight * (-surrogate * length + policy.kl * kl)
      total += one / count if policy.token_mean else one
  assert rows == {"drop_dead": rows}.get("-".join(fields), 12 * policy.num_steps)
  np.testing.assert_allclose(found, total / rows, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_random_order_decoding_is_the_exact_policy_gradient():
  """E[R grad log p] over all orders and tokens of a tiny decode, against enumeration."""
  length, real = 2, 3
  spec = transformer.Transformer(num_layers=1, width=8, num_heads=1, vocab_size=real + 1,
                                 max_length=4, scan_layers=False, init_std=0.5)
  model = diffusion.MaskedDiffusion(network=spec.network(), mask_id=real)
  params = model.init(rng.root(2))
  values = jnp.asarray(np.random.default_rng(0).normal(size=(real, real)))

  def log_probs(params, canvas):
    return jax.nn.log_softmax(model.answer(params, types.Request(
        tokens=canvas, noise_level=jnp.ones(len(canvas)))).logits, axis=-1)

  canvases = list(itertools.product(range(real + 1), repeat=length))  # real is the mask

  def expected_reward(params):
    table = log_probs(params, jnp.asarray(canvases))
    total = 0.0
    for order in itertools.permutations(range(length)):
      for tokens in itertools.product(range(real), repeat=length):
        canvas, log_prob = [real] * length, 0.0
        for position in order:
          log_prob += table[canvases.index(tuple(canvas)), position, tokens[position]]
          canvas[position] = tokens[position]
        total += jnp.exp(log_prob) * values[tokens] / 2
    return total

  exact = jax.jit(jax.grad(expected_reward))(params)
  policy = mdpo.MDPO(model=model, mask_id=real, group_size=2, kl=0.0, step_choice="all",
                     targets="committed", confidence_weight=False, length_weight=False,
                     token_mean=False)
  sampler = samplers.build(dict(name="confidence", confidence="random", gen_length=length,
                                steps=length), model, mask_id=real)
  rows = 60000
  canvas = jnp.full((rows, length), real, jnp.int32)

  @jax.jit
  def estimate(params, key):
    record = loop.decode(lambda r: model.answer(params, r), sampler, canvas, key=key,
                         row_index=jnp.arange(rows), record="full").trajectory
    reward = values[record.tokens[:, 0], record.tokens[:, 1]]
    batch = {"tokens": record.tokens, "step_reward": jnp.repeat(reward[:, None], length, 1),
             "example_index": jnp.arange(rows), **{
                 k: getattr(record, k) for k in ("canvas", "prediction", "step_confidence",
                                                 "step_log_prob", "nfe", "is_free")}}
    context = types.context(0)
    prepared, _ = policy.prepare(params, batch, key, context)
    # The reward itself instead of the group's z-score, which is a biased baseline.
    prepared["advantage"] = jnp.repeat(reward, length)
    loss = lambda p: policy(p, prepared, context)[0]["policy"] / rows
    return jax.grad(loss)(params)

  found = jax.tree.map(lambda g: -g, estimate(params, rng.root(0)))
  flat = lambda t: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(t)])
  a, b = flat(found), flat(exact)
  assert np.abs(a - b).max() < 0.03 * np.abs(b).max()
  assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
