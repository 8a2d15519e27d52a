"""Distributions over sets of positions, for decoding rules that are learned.

Contents: ACTIONS, Distribution, BERNOULLI, PLACKETT_LUCE.

Convention: an action is int32 [..., W]: 0 at positions that are not chosen, otherwise a rank, from
1 on (of Bernoulli draws always 1). Scores z are float32 [..., W]. Log-probabilities are [..., W]
too, and that of an action is their sum: they are kept by position to fit the record of a decode.

Bernoulli: every open position with probability sigmoid(z); the empty set is an action.
Plackett-Luce: the first position from softmax(z) over the open ones; then, one after another, from
a softmax over those that are left and a stop, whose score is 0, until it is drawn. The
number of positions is dynamic, and at least one.

Reference: arXiv:2512.09106.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mdx.networks import heads
from mdx.samplers import logits as logits_lib
from mdx.utils import rng


class Distribution(NamedTuple):
  """A family of distributions over sets of positions.

  Attributes:
    draw: (keys [B], positions int32 [B, W], scores [B, W], is_open [B, W]) -> action [B, W]; a
      draw depends on (key, position) alone.
    log_prob: (scores, action, is_open), [..., W] each -> float32 [..., W].
    from_order: (is_chosen bool [B, W], rank int32 [B, W], 0 the first) -> the action that chooses
      these positions in this order.
  """
  draw: Callable[..., jax.Array]
  log_prob: Callable[..., jax.Array]
  from_order: Callable[[jax.Array, jax.Array], jax.Array]


def _draw_each(keys, positions, scores, is_open):
  is_chosen = logits_lib.uniforms(keys, positions) < jax.nn.sigmoid(scores)
  return (is_chosen & is_open).astype(jnp.int32)


def _log_prob_of_each(scores, action, is_open):
  return jnp.where(is_open, jax.nn.log_sigmoid(jnp.where(action > 0, scores, -scores)), 0.0)


def _gumbels(keys, positions, name):
  """Standard Gumbel noise of each position, float32 [B, W]."""
  return logits_lib.gumbels(jax.vmap(lambda key: rng.stream(key, name))(keys), positions)


def _draw_order(keys, positions, scores, is_open):
  never = jnp.where(is_open, 0.0, heads.NEVER)
  index = jnp.arange(scores.shape[1])[None]
  first = jnp.argmax(scores + _gumbels(keys, positions, "first") + never, axis=1, keepdims=True)
  # The order of noisy scores is Plackett-Luce; the noise of the first draw is that draw's alone.
  rest = scores + _gumbels(keys, positions, "rest") + never
  stop = jax.vmap(lambda key: jax.random.gumbel(rng.stream(key, "stop"), mode="high"))(keys)
  is_first = (index == first) & is_open
  order = jnp.where(is_first, jnp.inf, jnp.where(rest > stop[:, None], rest, -jnp.inf))
  rank = jnp.argsort(jnp.argsort(-order, axis=1), axis=1)
  return jnp.where((order > -jnp.inf) & is_open, rank + 1, 0).astype(jnp.int32)


def _log_prob_of_order(scores, action, is_open):
  scores = jnp.where(is_open, scores, heads.NEVER)
  size = scores.shape[-1]
  order = jnp.argsort(jnp.where(action > 0, action, size + 1), axis=-1)
  ranked = jnp.take_along_axis(scores, order, axis=-1)
  # log-sum-exp of those that are not chosen yet, before each choice and after the last.
  left = jax.lax.cumlogsumexp(ranked, axis=scores.ndim - 1, reverse=True)
  left = jnp.concatenate([left, jnp.full_like(left[..., :1], heads.NEVER)], axis=-1)
  with_stop = jnp.logaddexp(left, 0.0)
  number = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  chosen = ranked - jnp.where(number == 0, left[..., :-1], with_stop[..., :-1])
  count = (action > 0).sum(axis=-1, keepdims=True)
  stop = -jnp.take_along_axis(with_stop, count, axis=-1)
  terms = jnp.where(number < count, chosen + jnp.where(number == 0, stop, 0.0), 0.0)
  return jnp.take_along_axis(terms, jnp.argsort(order, axis=-1), axis=-1)


BERNOULLI = Distribution(_draw_each, _log_prob_of_each,
                         lambda is_chosen, rank: is_chosen.astype(jnp.int32))
PLACKETT_LUCE = Distribution(
    _draw_order, _log_prob_of_order,
    lambda is_chosen, rank: jnp.where(is_chosen, rank + 1, 0).astype(jnp.int32))
ACTIONS = {"bernoulli": BERNOULLI, "plackett_luce": PLACKETT_LUCE}
