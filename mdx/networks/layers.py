"""The blocks of the transformer.

Contents: REMAT, ACTIVATIONS, GATED, OfLayer, Block, depthwise, TimeEmbedding,
linear, own, norm.

Convention: `spec` is a `transformer.Transformer`. Blocks are pre-norm, x + f(norm(x)), or
post-norm, norm(x + f(x)). Norms are computed in float32.

References: Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2020, arXiv:2002.05202 (gated MLP);
Peebles & Xie 2023, arXiv:2212.09748 (adaLN-zero time conditioning); Dehghani et al. 2023,
arXiv:2302.05442 (norms of queries and keys); Warner et al. 2024, arXiv:2412.13663 (the first
block of a model with an embedding norm has no norm before attention); Gulati et al. 2020,
arXiv:2005.08100 (conformer blocks).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import ad_checkpoint
import jax.numpy as jnp

from mdx import sharding
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import backends
from mdx.networks import dense
from mdx.networks import disentangled as disentangled_lib
from mdx.networks import experts as experts_lib
from mdx.networks import noise as noise_lib
from mdx.networks import positions as positions_lib
from mdx.networks.adaptation import sites

_MLP = "mlp"  # name of what some rematerialisation policies keep of the MLP
_policies = jax.checkpoint_policies
REMAT = {
    "none": None,
    "dots": _policies.save_only_these_names(attention_lib.SAVED, _MLP),
    "attention": _policies.save_only_these_names(attention_lib.SAVED),
    "full": _policies.nothing_saveable,
}
_gelu_erf = functools.partial(nn.gelu, approximate=False)
ACTIVATIONS = {"swiglu": nn.silu, "geglu": nn.gelu, "geglu_erf": _gelu_erf, "gelu": nn.gelu,
               "gelu_erf": _gelu_erf, "relu": nn.relu, "swish": nn.silu, "reglu": nn.relu}
GATED = ("swiglu", "geglu", "geglu_erf", "reglu")


class OfLayer(NamedTuple):
  """Values that differ between layers; arrays [] (stacked: [layers]) or None.

  Attributes:
    which: int32, the layer's value among those of `Sight`.
    is_local: bool, whether it takes the rotary angles of local layers.
    is_first: bool, whether attention reads the block's input as it is.
    number: int32, of the layer, where there is noise.
    prompt: keys and values [1 or B, P, K, H] of a prompt, where there is one.
  """
  which: jax.Array | None = None
  is_local: jax.Array | None = None
  is_first: jax.Array | None = None
  number: jax.Array | None = None
  prompt: tuple[jax.Array, jax.Array] | None = None


def linear(spec: Any, features: int, name: str, *, use_bias: bool | None = None,
           scale: float = 1.0) -> dense.Dense:
  """A linear map with the spec's bias and dtype, and the adaptations that target its name."""
  init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
  put = sites.at(spec.adaptations, name)
  adapted = dict(adaptations=put, axes=sites.of_spec(spec)[name].axes) if put else {}
  return dense.Dense(features, use_bias=spec.use_bias if use_bias is None else use_bias,
                     dtype=jnp.dtype(spec.dtype), name=name,
                     kernel_init=init if scale else nn.initializers.zeros, **adapted)


def own(spec: Any, name: str) -> list[tuple[types.Adaptation, dict[str, jax.Array]]]:
  """The adaptations of a site beside the linear maps, each with its parameters."""
  put = sites.at(spec.adaptations, name)
  module = name if name == "memory" else f"{name}_branch"
  return dense.Own(put, sites.of_spec(spec)[name], name=module)() if put else []


def norm(spec: Any, name: str | None, *, kind: str = "") -> nn.Module:
  """A norm of the spec's kind, or of another."""
  fields = dict(epsilon=spec.norm_eps, dtype=jnp.float32, param_dtype=jnp.float32, name=name)
  if (kind or spec.norm) == "rms":
    return nn.RMSNorm(**fields)
  return nn.LayerNorm(use_bias=spec.norm_bias, **fields)


