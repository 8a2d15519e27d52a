"""Strategies of masking: the geometry of each, and replacements at their rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import strategies
from mdx.utils import rng

LENGTH, ROWS = 9, 400
COUNT = jnp.arange(ROWS) % 10


@pytest.fixture(name="masks", scope="module")
def _masks():
  """name -> masks bool [ROWS, LENGTH], as one program."""
  keys = lambda name: rng.per_example(rng.stream(rng.root(0), name), jnp.arange(ROWS))
  names = {name: (name,) for name in strategies.STRATEGIES} | {"any": tuple(strategies.STRATEGIES)}
  draw = jax.jit(lambda: {name: strategies.draw(keys(name), COUNT, LENGTH, some)
                          for name, some in names.items()})
  return {name: np.asarray(x) for name, x in draw().items()}


@pytest.mark.parametrize("name", [*strategies.STRATEGIES, "any"])
def test_a_text_has_a_mask_and_what_is_behind_it_has_none(name, masks):
  mask, count = masks[name], np.asarray(COUNT)
  assert not mask[np.arange(LENGTH)[None] >= count[:, None]].any()
  assert (mask.sum(axis=1) >= 1)[count > 0].all() and not mask[count == 0].any()


def test_each_strategy_has_its_geometry(masks):
  long = np.asarray(COUNT) == 9
  rows = {name: mask[long] for name, mask in masks.items()}
  assert rows["whole"].all()
  kept = ~rows["left_to_right"]
  assert (kept[:, 0] & ~kept[:, -1]).all() and (np.diff(kept.astype(int), axis=1) <= 0).all()
  assert set(kept.sum(axis=1)) == set(range(1, 9))
  assert (np.diff((~rows["right_to_left"]).astype(int), axis=1) >= 0).all()
  assert (rows["right_to_left"][:, 0] & ~rows["right_to_left"][:, -1]).all()
  possible = {j * (9 // steps) for steps in range(2, 7) for j in range(1, steps)}
  found = (~rows["block"]).sum(axis=1)
  assert set(found) <= possible and len(set(found)) > 3 and (np.diff((~rows["block"]).astype(int), axis=1) <= 0).all()
  assert (rows["cloze"].sum(axis=1) == 1).all() and set(rows["cloze"].argmax(axis=1)) == set(range(9))
  assert len(set(rows["random"].sum(axis=1))) > 5
  short = np.asarray(COUNT) == 2
  assert len(set(masks["left_to_right"][short].sum(axis=1))) == 2  # at random, not a suffix alone


def test_replacements_keep_the_length_and_write_allowed_ids_at_a_uniform_rate():
  keys = rng.per_example(rng.root(1), jnp.arange(4000))
  tokens = jnp.full((4000, LENGTH), 50)
  found = np.asarray(jax.jit(strategies.replaced)(keys, tokens, jnp.full(4000, 6), jnp.array([3, 5])))
  assert (found[:, 6:] == 50).all() and set(np.unique(found)) == {3, 5, 50}
  share = (found[:, :6] != 50).mean(axis=1)
  assert share.mean() == pytest.approx(0.5, abs=0.02)
  # Of a uniform rate every number of replacements is as likely.
  np.testing.assert_allclose(np.bincount((share * 6).round().astype(int)) / 4000, 1 / 7, atol=0.025)
