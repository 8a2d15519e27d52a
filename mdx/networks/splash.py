"""The splash attention kernel of TPUs, with the attention values of mdx as its masks.

Contents: splash.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp
import numpy as np

from mdx.networks import attention as attention_lib

_LANES = 128  # of a TPU's vector unit


_Computable = splash_attention.splash_attention_mask._ComputableMask  # pylint: disable=protected-access


class _Mask(_Computable):
  """The mask of an attention value, which the kernel computes where it needs it."""

  def __init__(self, attention: Any, size: int):
    self.attention = attention

    def seen(query, key):
      half = size // attention.streams
      at = lambda index: attention_lib.Coordinates(
          index, index if attention.streams == 1 else index - half * (index >= half))
      return attention.sees(at(query), at(key), size)

    super().__init__((size, size), seen)

  def __eq__(self, other):
    return isinstance(other, _Mask) and (self.attention, self.shape) == (
        other.attention, other.shape)

  def __hash__(self):
    return hash((_Mask, self.attention, self.shape))


def splash(query: jax.Array, key: jax.Array, value: jax.Array, attention: Any,
           positions: jax.Array, segment_ids: jax.Array, *, cap: float = 0.0,
           interpret: bool = False) -> jax.Array:
  """The splash kernel of TPUs.

  The kernel's masks are functions of the index alone. If `attention` counts by position, a row
  whose documents do not begin at multiples of its period comes out as NaN, never wrongly masked.

  Args:
    query: [B, L, N, H]; L is a multiple of 128.
    key: [B, L, K, H].
    value: [B, L, K, H].
    attention: a value of `networks.attention`, not `PerLayer`.
    positions: int32 [B or 1, L].
    segment_ids: int32 [B, L].
    cap: soft cap of the scaled products, see `heads.soft_capped`; 0 = none.
    interpret: emulate the kernel on any machine (slow; for tests).

  Raises:
    ValueError: a length that the kernel does not take.
  """
  batch, size, heads, width = query.shape
  kv_heads = key.shape[2]
  if size % _LANES:
    raise ValueError(f"network.attention_backend splash needs rows of a multiple of {_LANES} "
                     f"positions, got {size}; change data.length, or use xla.")
  masks, kernels = splash_attention.splash_attention_mask, splash_attention.splash_attention_kernel
  mask = (masks.FullMask((size, size)) if isinstance(attention, attention_lib.Full)
          else _Mask(attention, size))
  tile = next(tile for tile in (512, 384, 256, 128) if size % tile == 0)
  sizes = kernels.BlockSizes(
      block_q=tile, block_kv=tile, block_kv_compute=tile, block_q_dkv=tile, block_kv_dkv=tile,
      block_kv_dkv_compute=tile, block_q_dq=tile, block_kv_dq=tile)
  kernel = kernels.make_splash_mqa(
      masks.MultiHeadMask([mask] * (heads // kv_heads)), block_sizes=sizes, head_shards=1,
      q_seq_shards=1, attn_logits_soft_cap=cap or None,
      residual_checkpoint_name=attention_lib.SAVED, interpret=interpret)
  query = (query * width ** -0.5).reshape(batch, size, kv_heads, -1, width)
  segments = kernels.SegmentIds(segment_ids, segment_ids)
  groups = jax.vmap(kernel, in_axes=(0, 0, 0, None))  # over key-value heads
  query, key, value = map(attention_lib.saved, (
      query.transpose(0, 2, 3, 1, 4), key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)))
  mixed = jax.vmap(groups)(query, key, value, segments)
  mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, size, heads, width)
  return mixed if attention.period is None else jnp.where(
      _is_aligned(attention, positions, segment_ids)[:, None, None, None], mixed, jnp.nan)


def _is_aligned(attention, positions, segment_ids):
  """Returns whether the documents of each row stand where the kernel takes them to be, bool [B]."""
  size = positions.shape[1]
  index = np.arange(size) % (size // attention.streams)
  shift = jnp.asarray(index)[None] - positions
  fits = shift == 0 if attention.period == 0 else shift % attention.period == 0
  return jnp.all(fits | (segment_ids == 0), axis=1)
