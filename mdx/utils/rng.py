"""Keys derived from (seed, name, step, example), never stored or mutated.

Contents: root, stream, per_example.

Convention: a key is consumed once. Everything random is a function of the
seed, the name of its use, the step and the global example index, so it does
not depend on the device count, the microbatch split or the restart point.
"""

from __future__ import annotations

import zlib

import jax


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
