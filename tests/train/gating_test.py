"""Gradient dropout: kept where signs agree, by chance where not; only the task is applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.train import gating
from mdx.utils import rng

A = np.array([2.0, -1.0, 1.0, -3.0, 0.0, 1.0], np.float32)
R = np.array([1.0, -5.0, -3.0, 1.0, 2.0, 0.0], np.float32)
KEPT = np.array([1.0, 1.0, 0.25, 0.75, 0.5, 1.0])


def _kept(share, number=2000):
  tree = lambda x: {"part": {"a": jnp.asarray(x), "b": jnp.asarray(x)}}
  run = jax.jit(jax.vmap(lambda step: gating.dropped(
      rng.stream(rng.root(3), "gate", step), tree(A), tree(R), share)))
  return jax.tree.map(np.asarray, run(jnp.arange(number)))["part"]


def test_entries_are_kept_with_the_probability_of_the_paper():
  found = _kept(1.0)
  assert set(np.unique(found["a"] / np.where(A == 0, 1, A))) <= {0.0, 1.0}
  share = (found["a"] != 0).mean(axis=0)
  np.testing.assert_allclose(share[A != 0], KEPT[A != 0], atol=0.05)
  assert (found["a"] != found["b"]).any()  # every leaf has draws of its own


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_damps_and_none_is_the_gradient_itself(share):
  found = _kept(share, 50)["a"]
  if share == 0:
    np.testing.assert_array_equal(found, np.broadcast_to(A, found.shape))
    return
  values = {round(float(x), 5) for x in np.unique(found[:, 2])}
  assert values == {1.0, 0.7}
