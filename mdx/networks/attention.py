"""Attention visibility as a value, the attention product, and its memory.

Contents: SAVED, Attention, Full, Causal, BlockCausal, TwoStream, Prefix, Local, PerLayer, Groups,
ATTENTIONS, Narrowed, narrowed, Coordinates, Sight, sight, visible, saved, attend, at_slots, write.

Convention: a query sees a key where the value allows it AND both lie in the
same segment (`segment_ids`, 0 is padding). A value says what it allows as a function of the
positions of query and key, from which a mask is made, or which a kernel computes tile by tile.
Masks are boolean, True = visible, and broadcast to [B, heads, queries, keys]. A slot is the
index of a position in its row; a cache holds the keys and values of all slots, [layers, B, S, K, H]
each, and `slots` [B, W] says which of them a call computes anew (S: none).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Mapping, NamedTuple

import jax
from jax import ad_checkpoint
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads as heads_lib
from mdx.networks import noise as noise_lib

SAVED = "attention"  # name of what some rematerialisation policies keep of attention


def saved(x: jax.Array) -> jax.Array:
  """Names an array as one that rematerialisation policies keep of attention."""
  return ad_checkpoint.checkpoint_name(x, SAVED)


class Coordinates(NamedTuple):
  """Coordinates of positions: integer arrays that broadcast against each other.

  Attributes:
    index: of the position in its row.
    position: number of the position in its document.
  """
  index: Any
  position: Any


class Attention:
  """Base of the attention values.

  Attributes:
    streams: copies of the text that a row holds, one behind the other.
    period: None if only the order of positions matters; otherwise documents must begin at
      multiples of it (0: at the first position) for `index` to serve as `position`.
  """
  streams: ClassVar[int] = 1
  period: ClassVar[int | None] = None

  def sees(self, query: Coordinates, key: Coordinates, size: int) -> Any:
    """Returns whether queries see keys in rows of `size` positions; bool, or None: all."""
    raise TypeError("an attention value defines sees")

  def bias(self, query: Coordinates, key: Coordinates) -> Any:
    """Returns what is added to the scores of all heads, float32; None: nothing."""
    del query, key

  def of_layers(self, num_layers: int) -> tuple[Attention, ...]:
    """The value of every layer."""
    return (self,) * num_layers


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Full(Attention):
  """Visibility of every position from every position (MLM, masked diffusion)."""

  def sees(self, query, key, size):
    """Visibility of everything."""
    del query, key, size


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Causal(Attention):
  """A position sees itself and what stands before it."""

  def sees(self, query, key, size):
    """Visibility by index."""
    del size
    return key.index <= query.index


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BlockCausal(Attention):
  """A position sees its own block and the blocks before it.

  Blocks are counted by `positions`, so they begin anew with every document.

  Attributes:
    block_length: positions of a block.

  Reference: Arriola et al. 2025, arXiv:2503.09573.
  """
  block_length: int

  def __post_init__(self):
    config_lib.check(self, "attention", at_least=dict(block_length=1))

  @property
  def period(self):
    """A whole number of blocks."""
    return self.block_length

  def sees(self, query, key, size):
    """Visibility by block."""
    del size
    return key.position // self.block_length <= query.position // self.block_length


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TwoStream(BlockCausal):
  """Rows [noisy | clean] of one text twice: a noisy block sees itself and the clean ones before.

  The clean half sees nothing noisy. One pass so gives the states of every noisy block as if the
  text before it were a clean prefix.

  Attributes:
    clean: "block", the clean half is block-causal; or "token", it is causal.

  Reference: Arriola et al. 2025, arXiv:2503.09573.
  """
  clean: str = "block"
  streams: ClassVar[int] = 2

  def sees(self, query, key, size):
    """Visibility by half and block."""
    return self.sees_blocks_of(self.block_length, query, key, size)

  def sees_blocks_of(self, block_length, query, key, size):
    """Visibility with blocks of another length, traced or not."""
    from_clean, to_clean = query.index >= size // 2, key.index >= size // 2
    own, other = query.position // block_length, key.position // block_length
    same = other == own
    within = same & (key.index <= query.index) if self.clean == "token" else same
    return ((to_clean & ((other < own) | (from_clean & within)))
            | (~from_clean & ~to_clean & same))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Prefix(Attention):
  """The first `length` positions of a document see each other; the rest is causal.

  Attributes:
    length: positions of the prefix.

  Reference: Raffel et al. 2019, arXiv:1910.10683.
  """
  length: int
  period: ClassVar[int | None] = 0

  def __post_init__(self):
    config_lib.check(self, "attention", at_least=dict(length=0))

  def sees(self, query, key, size):
    """Visibility by index, or by position for keys of the prefix."""
    del size
    return (key.index <= query.index) | (key.position < self.length)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Local(Attention):
  """A position sees those at most `radius` away, on both sides.

  Attributes:
    radius: the distance.

  Reference: Beltagy et al. 2020, arXiv:2004.05150.
  """
  radius: int

  def __post_init__(self):
    config_lib.check(self, "attention", at_least=dict(radius=0))

  def sees(self, query, key, size):
    """Visibility by distance."""
    del size
    return ((key.index - query.index) <= self.radius) & ((query.index - key.index) <= self.radius)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PerLayer(Attention):
  """Layer i has the i-th of some values, which are repeated over the layers.

  Attributes:
    layers: values, or their configs (`name` and fields).

  Reference: Warner et al. 2024, arXiv:2412.13663 (global attention in every third layer).
  """
  layers: tuple[Any, ...]

  def __post_init__(self):
    values = tuple(
        config_lib.build(_ONE, value, what="attention") if isinstance(value, Mapping) else value
        for value in self.layers)
    if not values or not all(isinstance(value, tuple(_ONE.values())) for value in values):
      raise ValueError("attention layers must be a sequence of attentions, dict(name=..., ...) "
                       f"each, got {self.layers!r}.")
    object.__setattr__(self, "layers", values)

  def of_layers(self, num_layers):
    """The values, repeated."""
    if num_layers % len(self.layers):
      raise ValueError(f"the {len(self.layers)} attentions of per_layer do not divide the "
                       f"{num_layers} layers of the network; use a divisor.")
    return self.layers * (num_layers // len(self.layers))


_ONE = {"full": Full, "causal": Causal, "block_causal": BlockCausal, "prefix": Prefix,
        "local": Local}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Groups(Attention):
  """Groups of neighbouring layers, each causal or full.

  Attributes:
    code: a digit a group from the bottom to the top: 0 is causal, 1 is full.

  Reference: Dukić & Šnajder 2024, arXiv:2401.14556 (decoders for sequence labelling).
  """
  code: str

  def __post_init__(self):
    if not self.code or set(self.code) - {"0", "1"}:
      raise ValueError(f"attention code is {self.code!r}; expected a digit 0 (causal) or 1 (full) "
                       "for each group of layers.")

  def of_layers(self, num_layers):
    """The value of each group, as often as it has layers."""
    if num_layers % len(self.code):
      raise ValueError(f"the {len(self.code)} groups of attention code {self.code!r} do not divide "
                       f"the {num_layers} layers of the network; use a divisor.")
    size = num_layers // len(self.code)
    return tuple((Causal(), Full())[int(digit)] for digit in self.code for _ in range(size))


ATTENTIONS = _ONE | {"per_layer": PerLayer, "groups": Groups}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Narrowed(Attention):
  """Visibility by another value, at most `radius` positions away.

  Attributes:
    inner: the other value.
    radius: the distance.
  """
  inner: Any
  radius: int = dataclasses.field(metadata=dict(static=True))

  @property
  def streams(self):
    """Streams of the inner value."""
    return self.inner.streams

  @property
  def period(self):
    """Period of the inner value."""
    return self.inner.period

  def sees(self, query, key, size):
    """Visibility by distance within a stream."""
    where = (lambda x: x.index) if self.streams == 1 else (lambda x: x.position)
    apart = where(key) - where(query)
    near = (apart <= self.radius) & (-apart <= self.radius)
    rule = self.inner.sees(query, key, size)
    return near if rule is None else near & rule


def narrowed(layers: tuple[Any, ...], radius: int, global_every: int, global_first: int = 0
             ) -> tuple[Any, ...]:
  """The values of layers, narrowed to a radius (0: none).

  Every `global_every`th layer and the first `global_first` ones are as they are.
  """
  is_global = lambda i: not radius or i < global_first or (
      global_every and i % global_every == 0)
  return tuple(value if is_global(i) else Narrowed(value, radius) for i, value in enumerate(layers))


class Sight(NamedTuple):
  """Visibility in the layers of a network, given to all of them.

  Attributes:
    values: the different values among the layers.
    masks: the mask of each, or () for a kernel that computes its own.
    positions: int32 [B or 1, S].
    segment_ids: int32 [B, S], or None.
    biases: float32 [B or 1, 1, W, S] that each adds to the scores, or None; () as of `masks`.
  """
  values: tuple[Any, ...]
  masks: tuple[jax.Array | None, ...]
  positions: jax.Array
  segment_ids: jax.Array | None
  biases: tuple[jax.Array | None, ...] = ()


def sight(layers: tuple[Any, ...], positions: jax.Array, segment_ids: jax.Array | None,
          slots: jax.Array | None, *, with_masks: bool) -> tuple[Sight, jax.Array | None]:
  """Visibility in layers, and the number of the value of each, int32 [layers] (None: all one)."""
  values = tuple(dict.fromkeys(layers))
  masks = tuple(visible(value, positions, segment_ids, slots) for value in values if with_masks)
  found = [value.bias(*_coordinates(positions, slots)) for value in values if with_masks]
  biases = tuple(None if bias is None else bias[:, None] for bias in found)
  which = None if len(values) == 1 else jnp.array([values.index(v) for v in layers], jnp.int32)
  return Sight(values, masks, positions, segment_ids, biases), which


def _coordinates(positions: jax.Array, slots: jax.Array | None) -> tuple[Coordinates, Coordinates]:
  index = jnp.arange(positions.shape[1])[None]
  return (Coordinates(*(at_slots(x, slots)[..., None] for x in (index, positions))),
          Coordinates(index[:, None], positions[:, None]))


def at_slots(values: jax.Array, slots: jax.Array | None) -> jax.Array:
  """Values [B or 1, S] at slots [B, W]; all of them where `slots` is None."""
  if slots is None:
    return values
  values = jnp.broadcast_to(values, slots.shape[:1] + values.shape[1:])
  return jnp.take_along_axis(values, slots, axis=1, mode="clip")


def write(memory: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
  """Puts new [B, W, K, H] at slots [B, W] of memory [B, S, K, H]; slot S is dropped."""
  return memory.at[jnp.arange(len(slots))[:, None], slots].set(new, mode="drop")


def visible(attention, positions: jax.Array, segment_ids: jax.Array | None,
            slots: jax.Array | None = None) -> jax.Array | None:
  """Builds the mask, bool [B or 1, 1, W, S]; None if everything is visible.

  Args:
    attention: a value of this module.
    positions: int32 [B or 1, S], of all slots.
    segment_ids: int32 [B, S] or None (one segment a row, no padding).
    slots: int32 [B, W], the queries; None = all S slots.
  """
  mask = attention.sees(*_coordinates(positions, slots), positions.shape[1])
  if segment_ids is not None:
    same = at_slots(segment_ids, slots)[:, :, None] == segment_ids[:, None, :]
    mask = same if mask is None else same & mask
  return None if mask is None else mask[:, None]


def attend_in_chunks(chunk: int, query: jax.Array, key: jax.Array, value: jax.Array,
                     mask: jax.Array | None, added: jax.Array | None = None, cap: float = 0.0
                     ) -> jax.Array:
  """`attend` with the scores of `chunk` queries at a time, forwards and backwards.

  The scores of a chunk are computed again in the backward pass, so that memory grows with the
  length and not with its square. Arguments as of `attend`.
  """
  length = query.shape[1]
  number = -(-length // chunk)

  def cut(x, axis):
    """[number, ..., chunk, ...]; queries that are filled up see nothing."""
    if x is None or x.shape[axis] == 1:
      return None
    x = jnp.pad(x, [(0, number * chunk - length if i == axis else 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], number, chunk, *x.shape[axis + 1:]), axis, 0)

  @jax.checkpoint
  def one(parts):
    query, own_mask, own_added = parts
    return attend(query, key, value, mask if own_mask is None else own_mask, added=own_added,
                  cap=cap)

  mixed = jax.lax.map(one, (cut(query, 1), cut(mask, 2), cut(added, 2)))
  mixed = jnp.moveaxis(mixed, 0, 1)
  return mixed.reshape(mixed.shape[0], -1, *mixed.shape[3:])[:, :length]


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None,
           noise: types.Noise | None = None, dropout: float = 0.0,
           added: jax.Array | None = None, keep: bool = False, cap: float = 0.0) -> Any:
  """Scaled dot-product attention with float32 softmax.

  Args:
    query: [B, L, N, H].
    key: [B, S, K, H]; K divides N (grouped queries).
    value: [B, S, K, H].
    mask: bool, broadcastable to [B, N, L, S], or None.
    noise: of the layer; None = no dropout.
    dropout: share of the probabilities that is dropped.
    added: float32 [B, N, L, S], added to the scores.
    keep: whether the probabilities are wanted too, float32 [B, N, L, S].
    cap: soft cap of the scaled products, see `heads.soft_capped`; 0 = none.

  Returns:
    [B, L, N, H] in the dtype of `query`, and the probabilities with `keep`. A row that sees nothing
    averages all values: mask such positions in the loss.
  """
  batch, length, heads, width = query.shape
  keys, groups = key.shape[1], heads // key.shape[2]
  # Heads before positions, so that both products are plain batched matmuls.
  query = (query * width ** -0.5).reshape(batch, length, -1, groups, width)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, -1, groups * length, width)
  key, value = (x.transpose(0, 2, 1, 3) for x in (key, value))
  scores = jnp.einsum("bklh,bksh->bkls", query, key, preferred_element_type=jnp.float32)
  scores = heads_lib.soft_capped(scores, cap)
  if added is not None:
    scores = scores + added.reshape(scores.shape)
  if mask is not None:
    split = scores.reshape(batch, -1, groups, length, keys)
    mask = mask.reshape(mask.shape[:1] + (-1, groups if mask.shape[1] > 1 else 1) + mask.shape[2:])
    scores = jnp.where(mask, split, heads_lib.NEVER).reshape(scores.shape)
  probs = jax.nn.softmax(scores, axis=-1)
  weights = noise_lib.dropout(probs.astype(value.dtype), noise, dropout, "probabilities")
  mixed = jnp.einsum("bkls,bksh->bklh", weights, value)
  mixed = mixed.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)
  return (mixed, probs.reshape(batch, heads, length, keys)) if keep else mixed