class _Attention(nn.Module):
  """Multi-head attention with grouped keys and values."""
  spec: Any

  @nn.compact
  def __call__(self, x, sight, of_layer, table, cache, slots, noise, keep):
    spec, head, own_table = self.spec, self.spec.per_head, self.spec.disentangled
    batch, length, _ = x.shape
    bias = spec.use_bias or spec.qkv_bias
    maps = {name: linear(spec, heads * head, name, use_bias=bias)
            for name, heads in (("q", spec.num_heads), ("k", spec.kv_heads), ("v", spec.kv_heads))}

    def project(name, normed):
      y = maps[name](x, noise).reshape(batch, length, -1, head)
      if normed:  # whose gradient needs what goes in; nothing else is computed again from it
        y = norm(spec, f"{name}_norm", kind="rms")(attention_lib.saved(y)).astype(y.dtype)
      return sharding.constrain(y, "batch", None, "tensor", None)

    query, key, value = (project("q", spec.qk_norm), project("k", spec.qk_norm),
                         project("v", False))
    scores = None
    if own_table is not None:
      query = query * own_table.scale
      scores = self._by_distance(query, key, table, maps, noise)
    elif table is not None:
      query, key = (positions_lib.rotate(y, *table) for y in (query, key))
    if cache:
      key, value = (attention_lib.write(old, slots, new) for old, new in zip(cache, (key, value)))
    put = own(spec, "memory")
    memory = [one.memory(leaves, batch) for one, leaves in put]
    if of_layer.prompt is not None:
      memory.append(jax.tree.map(lambda y: jnp.broadcast_to(y, (batch, *y.shape[1:])),
                                 of_layer.prompt))
    mixed = backends.attend(spec.attention_backend, query, key, value, sight, of_layer.which,
                            [pair for pair in memory if pair is not None],
                            noise_lib.named(noise, "attention"), spec.attention_dropout, scores,
                            keep, spec.attention_softcap, spec.attention_chunk)
    mixed, probs = mixed if keep else (mixed, None)
    for one, leaves in put:
      mixed = one.attended(leaves, query, mixed)
    mixed = noise_lib.drop_heads(mixed, noise, spec.drophead).reshape(batch, length, -1)
    out = linear(spec, spec.width, "o", use_bias=spec.use_bias or spec.o_bias,
                 scale=spec.residual_scale)(mixed, noise)
    return attention_lib.saved(backends.ordered(spec.attention_backend, out)), (key, value), probs

  def _by_distance(self, query, key, table, maps, noise):
    """Scores of contents with relative positions, float32 [B, N, L, L]."""
    spec, own_table = self.spec, self.spec.disentangled
    bias = spec.use_bias or spec.qkv_bias

    def project(kind, shared, name):
      if kind not in own_table.kinds:
        return None
      to = maps[shared] if own_table.is_shared else linear(
          spec, spec.num_heads * spec.per_head, name, use_bias=bias)
      return to(table[None], noise)[0].reshape(len(table), spec.num_heads, spec.per_head)

    keys, queries = project("c2p", "k", "table_k"), project("p2c", "q", "table_q")
    factor = spec.per_head ** -0.5
    return disentangled_lib.biases(query * factor, key, keys, None if queries is None else (
        queries * (factor * own_table.scale)))


class _Cross(nn.Module):
  """Attention of every position to a context; its output map begins at zero."""
  spec: Any

  @nn.compact
  def __call__(self, x, context, noise):
    spec, (states, mask) = self.spec, context
    states, bias = states.astype(x.dtype), spec.use_bias or spec.qkv_bias

    def project(name, heads, given):
      y = linear(spec, heads * spec.per_head, name, use_bias=bias)(given, noise)
      y = y.reshape(*given.shape[:2], heads, spec.per_head)
      return sharding.constrain(y, "batch", None, "tensor", None)

    query, key, value = (project("query", spec.num_heads, x), project("key", spec.kv_heads, states),
                         project("value", spec.kv_heads, states))
    mixed = attention_lib.attend(query, key, value, None if mask is None else mask[:, None, None],
                                 noise_lib.named(noise, "cross"), spec.attention_dropout)
    return linear(spec, spec.width, "out", use_bias=spec.use_bias or spec.o_bias, scale=0.0)(
        mixed.reshape(*x.shape[:2], -1), noise)


