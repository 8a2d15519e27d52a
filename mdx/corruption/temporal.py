"""Time in a text: units of temporal expressions, masks that know them, and replaced persons.

Contents: SIGNALS, TEMPORAL, SIGNAL, person_kind, is_person, code, kinds, units,
last_positions, time_aware, other_signals, Persons, replace_persons.

Convention: `spans` int32 [B, L] marks what a tagger found: 0 outside, 2 k - 1 at the first position
of a span of kind k, and 2 k within. Kinds are TEMPORAL, SIGNAL + class, and a number for a person.

Reference: Wang et al., BiTimeBERT (SIGIR 2023, arXiv:2204.13032) and BiTimeBERT 2.0
(arXiv:2406.01863).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx.corruption import mask as mask_lib
from mdx.corruption import unit as unit_lib

# Words before a date that say how it is related to what happens, by class.
SIGNALS = (("before",), ("after", "following"),
           ("during", "while", "when", "until", "in", "at", "on"))
TEMPORAL, SIGNAL = 1, 2
_PERSON = SIGNAL + len(SIGNALS)
_NAMES = 1 << 28
_SLACK = 1e-3  # of the shares that are rounded up, for their products in float32


def person_kind(name: str) -> int:
  """The kind of a span that is this person: a hash, the same everywhere."""
  return _PERSON + zlib.crc32(name.encode()) % _NAMES


def is_person(kind: jax.Array | int) -> jax.Array | bool:
  """Returns whether a kind is a person."""
  return kind >= _PERSON


def code(kind: int, is_first: bool) -> int:
  """Value of `spans` at a position of a span."""
  return 2 * kind - is_first


def kinds(spans: jax.Array) -> jax.Array:
  """Kind of the span of each position, int32 [B, L]; 0 outside."""
  return (spans + 1) // 2


def units(batch: dict[str, jax.Array]) -> jax.Array:
  """Each span a unit, and each position outside: int32 [B, L] of `mdx.corruption.unit`."""
  spans = batch["spans"]
  before = jnp.pad(kinds(spans)[:, :-1], ((0, 0), (1, 0)))
  inside = (spans > 0) & (spans % 2 == 0) & (kinds(spans) == before)
  return unit_lib.from_begins(~inside | unit_lib.text_begins(batch))


def _sizes(chosen, unit_of):
  """Chosen positions of each unit, int32 [B, L], at its first position; 0 elsewhere."""
  count = jnp.zeros(unit_of.shape, jnp.int32)
  return jax.vmap(lambda c, u, x: c.at[u].add(x))(count, unit_of, chosen.astype(jnp.int32))


def last_positions(unit_of: jax.Array) -> jax.Array:
  """Last position of the unit of each position, int32 [B, L], from `units`."""
  size = _sizes(jnp.ones(unit_of.shape, bool), unit_of)
  return unit_of + jnp.take_along_axis(size, unit_of, axis=1) - 1


def _share(rate, count):
  return jnp.ceil(rate * count - _SLACK).astype(jnp.int32)


def _uniforms(keys, number, length):
  """Uniforms [B, L], as many as asked for, from one draw of each key."""
  draws = jax.vmap(lambda key: jax.random.uniform(key, (number, length)))(keys)
  return jnp.moveaxis(draws, 1, 0)


def _that_fit(draws, budget, size, longest):
  """Units, in the order of draws, each if it fits into what is left of the budget: bool [B, L]."""
  order = jnp.argsort(jnp.where(size > 0, draws, 2.0), axis=1)[:, :longest]

  def take(left, size):
    fits = (size > 0) & (size <= left)
    return left - size * fits, fits

  _, fits = jax.lax.scan(take, budget, jnp.take_along_axis(size, order, axis=1).T)
  return jax.vmap(lambda o, f: jnp.zeros(size.shape[1], bool).at[o].set(f))(order, fits.T)


def time_aware(keys: jax.Array, rate: jax.Array | float, batch: dict[str, jax.Array], *,
               temporal_rate: float, signal_rate: float | None) -> jax.Array:
  """Selects a share of the allowed tokens, rounded up, and whole temporal expressions first.

  Shares of the temporal expressions and of the signals, rounded up, are chosen; in random
  order, those that fit into the budget are selected whole. Spans that were not chosen or do not fit
  are left alone, and the rest of the budget is of uniform other tokens. Rows without other tokens
  have uniform ones of all.

  Args:
    keys: typed PRNG keys [B], consumed.
    rate: share of a row's allowed tokens.
    batch: its rows, with `spans`.
    temporal_rate: share of the temporal expressions.
    signal_rate: share of the signals; None: they are tokens like others.

  Returns:
    bool [B, L].
  """
  allowed = mask_lib.allowed_positions(batch)
  kind, unit_of = kinds(batch["spans"]), units(batch)
  which, order, other = _uniforms(keys, 3, allowed.shape[1])
  is_time, chosen, longest = jnp.zeros_like(allowed), jnp.zeros_like(allowed), 0
  for is_kind, share in ((kind == TEMPORAL, temporal_rate),
                         ((kind >= SIGNAL) & ~is_person(kind), signal_rate)):
    if share is None:
      continue
    is_kind &= allowed
    count = _share(share, mask_lib.heads(is_kind, unit_of).sum(axis=1))
    chosen |= mask_lib.lowest(which, count, is_kind, unit_of)
    is_time |= is_kind
    longest += math.ceil(share * allowed.shape[1])
  budget = _share(rate, allowed.sum(axis=1))
  fits = _that_fit(order, budget, _sizes(chosen, unit_of), min(longest, allowed.shape[1]))
  free = allowed & ~is_time
  has_free = free.any(axis=1, keepdims=True)
  selected = jnp.take_along_axis(fits, unit_of, axis=1) & chosen & has_free
  rest = jnp.where(has_free, free, allowed)
  return selected | mask_lib.lowest(other, budget - selected.sum(axis=1), rest)


def other_signals(keys: jax.Array, spans: jax.Array, ids: Sequence[Sequence[int]]) -> jax.Array:
  """Token of another class for each signal that is one token; -1 elsewhere: int32 [B, L].

  Args:
    keys: typed PRNG keys [B], consumed.
    spans: int32 [B, L].
    ids: of the tokens of each class of SIGNALS; there may be none.
  """
  size = np.array([len(x) for x in ids], np.int32)
  members = jnp.asarray(np.concatenate([np.asarray(x, np.int32) for x in ids] + [[0]]), jnp.int32)
  first = np.cumsum(size) - size
  of_class = jnp.clip(kinds(spans) - SIGNAL, 0, len(ids) - 1)
  others = jnp.asarray(size.sum() - size)[of_class]
  draws, = _uniforms(keys, 1, spans.shape[1])
  nth = jnp.minimum((draws * others).astype(jnp.int32), others - 1)
  nth += jnp.where(nth >= jnp.asarray(first)[of_class], jnp.asarray(size)[of_class], 0)
  following = jnp.pad(spans[:, 1:], ((0, 0), (0, 1)))
  is_single = (spans % 2 == 1) & (following != spans + 1)
  is_signal = (kinds(spans) >= SIGNAL) & ~is_person(kinds(spans)) & is_single & (others > 0)
  return jnp.where(is_signal, members[jnp.maximum(nth, 0)], -1)


class Persons(NamedTuple):
  """Persons, and those of each pool with names of each length.

  Attributes:
    ids: int32 [N, longest], tokens of the names, 0 behind them.
    kind: int32 [N], `person_kind`.
    members: int32 [M], the persons of pool 0 with one token, with two, ..., of pool 1, ...
    first, count: int32 [pools, longest + 1], where those of a length begin, and how many.
  """
  ids: np.ndarray
  kind: np.ndarray
  members: np.ndarray
  first: np.ndarray
  count: np.ndarray

  @classmethod
  def of(cls, names: Sequence[str], ids: Sequence[Sequence[int]],
         pools: Sequence[Sequence[int]]) -> Persons:
    """Builds it from names, their tokens, and the persons of each pool, by number."""
    longest = max(map(len, ids), default=1)
    table = np.zeros((max(len(ids), 1), longest), np.int32)
    for row, of_name in zip(table, ids):
      row[:len(of_name)] = of_name
    count = np.zeros((len(pools), longest + 1), np.int32)
    members = []
    for i, pool in enumerate(pools):
      ordered = sorted(set(pool), key=lambda n: (len(ids[n]), n))
      members += ordered
      for n in ordered:
        count[i, len(ids[n])] += 1
    first = np.cumsum(count).reshape(count.shape) - count
    kind = np.array([person_kind(name) for name in names] or [0], np.int32)
    return cls(table, kind, np.array(members or [0], np.int32), first.astype(np.int32), count)


def replace_persons(keys: jax.Array, batch: dict[str, jax.Array], pool: jax.Array,
                    persons: Persons, rate: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Replaces mentions of persons by others of the pool whose names have as many tokens.

  A mention is drawn at a rate, if there is another person; of drawn ones that follow each other the
  one with the lowest draw is replaced, so no two neighbours are. The other person is uniform.

  Args:
    keys: typed PRNG keys [B], consumed.
    batch: its rows, with `spans`.
    pool: int32 [B], of each row.
    persons: the pools.
    rate: of drawn mentions.

  Returns:
    tokens int32 [B, L]; whether a mention is replaced, and whether there is another person for it,
    bool [B, L], True at first positions of mentions alone.
  """
  tokens, spans, unit_of = batch["tokens"], batch["spans"], units(batch)
  length, longest = tokens.shape[1], persons.ids.shape[1]
  kind = kinds(spans)
  is_name = mask_lib.allowed_positions(batch) & is_person(kind)
  heads = mask_lib.heads(is_name, unit_of)
  size = jnp.where(heads, _sizes(is_name, unit_of), 0)
  first, count = (jnp.asarray(x)[pool[:, None], jnp.minimum(size, longest)]
                  for x in (persons.first, persons.count))
  count = jnp.where(size <= longest, count, 0)
  draw, one, other = _uniforms(keys, 3, length)
  # Two different ones: the second is for a mention of the first.
  nth = jnp.minimum((one * count).astype(jnp.int32), count - 1)
  second = jnp.minimum((other * (count - 1)).astype(jnp.int32), count - 2)
  second += second >= nth
  members, of_person = jnp.asarray(persons.members), jnp.asarray(persons.kind)
  candidate = members[jnp.maximum(first + nth, 0)]
  is_same = of_person[candidate] == kind
  candidate = jnp.where(is_same, members[jnp.maximum(first + second, 0)], candidate)
  possible = heads & ((count > 1) | ((count == 1) & ~is_same))
  draw = jnp.where(possible & (draw < rate), draw, 2.0)
  replaced = (draw < 2.0) & (draw < _before(draw, heads)) & (
      draw < _before(draw[:, ::-1], heads[:, ::-1])[:, ::-1])
  within = jnp.arange(length, dtype=jnp.int32)[None] - unit_of
  chosen = jnp.take_along_axis(candidate, unit_of, axis=1)
  written = jnp.asarray(persons.ids)[chosen, jnp.clip(within, 0, longest - 1)]
  is_written = jnp.take_along_axis(replaced, unit_of, axis=1) & is_name
  return jnp.where(is_written, written, tokens), replaced, possible


def _before(draw: jax.Array, heads: jax.Array) -> jax.Array:
  """Draw of the mention before; 2 if there is none."""
  index = jnp.where(heads, jnp.arange(heads.shape[1])[None], -1)
  last = jnp.pad(jax.lax.cummax(index, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  return jnp.where(last >= 0, jnp.take_along_axis(draw, jnp.maximum(last, 0), axis=1), 2.0)
