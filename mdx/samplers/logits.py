"""Proposed tokens and their confidence, from logits.

Contents: CONFIDENCES, position_keys, uniforms, gumbels, draw, keep_likely, confidence, entropy.

Convention: logits are float32 [B, W, V]; others are refused. The key of a draw
depends on (seed, row, step, position), so it is the same whatever the batch,
the padding and the positions that are looked at together. Noise has a high
dynamic range: with float32's default uniforms a token of probability below
about 1e-6 is drawn too seldom, which acts like a temperature below 1 (Zheng
et al. 2024, arXiv:2409.02908).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx.networks import heads

CONFIDENCES = ("probability", "margin", "entropy", "random")


def position_keys(keys: jax.Array, positions: jax.Array) -> jax.Array:
  """Keys [B, W] of positions int32 [B, W], from row keys [B]."""
  return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(keys, positions)


def uniforms(keys: jax.Array, positions: jax.Array) -> jax.Array:
  """One uniform of each position, float32 [B, W]."""
  return jax.vmap(jax.vmap(jax.random.uniform))(position_keys(keys, positions))


def gumbels(keys: jax.Array, positions: jax.Array) -> jax.Array:
  """Standard Gumbel noise of each position, float32 [B, W]."""
  one = lambda key: jax.random.gumbel(key, mode="high")
  return jax.vmap(jax.vmap(one))(position_keys(keys, positions))


def draw(keys: jax.Array, positions: jax.Array, logits: jax.Array,
         is_greedy: bool = False) -> jax.Array:
  """Draws one token per position from softmax(logits).

  Args:
    keys: typed PRNG keys [B], consumed.
    positions: int32 [B, W].
    logits: float32 [B, W, V].
    is_greedy: takes the likeliest token instead.

  Returns:
    int32 [B, W].
  """
  heads.check_float32(logits)
  if is_greedy:
    return _first_best(logits)
  one = lambda key, row: jax.random.categorical(key, row, mode="high")
  return jax.vmap(jax.vmap(one))(position_keys(keys, positions), logits).astype(jnp.int32)


def _first_best(logits: jax.Array, chunk: int = 128) -> jax.Array:
  """argmax [..., W] of logits [..., W, V] by the maxima of chunks, then within the best chunk.

  XLA's CPU compiler vectorises a maximum, but not an argmax, which took ten times as long.
  """
  size = logits.shape[-1]
  num_whole = size // chunk
  best = logits[..., :num_whole * chunk].reshape(*logits.shape[:-1], num_whole, chunk).max(axis=-1)
  if size % chunk:
    rest = logits[..., num_whole * chunk:].max(axis=-1, keepdims=True)
    best = jnp.concatenate([best, rest], axis=-1)
  first = chunk * jnp.argmax(best, axis=-1, keepdims=True)
  offsets = jnp.expand_dims(jnp.arange(chunk), tuple(range(first.ndim - 1)))
  candidates = jnp.minimum(first + offsets, size - 1)
  within = jnp.argmax(jnp.take_along_axis(logits, candidates, axis=-1), axis=-1)
  return (first[..., 0] + within).astype(jnp.int32)


def keep_likely(logits: jax.Array, top_k: int = 0, top_p: jax.Array | float = 1.0) -> jax.Array:
  """Blocks all but the likeliest tokens.

  Args:
    logits: float32 [..., V].
    top_k: number of tokens kept, 0 = all; ties with the last are kept.
    top_p: the smallest set of tokens of this probability is kept, 1 = all.
  """
  heads.check_float32(logits)
  if top_k and top_k < logits.shape[-1]:
    logits = jnp.where(logits < jax.lax.top_k(logits, top_k)[0][..., -1:], heads.NEVER, logits)
  if isinstance(top_p, jax.Array) or top_p < 1:
    probs = jax.nn.softmax(logits, axis=-1)
    order = jnp.flip(jnp.sort(probs, axis=-1), axis=-1)
    needed = jnp.cumsum(order, axis=-1) - order < top_p
    least = jnp.min(jnp.where(needed, order, 2.0), axis=-1, keepdims=True)
    logits = jnp.where(probs < least, heads.NEVER, logits)
  return logits


def entropy(logits: jax.Array) -> jax.Array:
  """Entropy of softmax(logits) in nats, float32 [...]."""
  return heads.entropy(logits)


def confidence(kind: str, logits: jax.Array, tokens: jax.Array, keys: jax.Array,
               positions: jax.Array) -> jax.Array:
  """Confidence of the model in proposed tokens.

  Args:
    kind: "probability" of the token; "margin" between the two likeliest tokens;
      negative "entropy" in nats; or "random", a uniform.
    logits: float32 [B, W, V].
    tokens: int32 [B, W].
    keys: typed PRNG keys [B], consumed.
    positions: int32 [B, W].

  Returns:
    float32 [B, W].
  """
  heads.check_float32(logits)
  if kind == "random":
    return uniforms(keys, positions)
  if kind == "entropy":
    return -entropy(logits)
  if kind == "margin":
    best = jax.lax.top_k(logits, 2)[0]
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    likeliest = jnp.exp(best - total)
    return likeliest[..., 0] - likeliest[..., 1]
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return jnp.exp(picked - jax.nn.logsumexp(logits, axis=-1))
