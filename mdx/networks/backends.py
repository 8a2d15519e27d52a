"""Backends of attention: XLA with a mask, cuDNN on GPUs, the splash kernel on TPUs.

Contents: BACKENDS, compiling_for, check, check_experts, check_slots, uses_masks, attend, ordered.

Convention: a back end is named by the config and used or refused; none stands in for another.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import layout as layout_lib
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mdx import sharding
from mdx import types
from mdx.networks import attention as attention_lib

BACKENDS = ("xla", "cudnn", "splash")
_PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}
_target = contextvars.ContextVar("target", default="")


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Compiles networks built inside for "tpu", "gpu" or "cpu", whatever this machine has."""
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def check(name: str, dtype: str) -> None:
  """Raises ValueError for a back end that cannot run where it will be, or with this dtype."""
  if name not in _PLATFORMS:
    return
  wanted, found = _PLATFORMS[name], _target.get() or jax.default_backend()
  if wanted != found:
    raise ValueError(f"network.attention_backend {name} needs a {wanted.upper()}, and this is for "
                     f"a {found.upper()}; use xla.")
  if name == "cudnn" and dtype != "bfloat16":
    raise ValueError(f"network.attention_backend cudnn needs dtype bfloat16, got {dtype}; use xla.")


def check_experts(name: str) -> None:
  """Raises ValueError for matmuls of experts that cannot run where they will be."""
  found = _target.get() or jax.default_backend()
  if name == "megablox" and found != "tpu":
    raise ValueError("network.experts.backend megablox needs a TPU, and this is for a "
                     f"{found.upper()}; use xla.")


def check_slots(name: str) -> None:
  """Raises ValueError for a back end that cannot read a cache."""
  if name == "splash":
    raise ValueError("network.attention_backend splash reads whole rows, and no cache; use xla, or "
                     "sampler.cache=none.")


def uses_masks(name: str) -> bool:
  """Returns whether a back end is given masks, rather than computing them."""
  return name != "splash"


def attend(name: str, query: jax.Array, key: jax.Array, value: jax.Array,
           sight: attention_lib.Sight, which: jax.Array | None, memory: list = (),
           noise: types.Noise | None = None, dropout: float = 0.0,
           scores: jax.Array | None = None, keep: bool = False, cap: float = 0.0,
           chunk: int = 0) -> Any:
  """Scaled dot-product attention of one layer.

  Args:
    name: one of BACKENDS.
    query: [B, L, N, H].
    key: [B, S, K, H]; K divides N.
    value: [B, S, K, H].
    sight: visibility in the layers of the network.
    which: int32 [], the layer's value among those of `sight`; None if there is one.
    memory: pairs of keys and values [B, P, K, H] that every query sees before those of the row;
      back end xla alone has it.
    noise: of the layer's probabilities; None = no dropout.
    dropout: share of the probabilities that is dropped; back end xla alone has it.
    scores: float32 [B, N, L, S], added to those of the products; back end xla alone has it.
    keep: whether the probabilities are wanted too; back end xla alone has it.
    cap: soft cap of the products, before what is added; 0 = none. Back end cudnn has none.
    chunk: queries that have scores at a time, of back end xla; 0 = all.

  Returns:
    [B, L, N, H] in the dtype of `query`; with `keep` also float32 [B, N, L, P + S].
  """
  if name != "xla" and (keep or any(bias is not None for bias in sight.biases)):
    raise ValueError(f"network.attention_backend {name} gives no probabilities and adds nothing to "
                     "its scores, which this objective needs; use xla.")
  if name != "splash":  # which keeps them as its kernel takes them
    query, key, value = map(attention_lib.saved, (query, key, value))
  for pair in memory:
    key, value = (jnp.concatenate([old.astype(new.dtype), new], axis=1)
                  for old, new in zip(pair, (key, value)))
  num_memory = sum(pair[0].shape[1] for pair in memory)
  runs = [functools.partial(_attend_one, name, sight=sight, i=i, num_memory=num_memory, noise=noise,
                            dropout=dropout, scores=scores, keep=keep, cap=cap, chunk=chunk)
          for i in range(len(sight.values))]
  if which is None:
    return runs[0](query, key, value)
  return jax.lax.switch(which, runs, query, key, value)


def _attend_one(name, query, key, value, *, sight, i, num_memory, noise, dropout, scores, keep,
                cap, chunk):
  if name == "splash":
    return _sharded_splash(query, key, value, sight, sight.values[i], cap)
  if name == "cudnn":
    mask = sight.masks[i]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
  mask, bias = sight.masks[i], sight.biases[i]
  if bias is not None:
    batch, length, heads, _ = query.shape
    bias = jnp.broadcast_to(bias, (batch, heads, length, bias.shape[-1]))
    scores = bias if scores is None else scores + bias
  if num_memory and mask is not None:
    mask = jnp.pad(mask, ((0, 0),) * 3 + ((num_memory, 0),), constant_values=True)
  if num_memory and scores is not None:
    scores = jnp.pad(scores, ((0, 0),) * 3 + ((num_memory, 0),))
  if chunk and query.shape[1] > chunk and not keep:
    if sharding.positions_sharded():
      raise ValueError("network.attention_chunk cuts rows that mesh axis sequence has cut already; "
                       "use attention_chunk=0, or sequence=1.")
    return attention_lib.attend_in_chunks(chunk, query, key, value, mask, scores, cap)
  return attention_lib.attend(query, key, value, mask, noise, dropout, scores, keep,
                              cap)


def _sharded_splash(query, key, value, sight, attention, cap):
  """`splash.splash`, each device on its own rows and heads."""
  if jax.tree.leaves(attention):
    raise ValueError("network.attention_backend splash computes masks from positions, and this "
                     "attention depends on the step or on a draw; use xla.")
  from mdx.networks import splash  # pylint: disable=g-import-not-at-top  (Pallas is slow to load)
  segments, batch = sight.segment_ids, query.shape[:1]
  segments = jnp.ones(batch + query.shape[1:2], jnp.int32) if segments is None else segments
  positions = jnp.broadcast_to(sight.positions, segments.shape)

  def run(query, key, value, positions, segments):
    return splash.splash(query, key, value, attention, positions, segments, cap=cap)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(query, key, value, positions, segments)
  if sharding.positions_sharded():
    raise ValueError("network.attention_backend splash needs mesh axis sequence=1; use xla.")
  heads, rows = P(sharding.BATCH_AXES, None, "tensor", None), P(sharding.BATCH_AXES, None)
  return jax.shard_map(run, in_specs=(heads, heads, heads, rows, rows), out_specs=heads,
                       check_vma=False)(query, key, value, positions, segments)


def ordered(name: str, x: jax.Array) -> jax.Array:
  """Keeps the axes of [B, L, D] in this order in memory, for what follows attention.

  The splash kernel gives head after head, and XLA would lay out all that follows like it.
  """
  if name != "splash":
    return x
  run = lambda x: layout_lib.with_layout_constraint(x, layout_lib.Layout((0, 1, 2)))
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(x)
  # On each device's part: XLA does not know how to cut a constraint, and would gather its operand.
  rows = P(sharding.BATCH_AXES, None, None)
  return jax.shard_map(run, in_specs=rows, out_specs=rows, check_vma=False)(x)
