"""Reading a model: hidden states of the rows of a batch, logits of some positions of a canvas.

Contents: inputs_of, copied_inputs, noise_of, noise_for, encode, logits_at, attention_of, answerer,
previous_hidden, segment_starts, previous_positions, behind.

Convention: a shifted model predicts a position from the hidden state of the position before it, as
a model that began as an autoregressive one does (Dream, arXiv:2508.15487); the first position
of a segment is predicted from its own.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.utils import rng

_QUARTERS = 4  # sizes of the head that are compiled


def inputs_of(batch: types.Batch, tokens: jax.Array | None = None, **fields: Any) -> types.Inputs:
  """Returns the inputs of a network that reads the rows of a batch.

  Args:
    batch: rows; `positions`, `segment_ids` and `token_types` are read where it has them.
    tokens: int32 [B, L]; None: the batch's `tokens`.
    **fields: further ones of `types.Inputs`.
  """
  return types.Inputs(batch["tokens"] if tokens is None else tokens, batch.get("positions"),
                      batch.get("segment_ids"), batch.get("token_types"), **fields)


def behind(prefix: jax.Array | None, inputs: types.Inputs) -> types.Inputs:
  """Returns the inputs with vectors before every row, which all positions of its segments see.

  Args:
    prefix: [B, P, E]; None or P = 0: the inputs as they are.
    inputs: of rows of one segment, and padding; positions begin at 0.
  """
  if prefix is None or not prefix.shape[1]:
    return inputs
  number, (batch, length) = prefix.shape[1], inputs.tokens.shape
  own = jnp.broadcast_to(jnp.arange(number)[None], (batch, number))
  tokens = jnp.broadcast_to(jnp.arange(length)[None] if inputs.positions is None
                            else inputs.positions, (batch, length))
  segments = inputs.segment_ids
  if segments is not None:
    first = jnp.broadcast_to(segments.max(axis=1, keepdims=True), (batch, number))
    segments = jnp.concatenate([first, segments], axis=1)
  return inputs._replace(prefix=prefix, segment_ids=segments,
                         positions=jnp.concatenate([own, tokens + number], axis=1))


def copied_inputs(batch: types.Batch, tokens: jax.Array, num_copies: int) -> types.Inputs:
  """Returns the inputs of as many consecutive copies of each row, of tokens [B * copies, L]."""
  inputs = inputs_of(batch)._replace(tokens=None)
  copied = jax.tree.map(lambda x: jnp.repeat(x, num_copies, axis=0), inputs)
  return copied._replace(tokens=tokens)


def noise_of(noise: jax.Array | None, batch: types.Batch,
             num_copies: int = 1) -> types.Noise | None:
  """Returns the noise of one reading of the rows of a batch.

  Args:
    noise: typed key [], as `Context.noise`; None: no noise.
    batch: rows, with `example_index` [B].
    num_copies: the rows are as many consecutive copies of each row, with noise of their own.
  """
  if noise is None:
    return None
  keys = rng.per_example(noise, batch["example_index"])
  if num_copies > 1:
    keys = jax.vmap(lambda key: jax.random.split(key, num_copies))(keys).reshape(-1)
  return types.Noise(rng.stream(noise, "shared"), keys)


def noise_for(noise: jax.Array | None, name: str, step: int | None = None) -> jax.Array | None:
  """Returns the key [] of the noise of another reading in the same step."""
  return None if noise is None else rng.stream(noise, name, step)


def encode(network: types.Network, params: types.PyTree, batch: types.Batch, *, attention: Any,
           tokens: jax.Array | None = None, noise: jax.Array | None = None, **options: Any
           ) -> jax.Array:
  """Returns the hidden states [B, L, D] of the rows of a batch.

  Args:
    network: the model.
    params: its parameter sub-tree.
    batch: rows; `positions`, `segment_ids` and `token_types` are read where it has them.
    attention: a value of `networks.attention`.
    tokens: int32 [B, L], the network's input; None: the batch's `tokens`.
    noise: `Context.noise`; None = no noise.
    **options: more that the network is told.
  """
  return network.encode(params, inputs_of(batch, tokens), attention=attention,
                        noise=noise_of(noise, batch), **options).last


def logits_at(network: types.Network, params: types.PyTree, request: types.Request, *,
              tokens: jax.Array, attention: Any, time: jax.Array | None,
              blocked: int | None, shift: bool = False, is_prefixed: bool = False
              ) -> types.Answer:
  """Runs the network on the positions asked for, and the head on the targets among them.

  Args:
    network: the model.
    params: its parameter sub-tree.
    request: of a sampler; its `tokens` are not read, for `tokens` may differ.
    tokens: int32 [B, S], the network's input at every position of the rows.
    attention: a value of `networks.attention`.
    time: float32 [B], or None.
    blocked: an id that gets probability 0, or None.
    shift: whether a position is predicted from the position before it.
    is_prefixed: whether the request's context stands before the rows; not with `shift`.
  """
  slots = request.slots
  if is_prefixed:
    number = 0 if request.context is None else request.context.shape[1]
    inputs = behind(request.context, types.Inputs(tokens, request.positions, request.segment_ids))
    if slots is not None:  # the vectors are in the cache
      inputs, slots = inputs._replace(
          tokens=attention_lib.at_slots(tokens, slots), prefix=None), slots + number
  else:
    number = 0
    inputs = types.Inputs(attention_lib.at_slots(tokens, slots), request.positions,
                          request.segment_ids, context=request.context,
                          context_mask=request.context_mask)
  memory = {} if request.cache is None else {"cache": request.cache, "slots": slots}
  out = network.encode(params, inputs, attention=attention, time=time, **memory)
  hidden, targets, states = out.last, request.targets, None
  if number and slots is None:
    hidden = hidden[:, number:]
  if request.cache is None:
    states = hidden
  if shift:
    before, _ = previous_positions(request.segment_ids, tokens.shape)
    if request.cache is None:
      states = jnp.take_along_axis(hidden, before[..., None], axis=1)
    if request.slots is None:
      targets = before if targets is None else attention_lib.at_slots(before, targets)
    else:  # the window includes the position before each target
      asked = request.slots if targets is None else attention_lib.at_slots(request.slots, targets)
      targets = jax.vmap(jnp.searchsorted)(request.slots, attention_lib.at_slots(before, asked))
  if targets is not None:
    hidden = jnp.take_along_axis(hidden, targets[..., None], axis=1, mode="clip")
  logits = _head(network, params, hidden, request.num_targets)
  logits = heads.block_columns(logits, blocked)
  return types.Answer(logits, hidden, out.cache, states)


def attention_of(cfg: Mapping[str, Any], network: types.Network) -> Any:
  """The attention value of a config; ValueError if it does not fit the network's layers."""
  found = config_lib.build(attention_lib.ATTENTIONS, cfg, what="attention")
  if network.num_layers:
    found.of_layers(network.num_layers)
  return found


