"""Patches of images into the first block of a network.

Contents: Patches.

Convention: a patch is embedded by one matrix, and every position of the grid has a learned
embedding, so that positions in two dimensions need no rule; the network has `position` none.

Reference: Dosovitskiy et al. 2020, arXiv:2010.11929.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks import heads

_POSITION_STD = 0.5  # of embeddings; those of patches of unit variance have about 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches(types.Frontend):
  """Embeddings of patches, and of their positions.

  Attributes:
    width: D of the network.
    channels: values of a patch.
    num_patches: positions of an image.
  """
  width: int
  channels: int
  num_patches: int

  def part(self):
    """kernel [C, D], bias [D] and position [P, D]."""
    def init(key):
      first, second = jax.random.split(key)
      position = jax.random.normal(second, (self.num_patches, self.width), jnp.float32)
      return heads.linear_init(first, self.channels, self.width) | {
          "position": _POSITION_STD * position}

    return types.Part(init, is_served=True, is_fresh=False)

  def content(self, params: types.PyTree, batch: types.Batch) -> jax.Array:
    """Embeddings of the patches alone, [B, P, D]."""
    return heads.affine(params, batch["patches"])

  def placed(self, params: types.PyTree, content: jax.Array) -> jax.Array:
    """States [B, P, D] for the first block, of contents [B, P, D]."""
    return content + params["position"][None, :content.shape[1]].astype(content.dtype)

  def embed(self, params, batch):
    """Inputs of rows with `patches` [B, P, C]."""
    return types.Inputs(None, batch.get("positions"), batch.get("segment_ids"),
                        states=self.placed(params, self.content(params, batch)))