class _Mlp(nn.Module):
  """Two-layer perceptron, gated or plain."""
  spec: Any
  width: int

  @nn.compact
  def __call__(self, x, noise):
    spec, bias = self.spec, self.spec.use_bias or self.spec.mlp_bias
    saved = functools.partial(ad_checkpoint.checkpoint_name, name=_MLP)
    up = saved(linear(spec, self.width, "up", use_bias=bias)(x, noise))
    if spec.is_gated:
      gate = saved(linear(spec, self.width, "gate", use_bias=bias)(x, noise))
      hidden = ACTIVATIONS[spec.mlp](gate) * up
    else:
      hidden = ACTIVATIONS[spec.mlp](up)
    hidden = sharding.constrain(hidden, "batch", "sequence", "tensor")
    return linear(spec, spec.width, "down", use_bias=bias, scale=spec.residual_scale)(hidden, noise)


class _Kernel(nn.Module):
  """A matrix, or one of each expert, and a bias that it may have."""
  shape: tuple[int, ...]
  scale: float = 1.0
  has_bias: bool = False

  @nn.compact
  def __call__(self):
    axes = dict(batch_axis=0) if len(self.shape) > 2 else {}
    init = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal", **axes)
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:], jnp.float32) if (
        self.has_bias) else None
    return self.param("kernel", init, self.shape, jnp.float32), bias


class _Experts(nn.Module):
  """Mixture of experts: the states, and the load of the router where it is asked for."""
  spec: Any

  @nn.compact
  def __call__(self, x, is_real, noise, wants_load):
    spec, own = self.spec, self.spec.experts
    router, bias = _Kernel((spec.width, own.number), has_bias=own.has_bias, name="router")()
    logits = jnp.matmul(x.astype(jnp.float32), router, precision=jax.lax.Precision.HIGHEST)
    choice = experts_lib.choose(own, logits, bias)
    names = ("up", "gate") if spec.is_gated else ("up",)
    inner, outer = (own.number, spec.width, own.width), (own.number, own.width, spec.width)
    kernels = [_Kernel(inner, name=f"experts_{name}")()[0] for name in names]
    kernels.append(_Kernel(outer, spec.residual_scale, name="experts_down")()[0])
    y = experts_lib.mix(x, choice, tuple(kernel.astype(x.dtype) for kernel in kernels),
                        ACTIVATIONS[spec.mlp], own.backend)
    if own.shared_width:
      y = y + _Mlp(spec, own.shared_width, name="shared")(x, noise)
    return y, experts_lib.load_of(own, choice, bias, is_real) if wants_load else None


class _Convolution(nn.Module):
  """The convolution of a conformer block: gate, depthwise convolution, norm, swish, linear map."""
  spec: Any

  @nn.compact
  def __call__(self, x, segment_ids):
    spec = self.spec
    up, gate = jnp.split(linear(spec, 2 * spec.width, "in")(x), 2, axis=-1)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (spec.conv_kernel, spec.width),
                        jnp.float32)
    y = depthwise(up * nn.sigmoid(gate), kernel.astype(x.dtype), segment_ids)
    y = nn.silu(norm(spec, "norm")(y)).astype(x.dtype)
    return linear(spec, spec.width, "out", scale=spec.residual_scale)(y)


