"""A lexicon of n-grams, and the n-grams of rows.

Contents: Lexicon, lookup, units.

Convention: the lexicon is a tree of prefixes. Node i < V is the id i; an edge leads from a node,
with the next id, to the node of the longer prefix. Edges are sorted by (node, id), so that an
edge is found by bisection.

Reference: Xiao et al. 2021, arXiv:2010.12148 (ERNIE-Gram).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx.corruption import unit as unit_lib


class Lexicon(NamedTuple):
  """N-grams of two ids or more.

  Attributes:
    first: int32 [nodes], the first edge of a node.
    size: int32 [nodes], its number of edges.
    token: int32 [edges], the id of an edge.
    child: int32 [edges], the node where it leads.
    gram: int32 [nodes], the number of the n-gram that a node is, or -1.
    longest: ids of the longest n-gram; 1 if there is none.
    num_grams: number of n-grams.
  """
  first: np.ndarray
  size: np.ndarray
  token: np.ndarray
  child: np.ndarray
  gram: np.ndarray
  longest: int
  num_grams: int

  @classmethod
  def of(cls, grams: Sequence[Sequence[int]], vocab_size: int) -> Lexicon:
    """Builds it from n-grams, whose numbers are their positions in `grams`.

    Raises:
      ValueError: an n-gram that comes twice, has fewer than two ids, or ids out of range.
    """
    nodes = {(i,): i for i in range(vocab_size)}
    edges, number = [], {}
    for i, gram in enumerate(grams):
      gram = tuple(int(x) for x in gram)
      if len(gram) < 2 or min(gram) < 0 or max(gram) >= vocab_size or gram in number:
        raise ValueError(f"n-gram {i} of a lexicon is {list(gram)}; expected two or more ids below "
                         f"{vocab_size}, each n-gram once.")
      number[gram] = i
      for end in range(2, len(gram) + 1):
        if gram[:end] not in nodes:
          nodes[gram[:end]] = len(nodes)
          edges.append((nodes[gram[:end - 1]], gram[end - 1], nodes[gram[:end]]))
    table = np.array(sorted(edges), np.int32).reshape(-1, 3)
    size = np.bincount(table[:, 0], minlength=len(nodes)).astype(np.int32)
    of_node = np.full(len(nodes), -1, np.int32)
    for gram, i in number.items():
      of_node[nodes[gram]] = i
    return cls((np.cumsum(size) - size).astype(np.int32), size, table[:, 1], table[:, 2], of_node,
               max(map(len, number), default=1), len(number))


def _step(lexicon: Lexicon, node: jax.Array, token: jax.Array) -> jax.Array:
  """The node after `node` (-1: none) with the next id, or -1."""
  first, size = jnp.asarray(lexicon.first), jnp.asarray(lexicon.size)
  ids, child = jnp.asarray(lexicon.token), jnp.asarray(lexicon.child)
  safe = jnp.maximum(node, 0)
  low, high = first[safe], first[safe] + size[safe]
  end, last = high, len(lexicon.token) - 1
  for _ in range(int(lexicon.size.max()).bit_length()):
    middle = (low + high) // 2
    goes_right = (low < high) & (ids[jnp.minimum(middle, last)] < token)
    low, high = jnp.where(goes_right, middle + 1, low), jnp.where(goes_right, high, middle)
  found = jnp.minimum(low, last)
  return jnp.where((node >= 0) & (low < end) & (ids[found] == token), child[found], -1)


def lookup(lexicon: Lexicon, tokens: jax.Array) -> jax.Array:
  """Number of the n-gram of each size that begins at each position, or -1: int32 [longest, B, L].

  [0] is that of a single id, -1 everywhere.
  """
  node, found = tokens, [jnp.full_like(tokens, -1)]
  gram = jnp.asarray(lexicon.gram)
  for ahead in range(1, lexicon.longest):
    following = jnp.pad(tokens[:, ahead:], ((0, 0), (0, ahead)), constant_values=-1)
    following = following[:, :tokens.shape[1]]
    node = _step(lexicon, node, following)
    found.append(jnp.where(node >= 0, gram[jnp.maximum(node, 0)], -1))
  return jnp.stack(found)


def units(batch: dict[str, jax.Array], lexicon: Lexicon) -> tuple[jax.Array, jax.Array]:
  """Cuts rows into the fewest units that are n-grams of the lexicon or single ids.

  Of cuts into equally few, the first unit is as long as it can be, then the second, and so on. No
  n-gram goes on over the edge of a text (`unit.text_begins`).

  Args:
    batch: its rows.
    lexicon: the n-grams.

  Returns:
    units: int32 [B, L] of `mdx.corruption.unit`.
    grams: int32 [B, L], the number of the n-gram that begins at a position; -1 at single ids and
      within n-grams.
  """
  begins = unit_lib.text_begins(batch)
  found = lookup(lexicon, batch["tokens"])
  num_sizes, length = found.shape[0], begins.shape[1]
  fits = [jnp.ones(begins.shape, bool)]
  inside = fits[0]
  for size in range(2, num_sizes + 1):
    edge = jnp.pad(begins[:, size - 1:], ((0, 0), (0, size - 1)), constant_values=True)
    inside = inside & ~edge[:, :length]
    fits.append(inside & (found[size - 1] >= 0))
  fits = jnp.stack(fits)  # [size - 1, B, L]

  def count(ahead, fits):  # ahead [num_sizes, B]: units from the next positions on
    costs = jnp.where(fits, 1 + ahead, length + 1)
    best = costs.min(axis=0)
    # The longest of the best: the last one.
    size = num_sizes - jnp.argmax(costs[::-1] == best[None], axis=0)
    return jnp.concatenate([best[None], ahead[:-1]]), size.astype(jnp.int32)

  rows = begins.shape[0]
  _, sizes = jax.lax.scan(count, jnp.zeros((num_sizes, rows), jnp.int32),
                          jnp.moveaxis(fits, -1, 0), reverse=True)

  def walk(left, size):
    is_begin = left == 0
    left = jnp.where(is_begin, size, left) - 1
    return left, is_begin

  _, is_begin = jax.lax.scan(walk, jnp.zeros(rows, jnp.int32), sizes)
  is_begin, sizes = is_begin.T, sizes.T
  grams = jnp.take_along_axis(found, sizes[None] - 1, axis=0)[0]
  return unit_lib.from_begins(is_begin), jnp.where(is_begin, grams, -1)
