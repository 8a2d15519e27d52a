"""Attention between causal and full: what is seen at the ends and in between."""

import jax
import jax.numpy as jnp
import numpy as np

from mdx.networks import anneal
from mdx.networks import attention as attention_lib
from mdx.utils import rng

import oracle

LENGTH = 40
POSITIONS = jnp.arange(LENGTH)[None]


def _seen(rate, inner=attention_lib.Full(), seed=0):
  shown = anneal.future_draws(rng.root(seed), rate, LENGTH)
  mask = attention_lib.visible(anneal.Annealed(inner, shown), POSITIONS, None)
  return np.asarray(mask)[0, 0]


def test_it_is_causal_at_the_start_and_full_at_the_end():
  causal = np.tril(np.ones((LENGTH, LENGTH), bool))
  np.testing.assert_array_equal(_seen(0.0), causal)
  for end in (1.0, 7.0):  # also long after the end
    assert _seen(end).all()


def test_the_past_is_always_seen_and_each_future_place_at_the_rate():
  seen = np.stack([_seen(0.3, seed=seed) for seed in range(40)])
  past = np.tril(np.ones((LENGTH, LENGTH), bool))
  assert seen[:, past].all()
  assert abs(oracle.z_score(seen[:, ~past].ravel(), 0.3)) < 4
  assert len(np.unique(seen.reshape(40, -1), axis=0)) == 40  # a draw of its own for each key


def test_nothing_is_seen_that_the_attention_at_the_end_hides():
  blocks = attention_lib.BlockCausal(block_length=10)
  whole = np.asarray(attention_lib.visible(blocks, POSITIONS, None))[0, 0]
  np.testing.assert_array_equal(_seen(1.0, blocks), whole)
  assert not (_seen(0.5, blocks) & ~whole).any()
  # Other documents of the row stay hidden too.
  segments = (POSITIONS >= 15).astype(jnp.int32) + 1
  shown = jnp.ones((LENGTH, LENGTH), bool)
  mask = attention_lib.visible(anneal.Annealed(attention_lib.Full(), shown), POSITIONS, segments)
  np.testing.assert_array_equal(mask[0, 0], segments[0][:, None] == segments[0][None])
  assert jax.tree.leaves(mask)[0].dtype == bool
