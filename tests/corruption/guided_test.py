"""Spans drawn by scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import guided
from mdx.utils import rng

_L, _SPAN = 24, 4


def _keys(number, seed=0):
  return rng.per_example(rng.root(seed), jnp.arange(number))


def _row(scores, count, allowed):
  """Spans of the highest scores, one after another, by a loop."""
  found = []
  for start in sorted(np.flatnonzero(allowed), key=lambda i: -scores[i]):
    for i in range(start, min(start + _SPAN, len(scores))):
      if allowed[i] and i not in found and len(found) < count:
        found.append(i)
  return np.isin(np.arange(len(scores)), found)


def test_spans_begin_with_their_rate_and_cover_as_many_positions_as_they_should():
  allowed = jnp.ones((4000, _L), bool).at[:, 20:].set(False)
  found = np.asarray(guided.spans_of_rate(_keys(4000), 0.1, _SPAN, allowed))
  wanted = 1 - 0.9 ** np.minimum(np.arange(1, 21), _SPAN)
  np.testing.assert_allclose(found[:, :20].mean(axis=0), wanted, atol=0.03)
  assert not found[:, 20:].any()


@pytest.mark.slow
def test_without_temperature_the_spans_are_those_of_the_highest_scores():
  draw = np.random.default_rng(0)
  scores = draw.normal(size=(50, _L)).astype(np.float32)
  allowed = np.arange(_L)[None] < draw.integers(6, _L + 1, (50, 1))
  count = draw.integers(0, 12, 50)
  found = guided.spans(_keys(50), jnp.asarray(scores), jnp.asarray(count), _SPAN, 0.0,
                       jnp.asarray(allowed))
  wanted = np.stack([_row(*one) for one in zip(scores, count, allowed)])
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("temperature", [0.0, 0.3, float("inf")])
def test_the_number_is_exact_at_every_temperature(temperature):
  allowed = jnp.ones((200, _L), bool).at[:, 15:].set(False)
  scores = jnp.tile(jnp.arange(_L, dtype=jnp.float32)[None], (200, 1))
  found = guided.spans(_keys(200), scores, jnp.arange(200) % 20, _SPAN, temperature, allowed)
  np.testing.assert_array_equal(found.sum(axis=1), np.minimum(np.arange(200) % 20, 15))
  assert not found[:, 15:].any()


@pytest.mark.slow
def test_temperature_goes_from_the_scores_to_uniform_starts():
  scores = jnp.zeros((4000, _L)).at[:, :_L // 2].set(1.0)
  allowed, count = jnp.ones((4000, _L), bool), jnp.full(4000, _SPAN)
  share = lambda temperature: float(guided.spans(
      _keys(4000), scores, count, _SPAN, temperature, allowed)[:, :_L // 2].mean())
  # One span: its start is in the first half with odds e^(1/T) to 1.
  first = guided.spans(_keys(4000), scores, jnp.ones(4000, int), _SPAN, 0.5, allowed)
  odds = np.exp(2.0) / (1 + np.exp(2.0))
  assert np.asarray(first[:, :_L // 2].any(axis=1)).mean() == pytest.approx(odds, abs=0.02)
  assert share(0.1) > share(1.0) > share(float("inf"))
  uniform = guided.spans(_keys(4000, 1), -scores, jnp.ones(4000, int), _SPAN, float("inf"), allowed)
  np.testing.assert_allclose(uniform.mean(axis=0), 1 / _L, atol=0.012)
