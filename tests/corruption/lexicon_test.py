"""A lexicon of n-grams, and rows cut by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import lexicon as lexicon_lib

GRAMS = ((0, 1), (1, 2), (0, 1, 2), (2, 0), (2, 0, 3, 1), (3, 3), (1, 2, 0))


def _cuts(row, begins):
  """Every cut of a row into n-grams and single ids, as sizes."""
  if not row:
    yield ()
    return
  for size in range(1, len(row) + 1):
    if any(begins[1:size]):
      break
    if size == 1 or tuple(row[:size]) in GRAMS:
      for rest in _cuts(row[size:], begins[size:]):
        yield (size, *rest)


def test_rows_are_cut_into_the_fewest_units_long_ones_first():
  draw = np.random.default_rng(0)
  tokens, segments = draw.integers(0, 4, (40, 9)), np.cumsum(draw.random((40, 9)) < 0.15, axis=1)
  tokens[:20, 4:8], tokens[20:, 4:8] = GRAMS[4], (0, 1, 2, 0)  # the latter has three best cuts
  allowed = np.arange(9)[None] > draw.integers(-1, 3, (40, 1))
  batch = {"tokens": jnp.asarray(tokens, jnp.int32), "segment_ids": jnp.asarray(segments),
           "loss_mask": jnp.asarray(allowed)}
  lexicon = lexicon_lib.Lexicon.of(GRAMS, 5)
  units, grams = map(np.asarray, jax.jit(lambda b: lexicon_lib.units(b, lexicon))(batch))
  edge = lambda x: x[:, 1:] != x[:, :-1]
  begins = np.pad(edge(segments) | edge(allowed), ((0, 0), (1, 0)), constant_values=True)
  longest = 0
  for row, (ids, starts) in enumerate(zip(tokens.tolist(), begins.tolist())):
    found = list(_cuts(ids, starts))
    fewest = min(map(len, found))
    best = max(cut for cut in found if len(cut) == fewest)
    first = np.cumsum((0,) + best[:-1])
    assert units[row].tolist() == np.repeat(first, best).tolist()
    expected = np.full(9, -1)
    for place, size in zip(first, best):
      if size > 1:
        expected[place] = GRAMS.index(tuple(ids[place:place + size]))
    np.testing.assert_array_equal(grams[row], expected)
    longest = max(longest, *best)
  assert longest == 4


@pytest.mark.parametrize("grams", [[(1,)], [(1, 9)], [(1, 2), (1, 2)]])
def test_lexicons_that_cannot_be_are_refused(grams):
  with pytest.raises(ValueError, match="n-gram . of a lexicon"):
    lexicon_lib.Lexicon.of(grams, 9)
