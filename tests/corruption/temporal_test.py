"""Time-aware masks and replaced persons, against their laws worked out by enumeration.

Reference: Wang et al., BiTimeBERT (arXiv:2204.13032) and BiTimeBERT 2.0 (arXiv:2406.01863).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import temporal
from mdx.utils import rng

import oracle

T, BEFORE, IN = temporal.TEMPORAL, temporal.SIGNAL, temporal.SIGNAL + 2
NAMES = ("Ann", "Bob", "Carl Cole", "Dan Dunn", "Eva Eng", "Finn Fox", "Gil")
IDS = ((10,), (11,), (12, 13), (14, 15), (16, 17), (18, 19), (20,))
ANN, CARL, DAN = (temporal.person_kind(NAMES[i]) for i in (0, 2, 3))


def _row(spans, length):
  """Codes of a row whose spans are (start, size, kind)."""
  row = np.zeros(length, np.int32)
  for start, size, kind in spans:
    row[start:start + size] = temporal.code(kind, False)
    row[start] = temporal.code(kind, True)
  return row


def _batch(spans, num_rows, length, tokens=None):
  allowed = np.arange(length) > 0  # a first place that is none of the text
  tile = lambda x: jnp.tile(jnp.asarray(x)[None], (num_rows, 1))
  tokens = np.arange(length) % 7 if tokens is None else np.asarray(tokens)
  return {"tokens": tile(tokens.astype(np.int32)), "loss_mask": tile(allowed),
          "spans": tile(_row(spans, length)), "segment_ids": tile(np.ones(length, np.int32))}


def _keys(num, seed=0):
  return rng.per_example(rng.root(seed), jnp.arange(num))


@functools.cache
def _masks(rate, temporal_rate, signal_rate):
  return jax.jit(lambda keys, batch: temporal.time_aware(
      keys, rate, batch, temporal_rate=temporal_rate, signal_rate=signal_rate))


def _selected(spans, num_rows, length, rate=0.15, temporal_rate=0.3, signal_rate=0.3):
  return np.asarray(_masks(rate, temporal_rate, signal_rate)(
      _keys(num_rows), _batch(spans, num_rows, length)))


@pytest.mark.slow
def test_units_are_spans_and_single_places():
  batch = _batch([(2, 3, T), (5, 2, T), (8, 1, BEFORE)], 1, 10)
  units = np.asarray(temporal.units(batch))[0]
  np.testing.assert_array_equal(units, [0, 1, 2, 2, 2, 5, 5, 7, 8, 9])
  np.testing.assert_array_equal(temporal.last_positions(jnp.asarray(units)[None])[0],
                                [0, 1, 4, 4, 4, 6, 6, 7, 8, 9])


@pytest.mark.parametrize("rate, temporal_rate, signal_rate", [
    (0.15, 0.3, 0.3), (0.3, 1.0, None), (0.05, 0.5, 0.3)])
def test_the_budget_is_met_units_are_whole_and_others_are_left_alone(rate, temporal_rate,
                                                                     signal_rate):
  spans = [(3, 3, T), (10, 1, BEFORE), (11, 2, T), (20, 4, T), (28, 1, IN), (29, 1, T),
           (35, 2, CARL)]
  found = _selected(spans, 400, 41, rate, temporal_rate, signal_rate)
  # 40 tokens count. There are enough others, so the budget is spent to the last token.
  assert (found.sum(axis=1) == math.ceil(rate * 40)).all() and not found[:, 0].any()
  whole = np.stack([found[:, a:a + n].all(axis=1) for a, n, kind in spans if kind == T], axis=1)
  touched = np.stack([found[:, a:a + n].any(axis=1) for a, n, kind in spans if kind == T], axis=1)
  np.testing.assert_array_equal(whole, touched)
  assert (whole.sum(axis=1) <= math.ceil(temporal_rate * 4)).all() and whole.any()
  signals = found[:, [10, 28]].sum(axis=1)
  assert signals.max() == (2 if signal_rate is None and rate > 0.1 else 1)


def test_units_are_chosen_by_the_law_that_enumeration_gives():
  """Three of three expressions in random order, each if it fits into a budget of three."""
  spans, sizes = [(2, 1, T), (5, 2, T), (9, 3, T)], (1, 2, 3)
  found = _selected(spans, 2000, 21, temporal_rate=1.0)
  counts = {}
  for order in itertools.permutations(range(3)):
    left, taken = 3, frozenset()
    for i in order:
      if sizes[i] <= left:
        left, taken = left - sizes[i], taken | {i}
    counts[taken] = counts.get(taken, 0) + 1
  seen = [frozenset(i for i in range(3) if row[spans[i][0]]) for row in found]
  assert set(seen) == set(counts)
  assert oracle.chi_square([seen.count(k) for k in counts], list(counts.values())) > 1e-4
  # One of three is chosen with temporal_rate 0.3, each as often.
  one = _selected(spans, 2000, 21)
  assert oracle.chi_square([one[:, a].sum() for a, _, _ in spans], [1, 1, 1]) > 1e-4
  # One that is larger than the budget is left alone, and other tokens are taken.
  large = _selected([(2, 5, T)], 2000, 21)
  assert not large[:, 2:7].any() and (large.sum(axis=1) == 3).all()


def test_rows_of_dates_alone_are_masked_like_others_and_rows_without_dates_too():
  found = _selected([(1, 8, T), (9, 12, T)], 2000, 21)
  assert (found.sum(axis=1) == 3).all()
  assert oracle.chi_square(found.sum(axis=0)[1:], np.ones(20)) > 1e-4
  plain = _selected([], 2000, 21)
  assert (plain.sum(axis=1) == 3).all()
  assert oracle.chi_square(plain.sum(axis=0)[1:], np.ones(20)) > 1e-4


def test_a_signal_is_replaced_by_one_of_another_class():
  ids = ((30, 31), (40,), (50, 51, 52))
  batch = _batch([(2, 1, BEFORE), (4, 1, IN), (6, 2, BEFORE), (9, 1, T), (11, 1, ANN)], 3000, 13)
  draw = jax.jit(temporal.other_signals, static_argnums=2)
  found = np.asarray(draw(_keys(3000), batch["spans"], ids))
  assert (np.delete(found, [2, 4], axis=1) == -1).all()  # neither words of two tokens nor others
  for place, allowed in ((2, (40, 50, 51, 52)), (4, (30, 31, 40))):
    values, counts = np.unique(found[:, place], return_counts=True)
    assert tuple(values) == allowed
    assert oracle.chi_square(counts, np.ones(len(allowed))) > 1e-4
  only = np.asarray(draw(_keys(3000), batch["spans"], ((30,), (), ())))
  assert (only[:, 2] == -1).all() and (only[:, 4] == 30).all()
  assert (np.asarray(draw(_keys(3000), batch["spans"], ((), (), ()))) == -1).all()


# Persons of two months: the first has Carl, Dan and Eva; Ann alone has one token there.
PERSONS = temporal.Persons.of(NAMES, IDS, [[4, 0, 2, 3], [2, 5, 1, 6]])


@jax.jit
def _write(keys, batch, pool, rate):
  return temporal.replace_persons(keys, batch, pool, PERSONS, rate)


def _replaced(spans, tokens, num_rows, pool=0, rate=1.0):
  found = _write(_keys(num_rows), _batch(spans, num_rows, len(tokens), tokens),
                 jnp.full(num_rows, pool), rate)
  return [np.asarray(x) for x in found]


def test_a_person_is_replaced_by_a_uniform_other_of_the_month_and_as_many_tokens():
  tokens = [0, 1, 12, 13, 4, 5]
  found, replaced, possible = _replaced([(2, 2, CARL)], tokens, 2000)
  others = {(14, 15): 0, (16, 17): 0}  # never Carl, never who is not of the month
  assert replaced[:, 2].all() and replaced.sum() == 2000 and (possible == replaced).all()
  for row in found:
    others[tuple(row[2:4])] += 1
  assert len(others) == 2 and oracle.chi_square(list(others.values()), [1, 1]) > 1e-4
  np.testing.assert_array_equal(np.delete(found, [2, 3], axis=1),
                                np.tile(np.delete(tokens, [2, 3]), (2000, 1)))
  # In the other month there is one other person; who is of no month is replaced by any.
  found, *_ = _replaced([(2, 2, CARL)], tokens, 2000, pool=1)
  assert (found[:, 2:4] == [18, 19]).all()
  found, *_ = _replaced([(2, 2, DAN)], tokens, 2000, pool=1)
  assert {tuple(row[2:4]) for row in found} == {(12, 13), (18, 19)}


def test_who_has_no_other_is_neither_replaced_nor_judged():
  for spans in ([(2, 1, ANN)], [(2, 3, CARL)]):  # alone in the month; longer than all names
    found, replaced, possible = _replaced(spans, [0, 1, 10, 3, 4, 5], 2000)
    assert not replaced.any() and not possible.any() and (found == [0, 1, 10, 3, 4, 5]).all()
  found, replaced, _ = _replaced([(2, 1, ANN)], [0, 1, 10, 3, 4, 5], 2000, pool=1)
  assert replaced[:, 2].all() and set(found[:, 2]) == {11, 20}
  none = temporal.Persons.of((), (), [[], []])
  assert none.ids.shape == (1, 1) and not none.count.any()


def test_no_two_neighbours_are_replaced_and_no_end_is_favoured():
  spans = [(1, 2, CARL), (3, 2, DAN), (7, 2, CARL), (10, 1, ANN)]
  tokens = [0, 12, 13, 14, 15, 1, 2, 12, 13, 3, 10, 4]
  rate = 0.5
  _, replaced, possible = _replaced(spans, tokens, 6000, rate=rate)
  chosen = replaced[:, [1, 3, 7]]
  assert not (chosen[:, :-1] & chosen[:, 1:]).any() and not replaced[:, 10].any()
  assert possible[:, [1, 3, 7]].all() and replaced.sum() == chosen.sum()
  # Uniform draws u below the rate, the lowest of its neighbours: integral of (1 - u)^neighbours.
  ends, middle = (1 - (1 - rate) ** 2) / 2, (1 - (1 - rate) ** 3) / 3
  for column, expected in zip(chosen.T, (ends, middle, ends)):
    assert abs(oracle.z_score(column, expected)) < 4
  assert not _replaced(spans, tokens, 6000, rate=0.0)[1].any()


@pytest.mark.slow
def test_draws_are_those_of_the_example_alone():
  spans = [(1, 2, CARL), (5, 3, T), (9, 1, BEFORE), (11, 2, DAN)]
  batch = _batch(spans, 64, 16, [0, 12, 13, *range(1, 9), 14, 15, 1, 2, 3])
  some, some_keys = slice(17, 23), lambda: rng.per_example(rng.root(0), jnp.arange(17, 23))
  few = {k: v[some] for k, v in batch.items()}
  write = lambda keys, batch: _write(keys, batch, jnp.zeros(len(keys), jnp.int32), 0.5)[0]
  for draw in (_masks(0.3, 0.5, 0.5), write):
    found = np.asarray(draw(_keys(64), batch))
    np.testing.assert_array_equal(found[some], draw(some_keys(), few))
    assert len(np.unique(found, axis=0)) > 3
