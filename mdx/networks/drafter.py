"""A joint head: from the states of one network call to tokens that are drawn one after another.

Contents: Head.

Convention: h_0 are the states [B, S, D] that the frozen model's logits are read from. Each time a
token has been written, with x_k the canvas after k of them,

  h_k = h_{k-1} + RMSNorm(Block(W [RMSNorm(Emb(x_k)); RMSNorm(h_{k-1})])),  p_k = softmax(lm(h_k)),

where the block is one of the model's shape that sees all positions, and Emb and lm are the model's
own. The last norm begins at 0, so that a new head says what the model has said.

Reference: Bansal & Sanghavi 2025, arXiv:2509.22738 (ADJUST).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.utils import rng
from mdx.utils import tree

_EPSILON = 1e-6
_PLAIN = dict(head="none", time_conditioning=False, dropout=0.0, attention_dropout=0.0,
              drophead=0.0, adaptations=(), local_radius=0, global_every=0, global_first=0,
              disentangled=None, first_norm=True)


@dataclasses.dataclass(frozen=True)
class Head:
  """The joint head of a model.

  Attributes:
    network: of the model.
    mask_id: id of the mask token, which gets probability 0.

  Raises:
    ValueError: a network that has no block to copy, no embeddings, or no final norm.
  """
  network: types.Network = dataclasses.field(repr=False)
  mask_id: int

  def __post_init__(self):
    if self.network.vary is None or self.network.embed is None or (
        "final_norm" not in jax.eval_shape(self.network.init, rng.root(0))):
      raise ValueError("a joint head copies a block of the model and its final norm, which this "
                       "network does not have; use a transformer without network.post_norm.")

  @functools.cached_property
  def block(self) -> types.Network:
    """One block of the model's shape with a norm behind it."""
    assert self.network.vary is not None  # as __post_init__ says
    return self.network.vary(depth=1 / self.network.num_layers, **_PLAIN)

  @property
  def part(self) -> types.Part:
    """The parameters; every leaf but the block's is alike on every device."""
    assert self.network.embed is not None
    embedded = jax.eval_shape(self.network.embed, jax.eval_shape(self.network.init, rng.root(0)),
                              jax.ShapeDtypeStruct((1,), jnp.int32))
    columns, width = embedded.shape[-1], self.network.width
    own = self.block.part or types.Part(self.block.init)

    def init(key):
      block = self.block.init(rng.stream(key, "block"))
      mix = jax.random.normal(rng.stream(key, "mix"), (columns + width, width), jnp.float32)
      return {"block": {"layers": block["layers"],
                        "final_norm": jax.tree.map(jnp.zeros_like, block["final_norm"])},
              "mix": {"kernel": mix / math.sqrt(columns + width)},
              "token_norm": {"scale": jnp.ones(columns, jnp.float32)},
              "state_norm": {"scale": jnp.ones(width, jnp.float32)}}

    def axes(path, shape):
      if path.startswith("block/"):
        return own.axes(path.removeprefix("block/"), shape)
      return types.no_axes(path, shape)

    return types.Part(init, axes)

  def check(self, own: types.PyTree, states: jax.Array | None) -> None:
    """Raises ValueError unless parameters and states are of this head's model.

    Args:
      own: parameters of a head.
      states: as `types.Answer.states`.
    """
    if states is None or states.shape[-1] != self.network.width:
      found = "gives none" if states is None else f"has states of width {states.shape[-1]}"
      raise ValueError(f"the joint head reads states of width {self.network.width} and the model "
                       f"{found}; use the model that the head was trained with.")
    wanted = tree.flatten(jax.eval_shape(self.part.init, rng.root(0)))
    given = tree.flatten(own)
    for path in sorted({*wanted, *given}):
      shapes = [tuple(leaves[path].shape) if path in leaves else "nothing"
                for leaves in (given, wanted)]
      if shapes[0] != shapes[1]:
        raise ValueError(f"the joint head has {shapes[0]} at {path}, its model needs {shapes[1]}: "
                         "it was trained with a model of another width; use that one.")

  def check_logits(self, logits: jax.Array) -> None:
    """Raises ValueError unless a model's logits [..., V] are over the ids of the head's model."""
    model = jax.eval_shape(self.network.init, rng.root(0))
    states = jax.ShapeDtypeStruct((1, self.network.width), jnp.float32)
    wanted = jax.eval_shape(lambda *x: self.network.head(*x, "lm"), model, states).shape[-1]
    if logits.shape[-1] != wanted:
      raise ValueError(f"the joint head draws from {wanted} ids and the model from "
                       f"{logits.shape[-1]}; use the model that the head was trained with.")

  def step(self, own: types.PyTree, model: types.PyTree, states: jax.Array, tokens: jax.Array,
           positions: jax.Array | None = None, segment_ids: jax.Array | None = None) -> jax.Array:
    """The states after a token has been written, [B, S, D].

    Args:
      own: parameters of the head.
      model: those of the model.
      states: [B, S, D], of the canvas before.
      tokens: int32 [B, S], the canvas with the new token.
      positions: int32 [B, S], or None: 0 .. S - 1.
      segment_ids: int32 [B, S], 0 on padding, or None: all one segment.
    """
    assert self.network.embed is not None
    embedded = _rms(own["token_norm"], self.network.embed(model, tokens))
    both = jnp.concatenate([embedded, _rms(own["state_norm"], states)], axis=-1)
    mixed = both.astype(states.dtype) @ own["mix"]["kernel"].astype(states.dtype)
    inputs = types.Inputs(None, positions, segment_ids, states=mixed)
    more = self.block.encode(own["block"], inputs, attention=attention_lib.Full()).last
    return states + more.astype(states.dtype)

  def logits(self, model: types.PyTree, states: jax.Array) -> jax.Array:
    """Logits of the clean tokens, float32 [..., V], of states [..., D]."""
    return heads.block_columns(self.network.head(model, states, "lm"), self.mask_id)


def _rms(own: dict[str, Any], x: jax.Array) -> jax.Array:
  """RMS norm over the last axis, float32."""
  x = x.astype(jnp.float32)
  x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + _EPSILON)
  return x * jnp.expand_dims(own["scale"], tuple(range(x.ndim - 1)))
