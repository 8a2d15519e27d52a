"""A tiny network with the heads and the variants that token-level objectives need, and rows for it.

Contents: network, batch, prepare, VOCAB, MASK_ID, CONTEXT.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.networks import transformer
from mdx.utils import rng

VOCAB, MASK_ID, LENGTH = 13, 5, 12
CONTEXT = types.context(0)


def network(head="rtd", **fields):
  """One layer of width 16."""
  return transformer.Transformer(
      num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=VOCAB, max_length=64,
      position="learned", init_std=1.0, head=head, scan_layers=False, **fields).network()


def batch(num_rows, length=LENGTH, seed=0, prompt=1, padding=2):
  """Rows that begin with `prompt` special tokens and end with up to `padding` padding."""
  draw = np.random.default_rng(seed)
  tokens = draw.integers(0, VOCAB - 1, (num_rows, length))
  tokens += tokens >= MASK_ID
  lengths = length - draw.integers(0, padding + 1, num_rows)
  is_text = np.arange(length)[None] < lengths[:, None]
  return {"tokens": jnp.asarray(tokens, jnp.int32),
          "loss_mask": jnp.asarray(is_text & (np.arange(length) >= prompt)),
          "segment_ids": jnp.asarray(is_text, jnp.int32),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


def prepare(objective, rows, params=None, step=0, state=None):
  """The prepared rows and the weights, from key 0."""
  context = types.context(step, state=state)
  return jax.jit(objective.prepare)(params or {}, rows, rng.root(0), context)
