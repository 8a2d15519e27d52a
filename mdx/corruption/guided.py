"""Spans whose starts are drawn by scores of the positions.

Contents: spans_of_rate, spans.

Reference: Baskar et al. 2022, arXiv:2202.12719 (Ask2Mask); Baevski et al. 2020, arXiv:2006.11477
(every position begins a span with some probability).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx.corruption import mask


def spans_of_rate(keys: jax.Array, rate: float, span: int, allowed: jax.Array) -> jax.Array:
  """Selects spans of `span` positions; every allowed position begins one with a probability.

  A position far from the edge is selected with probability 1 - (1 - rate)^span.

  Args:
    keys: typed PRNG keys [B], consumed.
    rate: probability of a start.
    span: positions of a span; spans may overlap.
    allowed: bool [B, L]; nothing else is selected.

  Returns:
    bool [B, L].
  """
  starts = mask.bernoulli(keys, rate, allowed)
  return (_covered(jnp.where(starts, 0, 1), span, 1) == 0) & allowed


def spans(keys: jax.Array, scores: jax.Array, count: jax.Array, span: int, temperature: float,
          allowed: jax.Array) -> jax.Array:
  """Selects exactly `count` positions of each row, in spans with starts of high scores.

  Starts are drawn without replacement in proportion to exp(score / temperature), by Gumbel noise;
  each adds its span, the last one cut, until `count` positions are selected. So rows of any scores
  have the same number of selected positions.

  Args:
    keys: typed PRNG keys [B], consumed.
    scores: float32 [B, L].
    count: int32 [B]; rows with fewer allowed positions select all of them.
    span: positions of a span.
    temperature: 0 = the highest scores; inf = any position.
    allowed: bool [B, L].

  Returns:
    bool [B, L].
  """
  length = scores.shape[1]
  noise = jax.vmap(lambda key: jax.random.gumbel(key, (length,)))(keys)
  drawn = scores if temperature == 0 else scores / temperature + noise
  order = jnp.argsort(jnp.where(allowed, -drawn, jnp.inf), axis=1)
  rank = jnp.where(allowed, jnp.argsort(order, axis=1), 2 * length)
  first = _covered(rank, span, 2 * length)
  # Rank of the first span over a position, then the position: a span is filled from its start.
  order = jnp.argsort(jnp.where(allowed, first, 2 * length + 1), axis=1, stable=True)
  return (jnp.argsort(order, axis=1) < count[:, None]) & allowed


def _covered(rank, span, none):
  """Least rank of the spans that cover each position, `none` where there is none."""
  padded = jnp.pad(rank, ((0, 0), (span - 1, 0)), constant_values=none)
  shifts = [jax.lax.slice_in_dim(padded, j, j + rank.shape[1], axis=1) for j in range(span)]
  return jnp.stack(shifts).min(axis=0)
