"""Rows of random tokens, and the masked language model of a network of two lookups.

Contents: VOCAB, MASK_ID, CONTEXT, NETWORK, encode, objective, batch, prepare.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives.tokens import mlm
from mdx.utils import rng

VOCAB, MASK_ID, WIDTH = 13, 5, 8
CONTEXT = types.context(0)


def encode(params, inputs, *, attention, time=None, noise=None):
  assert attention == attention_lib.Full() and time is None
  tokens = inputs.tokens
  return types.Hidden(params["embed"][tokens] + params["embed"][jnp.roll(tokens, 1, axis=1)])


NETWORK = types.Network(
    lambda key: {"embed": jax.random.normal(key, (VOCAB, WIDTH))}, encode,
    lambda params, hidden, name: hidden @ params["embed"].T, VOCAB)


def objective(**fields):
  return mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID, **fields)


def batch(num_rows, length, lengths=None, seed=0):
  draw = np.random.default_rng(seed)
  tokens = draw.integers(0, VOCAB - 1, (num_rows, length))
  tokens += tokens >= MASK_ID
  lengths = np.full(num_rows, length) if lengths is None else lengths
  return {"tokens": jnp.asarray(tokens, jnp.int32),
          "loss_mask": jnp.asarray(np.arange(length)[None] < lengths[:, None]),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


@functools.cache
def _jitted(loss):
  return jax.jit(lambda rows, key, context: loss.prepare({}, rows, key, context))


def prepare(loss, rows, seed=0, step=0):
  """The prepared rows on the host, and the weight of the loss."""
  prepared, weights = _jitted(loss)(rows, rng.root(seed), CONTEXT._replace(step=jnp.int32(step)))
  return jax.device_get(prepared), float(weights["mlm"])
