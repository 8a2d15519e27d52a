"""The network of learned unmasking: a score for every position, of the confidences alone.

Contents: COMMITTED, OPEN, WAITING, Scorer.

One block of the transformer reads, of every position of an answer, whether it is committed, open
(masked, and in the blocks being decoded) or waiting (masked, in a later block), and of open ones
the model's confidence; the block is modulated by time, and the weight of speed is added at every
position. Neither prompt nor tokens are seen, so a policy can be moved to another model, task or
length.

Reference: arXiv:2512.09106. As published: the features, one block of width 128 with two heads,
rotary positions, modulation by time, a last bias of -2. Not as published: the kind of a position is
an embedding and no modulation, gates begin at 0, the confidence has a second feature, and the
weight of speed is an input.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import transformer

COMMITTED, OPEN, WAITING = 0, 1, 2  # kinds of positions
_LEAST_DOUBT = 1e-4  # added to 1 - confidence, whose logarithm is a feature
_FIRST_BIAS = -2.0  # of scores: a position is at first written with probability 0.12
_LONGEST = 2 ** 20  # rows; there is no table of positions
_HIDDEN = 32  # of the map of the weight of speed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """Hyper-parameters of the network.

  Attributes:
    width: of the block.
    num_heads: heads of attention; divides `width`.
  """
  width: int = 128
  num_heads: int = 2

  @functools.cached_property
  def network(self) -> types.Network:
    """The block and the embedding of the kinds."""
    return transformer.Transformer(
        num_layers=1, width=self.width, num_heads=self.num_heads, mlp="gelu",
        mlp_width=4 * self.width, norm="layer", use_bias=True, time_conditioning=True,
        vocab_size=3, vocab_multiple=1, head="none", max_length=_LONGEST, scan_layers=False,
        init_std=0.5).network()

  def part(self) -> types.Part:
    """The parameters, the same on every device."""
    alpha = heads.mlp_part(1, _HIDDEN, self.width)

    def init(key):
      block, confidence, speed, out = jax.random.split(key, 4)
      normal = lambda key, *shape: jax.random.normal(key, shape) / math.sqrt(shape[0])
      return {"block": self.network.init(block),
              "confidence": {"kernel": normal(confidence, 2, self.width)},
              "alpha": alpha.init(speed),
              "out": {"kernel": 0.1 * normal(out, self.width, 1),
                      "bias": jnp.full(1, _FIRST_BIAS, jnp.float32)}}

    return types.Part(init)

  def scores(self, params: types.PyTree, *, kind: jax.Array, confidence: jax.Array,
             is_seen: jax.Array, time: jax.Array, alpha: jax.Array) -> jax.Array:
    """Scores float32 [B, S]; those of positions that are not open mean nothing.

    Args:
      params: as `part` describes them.
      kind: int32 [B, S], one of COMMITTED, OPEN, WAITING.
      confidence: float32 [B, S]; read where a position is open.
      is_seen: bool [B, S], positions of the answer; the others are not attended to.
      time: float32 [B], steps taken over positions of the answer.
      alpha: float32 [B], weight of speed.
    """
    known = jnp.where(kind == OPEN, confidence, 0.0)
    doubt = -jnp.log(jnp.maximum(1.0 - known, 0.0) + _LEAST_DOUBT) / -math.log(_LEAST_DOUBT)
    features = jnp.stack([known, doubt], axis=-1)
    speed = heads.mlp(params["alpha"], jnp.log1p(alpha)[:, None])
    added = features @ params["confidence"]["kernel"] + speed[:, None]
    hidden = self.network.encode(
        params["block"], types.Inputs(kind, segment_ids=is_seen.astype(jnp.int32), added=added),
        attention=attention_lib.Full(), time=time).last
    return heads.affine(params["out"], hidden.astype(jnp.float32))[..., 0]