def depthwise(x: jax.Array, kernel: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
  """Convolution of each channel alone, over the positions of its own segment.

  Args:
    x: [B, L, D].
    kernel: [K, D], K odd; its middle is the position itself.
    segment_ids: int32 [B, L], 0 on padding, or None: all one segment.

  Returns:
    [B, L, D]; positions outside of a row, of padding and of other segments count as 0.
  """
  radius, length = len(kernel) // 2, x.shape[1]
  own = jnp.ones(x.shape[:2], jnp.int32) if segment_ids is None else segment_ids
  pad = lambda y: jnp.pad(y, [(0, 0), (radius, radius)] + [(0, 0)] * (y.ndim - 2))
  padded, segments = pad(x), pad(own)
  shifted = lambda y, k: jax.lax.slice_in_dim(y, k, k + length, axis=1)
  total = jnp.zeros_like(x)
  for k in range(len(kernel)):
    is_own = (shifted(segments, k) == own) & (own > 0)
    total += jnp.where(is_own[..., None], shifted(padded, k) * kernel[k][None, None], 0)
  return total


class Block(nn.Module):
  """Attention and MLP; with `condition` the branches of a pre-norm block are modulated by time.

  Between them the block attends to `context`, states [B, C, E] and a mask, if the spec has a
  context_width. Returns the states, and what was asked for of (keys and values, states, load of the
  router, probabilities): `cache` is None where it was not, `kept` has the names of the others.
  """
  spec: Any

  @nn.compact
  def __call__(self, x, condition, context, sight, tables, of_layer, cache, slots, noise, kept):
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    noise = noise_lib.of_layer(noise, of_layer.number)
    if condition is None:
      modulation = ((0.0, 0.0, 1.0),) * 2
    else:
      values = linear(spec, 6 * spec.width, "modulation", use_bias=True, scale=0.0)(condition)
      values = jnp.split(values.astype(jnp.float32), 6, axis=-1)
      modulation = (values[:3], values[3:])
    table = tables[0] if tables else None
    if of_layer.is_local is not None and len(tables) > 1:
      table = jax.tree.map(lambda *y: jnp.where(of_layer.is_local, *y), tables[1], tables[0])

    def finished(name, x, y):
      for one, leaves in own(spec, name):
        y = one.branch(leaves, x, y)
      return noise_lib.dropout(y, noise, spec.dropout, name)

    def branch(name, layer, x, shift, scale, gate, *, is_bare=None):
      if spec.post_norm:
        y, *rest = layer(x)
        y = finished(name, x, y)
        return norm(spec, f"{name}_norm")(x + y).astype(dtype), *rest
      y = norm(spec, f"{name}_norm")(x)
      y = y if is_bare is None else jnp.where(is_bare, x, y)
      given = (y * (1 + scale) + shift if condition is not None else y).astype(dtype)
      y, *rest = layer(given)
      y = finished(name, given, y)
      return x + (gate * y).astype(dtype) if condition is not None else x + y, *rest

    if spec.conv_kernel:
      plain = dataclasses.replace(spec, adaptations=())
      x, = branch("first_mlp", lambda y: (0.5 * _Mlp(plain, spec.hidden_width, name="first_mlp")(
          y, noise),), x, *modulation[0])
    x, memory, probs = branch(
        "attention", lambda y: _Attention(spec, name="attention")(
            y, sight, of_layer, table, cache, slots, noise, "attention" in kept), x, *modulation[0],
        is_bare=of_layer.is_first)
    if spec.context_width:
      x, = branch("cross", lambda y: (_Cross(spec, name="cross")(y, context, noise),), x,
                  0.0, 0.0, 1.0)

    if spec.conv_kernel:
      x, = branch("conv", lambda y: (_Convolution(spec, name="conv")(y, sight.segment_ids),), x,
                  *modulation[0])

    def mlp(y):
      if spec.experts is None:
        y = _Mlp(spec, spec.hidden_width, name="mlp")(y, noise)
        return 0.5 * y if spec.conv_kernel else y, None
      segments = sight.segment_ids
      is_real = None if segments is None else attention_lib.at_slots(segments, slots) != 0
      return _Experts(spec, name="mlp")(y, is_real, noise, "load" in kept)

    x, load = branch("mlp", mlp, x, *modulation[1])
    if spec.conv_kernel:
      x = norm(spec, "block_norm")(x).astype(dtype)
    x = sharding.constrain(x, "batch", "sequence", None)
    states = x if "states" in kept else None
    return x, (memory if cache is not None else None, states, load, probs)


class TimeEmbedding(nn.Module):
  """Sinusoids of t in [0, 1] through two layers: [B] -> [B, 1, D]."""
  spec: Any

  @nn.compact
  def __call__(self, time):
    half = 128
    frequency = jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
    frequency = jnp.expand_dims(frequency, tuple(range(time.ndim)))
    angle = 1000.0 * time.astype(jnp.float32)[..., None] * frequency
    x = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    x = linear(self.spec, self.spec.width, "in", use_bias=True)(x)
    x = nn.silu(linear(self.spec, self.spec.width, "out", use_bias=True)(nn.silu(x)))
    return x[:, None, :] if time.ndim == 1 else x
