"""Attention values of rows that have more than text, or hide some of it.

Contents: Placeholders, Crossed, Unmasking, TEXT, SPECIAL, SUFFIX, Bottleneck.

Convention: as `mdx.networks.attention`.

References: Xiao et al. 2021, arXiv:2010.12148 (placeholders of masked n-grams); He et al. 2020,
arXiv:2006.03654 (queries apart from keys, the enhanced mask decoder); Liang et al. 2024,
arXiv:2401.15861 (gradual unmasking); Zhang et al. 2025, arXiv:2506.04344 (a bottleneck of special
tokens).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from mdx.networks import attention as attention_lib


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