def answerer(objective: Any, params: types.Params) -> Callable[..., types.Answer]:
  """The objective's `Reader.answer` for many calls in a loop; work that they share is done once.

  Returns:
    (request, clean=None) -> Answer; with `clean` int32 [B, S], that of `Reader.by_tokens`.
  """
  params = {**params, "model": objective.network.unstack(params["model"])}
  reader = objective.reader()

  def ask(request, clean=None):
    return reader.answer(params, request) if clean is None else (
        reader.by_tokens(params, request, clean))

  return ask


def segment_starts(segment_ids: jax.Array | None, shape: tuple[int, int]) -> jax.Array:
  """Returns whether a position is the first of its segment, bool [B, L]."""
  if segment_ids is None:
    return jnp.broadcast_to(jnp.arange(shape[1]) == 0, shape)
  previous = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  return segment_ids != previous


def previous_positions(segment_ids: jax.Array | None, shape: tuple[int, int]
                       ) -> tuple[jax.Array, jax.Array]:
  """Positions that others are predicted from, where padding may stand within a document.

  Rows of episodes have padding between a turn and a reply; rows of training have none there, and
  `segment_starts` serves them.

  Returns:
    before: int32 [B, L], the last real position of the same segment before each, which padding
      takes from its neighbour; the position itself where there is none.
    starts: bool [B, L], where there is none.
  """
  column = jnp.broadcast_to(jnp.arange(shape[1]), shape)
  starts = segment_starts(segment_ids, shape)
  if segment_ids is None:
    return jnp.where(starts, column, column - 1), starts
  is_real = segment_ids != 0
  last = jax.lax.cummax(jnp.where(is_real, column, -1), axis=1)
  last = jnp.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  of_last = jnp.take_along_axis(segment_ids, jnp.maximum(last, 0), axis=1)
  starts = jnp.where(is_real, (last < 0) | (of_last != segment_ids), starts)
  return jnp.where(starts, column, jnp.where(is_real, last, column - 1)), starts


def previous_hidden(hidden: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
  """Hidden states [B, L, D] that a shifted model predicts each position from."""
  starts = segment_starts(segment_ids, hidden.shape[:2])
  return jnp.where(starts[..., None], hidden,
                   jnp.concatenate([hidden[:, :1], hidden[:, :-1]], axis=1))


def _head(network, params, hidden, num_targets):
  """Logits of the first `num_targets` [] positions of hidden [B, T, D], or of a few more; then 0.

  Towards the end of a block most of its positions are settled, and the head of a small model
  costs about as much as its blocks.
  """
  length = hidden.shape[1]
  if num_targets is None or length < _QUARTERS:
    return network.head(params, hidden, "lm")

  def first(size):
    logits = network.head(params, hidden[:, :size], "lm")
    return jnp.pad(logits, ((0, 0), (0, length - size), (0, 0)))

  sizes = [-(-length * quarter // _QUARTERS) for quarter in range(1, _QUARTERS + 1)]
  return jax.lax.switch(jnp.searchsorted(jnp.asarray(sizes), num_targets),
                        [functools.partial(first, size) for size in sizes])
