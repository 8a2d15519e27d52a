"""Strategies of masking a short text: one is drawn for each row.

Contents: STRATEGIES, draw, replaced.

Convention: a text is the first `count` positions of a row, its end token among them. At least one
of them is masked, and nothing behind them. Texts of one or two tokens are masked at random.

Reference: MDiff4STR, arXiv:2512.01422.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Strategy = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_STEPS = (2, 6)  # of strategy block, both ends possible
_SHORT = 2


def _whole(key, count, position):
  del key, count
  return position >= 0


def _kept(key, count):
  """A number of tokens that stay, from 1 to count - 1."""
  return jax.random.randint(key, (), 1, jnp.maximum(count, 2))


def _left_to_right(key, count, position):
  return position >= _kept(key, count)


def _right_to_left(key, count, position):
  return position < count - _kept(key, count)


def _block(key, count, position):
  first, second = jax.random.split(key)
  steps = jax.random.randint(first, (), _STEPS[0], _STEPS[1] + 1)
  kept = jax.random.randint(second, (), 1, steps) * jnp.maximum(count // steps, 1)
  return position >= jnp.minimum(kept, count - 1)


def _cloze(key, count, position):
  return position == jax.random.randint(key, (), 0, jnp.maximum(count, 1))


def _random(key, count, position):
  rate, each, least = jax.random.split(key, 3)
  chosen = jax.random.uniform(each, position.shape) < jax.random.uniform(rate)
  chosen &= position < count
  return chosen | (~chosen.any() & _cloze(least, count, position))


STRATEGIES: dict[str, Strategy] = {
    "whole": _whole,  # everything
    "left_to_right": _left_to_right,  # all but a prefix
    "right_to_left": _right_to_left,  # all but a suffix
    "block": _block,  # all but a number of leading blocks of a decoding in 2 to 6 steps
    "cloze": _cloze,  # one token
    "random": _random,  # each token with a rate that is uniform in (0, 1)
}


def draw(keys: jax.Array, count: jax.Array, length: int, names: Sequence[str]) -> jax.Array:
  """Masks of one of the named strategies each, uniformly, bool [B, L].

  Args:
    keys: typed PRNG keys [B], consumed.
    count: int32 [B], tokens of each text; 0: none of its positions is masked.
    length: L.
    names: of STRATEGIES.
  """
  position = jnp.arange(length)
  runs = [functools.partial(STRATEGIES[name], position=position) for name in names]

  def row(key, count):
    which, short, *own = jax.random.split(key, 2 + len(runs))
    masks = jnp.stack([run(key, count) for run, key in zip(runs, own)])
    mask = masks[jax.random.randint(which, (), 0, len(runs))]
    mask = jnp.where(count <= _SHORT, _random(short, count, position), mask)
    return mask & (position < count)

  return jax.vmap(row)(keys, count)


def replaced(keys: jax.Array, tokens: jax.Array, count: jax.Array, ids: jax.Array) -> jax.Array:
  """Texts with tokens replaced by uniform ones, at a rate (1 - 0.001) u + 0.001 of each row.

  Args:
    keys: typed PRNG keys [B], consumed.
    tokens: int32 [B, L].
    count: int32 [B], tokens of each text; what is behind stays.
    ids: int32 [n], the tokens that are written; the old one may be drawn again.
  """

  def row(key, tokens, count):
    rate, each, new = jax.random.split(key, 3)
    rate = 0.999 * jax.random.uniform(rate) + 0.001
    is_replaced = jax.random.uniform(each, tokens.shape) < rate
    is_replaced &= jnp.arange(len(tokens)) < count
    others = ids[jax.random.randint(new, tokens.shape, 0, len(ids))]
    return jnp.where(is_replaced, others, tokens)

  return jax.vmap(row)(keys, tokens, count)
