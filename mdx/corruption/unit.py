"""Units of a row that are masked together: words, or what a data set marks.

Contents: text_begins, from_begins, words, joined.

Convention: a unit is a run of positions; its id is its first position, so `units` int32 [B, L] is
both a label and an index. A draw for a unit is the draw of its first position. None means that
every position is a unit. Units never reach across the edge of a text, of a prompt or of padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx.corruption import mask as mask_lib

_FIRST = ((0, 0), (1, 0))


def text_begins(batch: dict[str, jax.Array]) -> jax.Array:
  """Positions before which a unit must end, bool [B, L]: row, document, or end of what counts."""
  allowed = mask_lib.allowed_positions(batch)
  begins = allowed != jnp.pad(allowed[:, :-1], _FIRST)
  if "segment_ids" in batch:
    segments = batch["segment_ids"]
    begins |= segments != jnp.pad(segments[:, :-1], _FIRST, constant_values=-1)
  return begins.at[:, 0].set(True)


def from_begins(begins: jax.Array) -> jax.Array:
  """Units int32 [B, L] that begin where `begins` bool [B, L] says, and at the first position."""
  index = jnp.arange(begins.shape[1], dtype=jnp.int32)[None]
  return jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def words(batch: dict[str, jax.Array], word_edges: jax.Array) -> jax.Array:
  """Units of whole words, int32 [B, L].

  Args:
    batch: its rows.
    word_edges: bool [V, 2], `Tokenizer.word_edges`.
  """
  edges = jnp.asarray(word_edges)[batch["tokens"]]
  goes_on = edges[..., 0] & jnp.pad(edges[:, :-1, 1], _FIRST)
  return from_begins(~goes_on | text_begins(batch))


def joined(is_shared: jax.Array) -> jax.Array:
  """One unit of the positions of each row that are shared, bool [B, L]; each other alone."""
  index = jnp.arange(is_shared.shape[1], dtype=jnp.int32)[None]
  return jnp.where(is_shared, jnp.argmax(is_shared, axis=1)[:, None].astype(jnp.int32), index)
