"""Selection of the positions to corrupt: by themselves, or unit by unit.

Contents: bernoulli, exact_count, lowest, spans, window, geometric, heads, allowed_positions,
text_positions.

Convention: uniforms are drawn per example from keys [B], so a row's mask is
the same in any batch; `allowed` is False on prompt and padding. `units` int32 [B, L] are those of
`mdx.corruption.unit`, whose positions are selected together; None: each position by itself.

Reference: Joshi et al. 2020, arXiv:1907.10529 (spans of geometric length).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def allowed_positions(batch: dict[str, jax.Array]) -> jax.Array:
  """Positions that count in the loss, bool [B, L]: `loss_mask`, or all."""
  return batch["loss_mask"] if "loss_mask" in batch else jnp.ones(batch["tokens"].shape, bool)


def text_positions(batch: dict[str, jax.Array]) -> jax.Array:
  """Positions that are no padding, bool [B, L]: special tokens and prompts included."""
  return batch["segment_ids"] > 0 if "segment_ids" in batch else allowed_positions(batch)


def heads(allowed: jax.Array, units: jax.Array | None) -> jax.Array:
  """First positions of the allowed units, bool [B, L]; their number is that of the units."""
  return allowed if units is None else allowed & (units == jnp.arange(units.shape[1])[None])


def _uniforms(keys: jax.Array, length: int) -> jax.Array:
  return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(keys)


def bernoulli(keys: jax.Array, rate: jax.Array | float, allowed: jax.Array,
              units: jax.Array | None = None, nth: int = 0) -> jax.Array:
  """Selects each allowed unit independently.

  Args:
    keys: typed PRNG keys [B], consumed.
    rate: float32, broadcastable to [B, L], in [0, 1].
    allowed: bool [B, L].
    units: int32 [B, L] or None.
    nth: of disjoint selections from the same keys; (nth + 1) * rate <= 1.

  Returns:
    bool [B, L].
  """
  draws = _uniforms(keys, allowed.shape[1])
  if units is not None:
    draws = jnp.take_along_axis(draws, units, axis=1)
  if nth:
    allowed = allowed & (draws >= nth * rate)
    rate = (nth + 1) * rate
  return (draws < rate) & allowed


def exact_count(keys: jax.Array, count: jax.Array, allowed: jax.Array,
                units: jax.Array | None = None, nth: int = 0) -> jax.Array:
  """Selects exactly `count` of a row's allowed units, uniformly.

  Args:
    keys: typed PRNG keys [B], consumed.
    count: int32 [B]; rows with fewer allowed units select all of them.
    allowed: bool [B, L].
    units: int32 [B, L] or None.
    nth: of disjoint selections from the same keys; the last ones may find fewer units left.

  Returns:
    bool [B, L].
  """
  return lowest(_uniforms(keys, allowed.shape[1]), count, allowed, units, nth)


def lowest(draws: jax.Array, count: jax.Array, allowed: jax.Array,
           units: jax.Array | None = None, nth: int = 0) -> jax.Array:
  """Selects units like `exact_count`: those with the lowest uniforms [B, L] at their first."""
  candidates = heads(allowed, units)
  noise = jnp.where(candidates, draws, 2.0)
  order = jnp.argsort(noise, axis=1)
  rank = jnp.argsort(order, axis=1)  # ties broken by position: always distinct
  if nth:
    rank = jnp.where(rank < nth * count[:, None], allowed.shape[1], rank - nth * count[:, None])
  selected = (rank < count[:, None]) & candidates
  return selected if units is None else jnp.take_along_axis(selected, units, axis=1) & allowed


def geometric(rate: float, longest: int) -> np.ndarray:
  """Probabilities of the lengths 1 .. longest: rate (1 - rate)^(length - 1), normalised."""
  probs = rate * (1 - rate) ** np.arange(longest, dtype=np.float64)
  return probs / probs.sum()


def spans(keys: jax.Array, count: jax.Array, allowed: jax.Array, units: jax.Array | None,
          probs: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """Selects exactly `count` units of each row, in spans of random lengths.

  Lengths are independent draws until they sum to `count`, the last one cut to fit. The units that
  are left are cut into gaps in the same way, `count` by `count`, and all orders of spans and gaps
  are equally likely. Every position is then as likely, exactly so if `count` divides the number of
  units. (If all arrangements of whole spans among single units were equally likely, a position at
  an edge would be selected only where a span begins, half as often.)

  Args:
    keys: typed PRNG keys [B], consumed.
    count: int32 [B]; rows with fewer allowed units select all of them.
    allowed: bool [B, L].
    units: int32 [B, L], what lengths are counted in; or None.
    probs: [longest], probabilities of the lengths 1 .. longest.

  Returns:
    selected: bool [B, L].
    begins: bool [B, L]; True on the first position of every span, and where nothing is selected.
  """
  length = allowed.shape[1]
  longest = np.cumsum(probs)[:-1].astype(np.float32)

  def row(key, count, allowed, candidates):
    length_key, order_key = jax.random.split(key)
    draws = jax.random.uniform(length_key, (length + 1,))
    lengths = 1 + jnp.searchsorted(jnp.asarray(longest), draws, side="right").astype(jnp.int32)
    num_units = candidates.sum()
    count = jnp.minimum(count, num_units)
    # The units in a line, in pieces: the next one begins where this ends, or a multiple of `count`.
    unit, size = jnp.arange(length + 1), jnp.maximum(count, 1)
    following = jnp.minimum(jnp.minimum(unit + lengths, (unit // size + 1) * size), length)
    begins = unit == 0
    for _ in range(length.bit_length()):
      begins |= jnp.zeros_like(begins).at[following].max(begins)
      following = following[following]
    begins &= unit < num_units
    piece = jnp.cumsum(begins) - 1
    sizes = jax.ops.segment_sum((unit < num_units).astype(jnp.int32), piece, length)
    num_spans = (begins & (unit < count)).sum()  # the first pieces; gaps are the others
    order = jnp.argsort(jnp.where(sizes > 0, jax.random.uniform(order_key, (length,)), 2.0))
    # Number of the allowed unit that a position belongs to, and the piece that is put there.
    number = jnp.cumsum(candidates) - 1
    span_rank = jnp.searchsorted(jnp.cumsum(sizes[order]), number, side="right")
    span_rank = jnp.minimum(span_rank, length - 1)
    selected = allowed & (order[span_rank] < num_spans)
    same = jnp.pad(selected[:-1] & (span_rank[1:] == span_rank[:-1]), (1, 0))
    return selected, ~(selected & same)

  return jax.vmap(row)(keys, count, allowed, heads(allowed, units))


def window(keys: jax.Array, sizes: jax.Array, length: int, least: int = 0) -> jax.Array:
  """Selects the positions that a random window touches, bool [B, L].

  Every window of `length` units within the row is as likely.

  Args:
    keys: typed PRNG keys [B], consumed.
    sizes: [B, L], units (characters, or 1) of each position; 0: it is never selected.
    length: units of the window.
    least: rows of fewer units have none selected, nor have those shorter than the window.
  """
  sizes = sizes.astype(jnp.int32)
  ends = jnp.cumsum(sizes, axis=1)
  total = ends[:, -1:]
  draws = jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys)
  first = jnp.minimum((draws * (total - length + 1)).astype(jnp.int32), total - length)
  touched = (sizes > 0) & (ends > first) & (ends - sizes < first + length)
  return touched & (total >= max(least, length))
