"""Attention values of rows that have more than text, or hide some of it.

Contents: Placeholders, Phased, Crossed, Unmasking, Recalibrated, TEXT, SPECIAL, SUFFIX, Bottleneck.

Convention: as `mdx.networks.attention`.

References: Xiao et al. 2021, arXiv:2010.12148 (placeholders of masked n-grams); He et al. 2020,
arXiv:2006.03654 (queries apart from keys, the enhanced mask decoder); Liang et al. 2024,
arXiv:2401.15861 (gradual unmasking); Zhang et al. 2025, arXiv:2506.04344 (a bottleneck of special
tokens); masked token optimisation, arXiv:2404.08330.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx.networks import attention as attention_lib
from mdx.networks import heads


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Placeholders(attention_lib.Attention):
  """The first `length` positions see each other; a later one sees these and itself.

  Attributes:
    length: positions of the text.
  """
  length: int
  streams: ClassVar[int] = 2

  def sees(self, query, key, size):
    """Visibility by index."""
    del size
    return (key.index < self.length) | (key.index == query.index)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Phased(attention_lib.Attention):
  """Two streams whose blocks have a length that changes from step to step, in one program.

  Attributes:
    inner: the value whose blocks they are.
    block_length: int32 [].

  Reference: Bie et al. 2025, arXiv:2512.15745 (LLaDA2.0: blocks that grow, and shrink again).
  """
  inner: attention_lib.TwoStream = dataclasses.field(metadata=dict(static=True))
  block_length: jax.Array
  streams: ClassVar[int] = 2

  def sees(self, query, key, size):
    """Visibility by half and block."""
    return self.inner.sees_blocks_of(self.block_length, query, key, size)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Crossed(attention_lib.Attention):
  """Rows [queries | keys]: every position sees the second half, and nothing of the first."""
  streams: ClassVar[int] = 2

  def sees(self, query, key, size):
    """Visibility by half."""
    del query
    return key.index >= size // 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Hidden(attention_lib.Attention):
  """Hidden positions, bool [B, L], are seen by themselves only."""
  is_hidden: jax.Array

  def sees(self, query, key, size):
    """Visibility by position."""
    del size
    return ~self.is_hidden[:, None] | (key.index == query.index)


@dataclasses.dataclass(frozen=True, eq=False)
class Unmasking(attention_lib.Attention):
  """Visibility with some masked positions hidden from all others in the first layer.

  From the second layer on nothing is hidden. A position that is not masked is always seen.

  Attributes:
    is_hidden: bool [B, L].
  """
  is_hidden: jax.Array

  def of_layers(self, num_layers):
    """Hidden positions in the first layer."""
    return (_Hidden(self.is_hidden),) + (attention_lib.Full(),) * (num_layers - 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Weighted(attention_lib.Attention):
  """Visible queries weigh masked keys by a factor, and are normalised again."""
  is_masked: jax.Array
  weight: float = dataclasses.field(metadata=dict(static=True))

  def sees(self, query, key, size):
    """Visibility of everything; `bias` hides."""
    del query, key, size

  def bias(self, query, key):
    """The logarithm of the factor, float32 [B, W, L]."""
    del key
    index = jnp.broadcast_to(query.index[..., 0], (len(self.is_masked), query.index.shape[1]))
    is_query_masked = jnp.take_along_axis(self.is_masked, index, axis=1, mode="clip")
    log = math.log(self.weight) if self.weight else heads.NEVER
    return jnp.where(~is_query_masked[:, :, None] & self.is_masked[:, None], log, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Recalibrated(attention_lib.Attention):
  """Full visibility in which visible queries give masked keys less weight in the lower layers.

  In layer l of n the probabilities are multiplied by min(l / (reach n), 1) and normalised again:
  masked tokens, which carry no content yet, are left out of the first layer altogether. It is a
  reconstruction of the recalibration of masked token optimisation, arXiv:2404.08330, whose formulas
  are not public.

  Attributes:
    is_masked: bool [B, L].
    reach: share of the layers after which the weight is 1.
  """
  is_masked: jax.Array
  reach: float = 0.5

  def of_layers(self, num_layers):
    """The weight of each layer."""
    weights = [min(layer / (self.reach * num_layers), 1.0) for layer in range(num_layers)]
    return tuple(attention_lib.Full() if weight == 1 else _Weighted(self.is_masked, weight)
                 for weight in weights)


TEXT, SPECIAL, SUFFIX = 0, 1, 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bottleneck(attention_lib.Attention):
  """Causal visibility in which a suffix reads the text before it through special tokens alone.

  Special tokens see the text and themselves, and not one another.

  Attributes:
    roles: int32 [B, L], TEXT, SPECIAL or SUFFIX of each position; rows of TEXT alone are causal.
  """
  roles: jax.Array

  def sees(self, query, key, size):
    """Visibility by role and index."""
    del size
    own, other = self.roles[:, :, None], self.roles[:, None]
    is_apart = (own == SUFFIX) & (other == TEXT) | (
        (own == SPECIAL) & (other == SPECIAL) & (query.index != key.index))
    return (key.index <= query.index) & ~is_apart
