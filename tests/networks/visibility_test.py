"""Attention values of rows that have more than text, or hide some of it."""

import jax.numpy as jnp
import numpy as np

from mdx.networks import attention
from mdx.networks import visibility

SIZE = 6
INDEX = jnp.arange(SIZE)[None]


def _mask(value):
  return np.broadcast_to(attention.visible(value, INDEX, None)[0, 0], (SIZE, SIZE))


def test_a_placeholder_sees_the_text_and_itself_and_the_text_no_placeholder():
  found = _mask(visibility.Placeholders(4))
  expected = np.eye(SIZE, dtype=bool)
  expected[:, :4] = True
  np.testing.assert_array_equal(found, expected)


def test_crossed_rows_see_the_second_half_alone():
  np.testing.assert_array_equal(_mask(visibility.Crossed()), np.tile([0, 0, 0, 1, 1, 1], (SIZE, 1)))


def test_hidden_positions_are_seen_by_themselves_alone_and_in_the_first_layer_alone():
  is_hidden = np.array([[0, 1, 0, 0, 1, 0]], bool)
  first, *others = visibility.Unmasking(jnp.asarray(is_hidden)).of_layers(3)
  np.testing.assert_array_equal(_mask(first), ~is_hidden | np.eye(SIZE, dtype=bool))
  assert others == [attention.Full(), attention.Full()]
