"""GRPO of autoregressive models: log-probabilities are exact, and other policies are refused."""

import jax
import jax.numpy as jnp
import numpy as np

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
  params = jax.tree.map(lambda x: 3 * x, model.init(rng.root(1)))
  policy = causal_grpo.CausalGRPO(model=model, mask_id=MASK, eos_id=EOS, group_size=2, kl=0.0)
  tokens = np.array([[2, 3, 4, EOS, 5], [2, 3, 5, 5, 2]], np.int32)
  batch = _batch(tokens, 3, [1.0, 0.0])
  prepared, weights = policy.prepare(params, batch, rng.root(0), types.context(0))
  found = policy.log_prob(params, prepared)
  rows, _ = model.prepare(params, {"tokens": batch["tokens"]}, rng.root(0), types.context(0))
  cut = lambda k: model(params, {x: y[:, :k] for x, y in rows.items()},
                        types.context(0))[1].rows["nll"]
  each = np.stack([cut(k) - cut(k + 1) for k in (2, 3, 4)], axis=1)
  np.testing.assert_allclose(found[1], each[1], atol=1e-5)
  np.testing.assert_allclose(found[0], each[0] * [1, 1, 0], atol=1e-5)
  np.testing.assert_array_equal(prepared["token_weight"], [[1, 1, 0], [1, 1, 1]])
  assert float(weights["policy"]) == 5
  np.testing.assert_array_equal(prepared["noisy_tokens"][:, 0], tokens)  # nothing is masked

  def loss(params):
    return policy(params, prepared, types.context(0))[0]["policy"]

  # On unchanged weights the gradient is that of -sum of A log p, A = r - mean.
  expected = jax.grad(lambda p: -(policy.log_prob(p, prepared)
                                  * jnp.array([[0.5], [-0.5]])).sum())(params)
  for a, b in zip(jax.tree.leaves(jax.grad(loss)(params)), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-5)
