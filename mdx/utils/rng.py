"""Keys derived from (seed, name, step, example), never stored or mutated.

Contents: root, stream, per_example, content_index.

Convention: a key is consumed once. Everything random is a function of the
seed, the name of its use, the step and the global example index, so it does
not depend on the device count, the microbatch split or the restart point.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def root(seed: int) -> jax.Array:
  """Returns the typed root key of a run."""
  return jax.random.key(seed)


def stream(key: jax.Array, name: str, step: jax.Array | int | None = None) -> jax.Array:
  """Returns the key of a named use, and of one step of it.

  Args:
    key: typed PRNG key; may serve many streams (it is only folded).
    name: name of the use, hashed by CRC-32 (the same in every process).
    step: optional int32 scalar, folded in after the name.
  """
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return key if step is None else jax.random.fold_in(key, step)


def per_example(key: jax.Array, example_index: jax.Array) -> jax.Array:
  """Returns one key for each example: keys [B] from indices int32 [B]."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_index)


def content_index(tokens: jax.Array) -> jax.Array:
  """A hash of each row, uint32 [B], to tell rows of tokens int32 [B, L] by what they hold.

  A polynomial in an odd number modulo 2^32; equal rows of one length have equal hashes.
  """
  powers = jnp.cumprod(jnp.full(tokens.shape[1], 0x9E3779B1, jnp.uint32))
  mixed = (tokens.astype(jnp.uint32) + 1) * jnp.uint32(0x85EBCA77)
  mixed = (mixed ^ (mixed >> 15)) * powers[None]
  return (mixed ^ (mixed >> 13)).sum(axis=1, dtype=jnp.uint32)
