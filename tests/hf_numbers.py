"""Numbers of a stored directory, by the network alone.

Contents: causal_law, causal_log_likelihood.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mdx import interop
from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.utils import rng


def causal_law(path, size):
  """A causal model: ids, at most `size` -> log-probabilities float64 [V] of the next."""
  laws = _laws(path)
  return lambda ids: laws(list(ids) + [0] * (size - len(ids)))[len(ids) - 1]


def causal_log_likelihood(path, ids):
  """log p(ids[1:] | ids[0]) of a causal model, float64."""
  return _laws(path)(ids[:-1])[np.arange(len(ids) - 1), ids[1:]].sum()


def _laws(path):
  network = transformer.Transformer(**interop.network_fields(path)).network()
  params = interop.load(path, jax.eval_shape(network.init, rng.root(0)))

  @jax.jit
  def score(tokens):
    hidden = network.encode(params, types.Inputs(tokens), attention=attention.Causal()).last
    return network.head(params, hidden)

  def laws(ids):
    logits = np.asarray(score(jnp.array([ids])), np.float64)[0]
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

  return laws
