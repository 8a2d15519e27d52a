"""What a stored directory gives, by the network alone.

Contents: causal_log_likelihood.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mdx import interop
from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.utils import rng


def causal_log_likelihood(path, ids):
  """log p(ids[1:] | ids[0]) of a causal model, float64."""
  spec = transformer.Transformer(**interop.network_fields(path))
  network = spec.network()
  params = interop.load(path, jax.eval_shape(network.init, rng.root(0)))
  tokens = jnp.array([ids[:-1]])
  hidden = network.encode(params, types.Inputs(tokens), attention=attention.Causal()).last
  logits = np.asarray(network.head(params, hidden), np.float64)[0]
  logits -= logits.max(axis=-1, keepdims=True)
  law = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  return law[np.arange(len(ids) - 1), ids[1:]].sum()
