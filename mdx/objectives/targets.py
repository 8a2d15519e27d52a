"""Cross-entropy, or anything else of the logits, at target positions only.

Contents: target_losses.

Convention: the head runs on a static number of positions: those of each batch
shard's rows, targets first. Targets that do not fit (rare) go through a second,
rematerialised pass inside a `lax.cond`, so the sum is exact for every mask. Where the network has
a `head_chunk`, so many positions of a shard have logits at a time, forwards and backwards.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import jax
import jax.numpy as jnp

from mdx import sharding
from mdx import types
from mdx.networks import heads

Spread = Callable[[int, int], float]
Score = Callable[[jax.Array, jax.Array], Any]


def _capacity(rate: float, spread: float, is_binomial: bool, num_rows: int, length: int) -> int:
  """Positions reserved for `num_rows` rows; all where the saving is small."""
  total = num_rows * length
  # Four deviations of independent draws; an exact count is rounded up.
  rate = rate + spread + (2.0 / math.sqrt(total) if is_binomial else 1.0 / length)
  wanted = -(-int(rate * total) // 8) * 8
  return total if wanted > 0.9 * total else wanted


def target_losses(network: types.Network, params: types.PyTree, hidden: jax.Array,
                  targets: Any, is_target: jax.Array, *, rate: float = 1.0,
                  spread: Spread = lambda num_rows, num_shards: 0.0, is_binomial: bool = True,
                  blocked: int | None = None, score: Score = heads.cross_entropy) -> Any:
  """-log p(target), or another score, at the target positions, 0 elsewhere.

  Args:
    network: its `head` is applied to gathered positions.
    params: parameter sub-tree of the network.
    hidden: [B, L, D].
    targets: int32 [B, L]; or a tree of arrays [B, L], for a `score` that takes one.
    is_target: bool [B, L].
    rate: expected share of positions that are targets; 1 = run the head everywhere.
    spread: (rows of a shard, number of shards) -> how far above `rate` the common share of
      a shard's rows may lie.
    is_binomial: whether positions are drawn independently, or an exact count of them.
    blocked: an id that gets probability 0 (the mask token).
    score: (logits [..., V], targets [...]) -> [...], or a tree of such.

  Returns:
    float32 [B, L], nats; or a tree of what `score` gives, 0 where there is no target.
  """
  batch, length, width = hidden.shape
  shards = sharding.batch_shards()
  shards = shards if batch % shards == 0 else 1
  rows = batch // shards * length
  size = _capacity(rate, spread(batch // shards, shards), is_binomial, batch // shards, length)

  def at_once(hidden, targets):
    return score(heads.block_columns(network.head(params, hidden, "lm"), blocked), targets)

  def scores(hidden, targets):
    if not network.head_chunk:
      return at_once(hidden, targets)
    shape = hidden.shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[2:]), (hidden, targets))
    found = _by_chunks(at_once, *flat, network.head_chunk)
    return jax.tree.map(lambda x: x.reshape(shape), found)

  def scores_where(chosen, hidden):
    return jax.tree.map(lambda x: jnp.where(chosen, x, jnp.zeros_like(x)), scores(hidden, targets))

  if size >= rows:
    return scores_where(is_target, hidden)

  flat_hidden = hidden.reshape(shards, rows, width)
  flat_targets = jax.tree.map(lambda x: x.reshape(shards, rows), targets)
  flat_mask = is_target.reshape(shards, rows)
  index = jax.vmap(lambda m: jnp.nonzero(m, size=size, fill_value=rows)[0])(flat_mask)
  safe = jnp.minimum(index, rows - 1)
  gathered = scores(jnp.take_along_axis(flat_hidden, safe[..., None], axis=1),
                    jax.tree.map(lambda x: jnp.take_along_axis(x, safe, axis=1), flat_targets))
  # Unused positions hold index `rows`, out of bounds: they are dropped.
  scatter = jax.vmap(lambda i, x: jnp.zeros(rows, x.dtype).at[i].add(x, mode="drop"))
  first = jax.tree.map(lambda x: scatter(index, x).reshape(batch, length), gathered)

  rank = jnp.cumsum(flat_mask, axis=1)
  left = (flat_mask & (rank > size)).reshape(batch, length)
  rest = jax.named_scope(types.RARE)(jax.checkpoint(lambda h: scores_where(left, h)))
  # The branch not taken saves nothing but its inputs, hence the checkpoint.
  none = lambda h: jax.tree.map(jnp.zeros_like, first)
  return jax.tree.map(jnp.add, first, jax.lax.cond(jnp.any(left), rest, none, hidden))


def _by_chunks(scores: Callable, hidden: jax.Array, targets: Any, chunk: int) -> Any:
  """Scores of [S, N, ...] for `chunk` of the N positions at a time, computed again backwards."""
  chunk = min(chunk, hidden.shape[1])
  number = -(-hidden.shape[1] // chunk)

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, number * chunk - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(x.shape[0], number, chunk, *x.shape[2:]).swapaxes(0, 1)

  found = jax.lax.map(lambda pair: jax.checkpoint(scores)(*pair),
                      jax.tree.map(cut, (hidden, targets)))
  join = lambda x: x.swapaxes(0, 1).reshape(x.shape[1], number * chunk)[:, :hidden.shape[1]]
  return jax.tree.map(join, found)
