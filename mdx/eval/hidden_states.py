r"""Hidden states that move, while a causal model reads, towards what they would have predicted.

Contents: Adam, States, Behind, begin, step, losses.

A text is read in windows. When a window has been scored, all states so far, its own among them,
take a step of Adam down the gradient of its loss; later windows attend to the states where they
are then. No weight changes, and no token is predicted by states that have seen it.

Convention: the states are the keys and values of all layers, [layers, B, L + w, K, H]. The gradient
is that of a second reading of the window, at w slots behind the row, which sees the states of the
row alone; it says the same as the first. It is the derivative by each state as the others stand.

Reference: Yoshida & Gimpel 2021, arXiv:2112.08653 (hidden-state optimisation).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives.causal import ar


class Adam(NamedTuple):
  """Coefficients of the steps; `rate` float32 [] may be traced, 0 leaves the states as they are."""
  rate: Any
  b1: float = 0.9
  b2: float = 0.999
  epsilon: float = 1e-8


class States(NamedTuple):
  """States of the rows with their moments, which have the same form.

  Attributes:
    values: keys and values, of slots that were read; 0 elsewhere.
    first, second: moments of each.
  """
  values: Any
  first: Any
  second: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Behind(attention_lib.Attention):
  """A position sees those of the row up to its own; none sees the slots behind the row.

  Attributes:
    length: L.
  """
  length: int

  def sees(self, query, key, size):
    """Visibility by position."""
    del size
    return (key.index < self.length) & (key.position <= query.position)


def begin(objective: ar.AutoRegressive, params: types.Params, batch: types.Batch, window: int
          ) -> States:
  """The states before the first window of rows int32 [B, L]."""
  rows, length = batch["tokens"].shape
  read = lambda params: objective.network.encode(
      params, types.Inputs(jnp.zeros((rows, length + window), jnp.int32)),
      attention=Behind(length), cache=()).cache
  zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                               jax.eval_shape(read, params["model"]))
  return States(zeros(), zeros(), zeros())


def step(objective: ar.AutoRegressive, params: types.Params, batch: types.Batch, states: States,
         number: jax.Array, *, window: int, adam: Adam) -> tuple[States, jax.Array]:
  """Reads a window, and moves the states.

  Args:
    objective: of the model.
    params: of the model; they do not change.
    batch: rows of whole texts.
    states: after the window before.
    number: int32 [], of the window.
    window: w.
    adam: of the steps.

  Returns:
    The states after it, and -log p of its targets, float32 [B, w], with the states before it.
  """
  rows, length = batch["tokens"].shape
  own = number * window + jnp.arange(window)
  cut = lambda x: jnp.take(x, own, axis=1)
  tokens, is_target = cut(batch["tokens"]), cut(mask_lib.allowed_positions(batch))
  is_real = mask_lib.text_positions(batch)
  start = jnp.full((rows, 1), objective.start_token, batch["tokens"].dtype)
  inputs = types.Inputs(
      cut(jnp.concatenate([start, batch["tokens"][:, :-1]], axis=1)),
      jnp.concatenate([jnp.arange(length), own])[None],
      jnp.concatenate([is_real, cut(is_real)], axis=1).astype(jnp.int32))

  def read(values, slots):
    found = objective.network.encode(
        params["model"], inputs, attention=Behind(length), cache=values,
        slots=jnp.broadcast_to(slots[None], (rows, window)))
    logits = objective.network.head(params["model"], found.last, "lm")
    logits = heads.block_columns(logits, objective.mask_id)
    return jnp.where(is_target, heads.cross_entropy(logits, tokens), 0.0), found.cache

  nats, values = read(states.values, own)
  gradient = jax.grad(lambda values: read(values, length + jnp.arange(window))[0].sum())(values)
  # Steps that a slot has taken, with this one.
  taken = number + 1 - jnp.arange(length + window) // window
  taken = jnp.maximum(taken, 1).astype(jnp.float32)[None, None, :, None, None]
  first = _average(states.first, gradient, adam.b1)
  second = _average(states.second, jax.tree.map(jnp.square, gradient), adam.b2)
  values = jax.tree.map(
      lambda x, m, v: x - adam.rate * (m / (1 - adam.b1 ** taken)) / (
          jnp.sqrt(v / (1 - adam.b2 ** taken)) + adam.epsilon), values, first, second)
  return States(values, first, second), nats


def losses(objective: ar.AutoRegressive, params: types.Params, batch: types.Batch, *, window: int,
           adam: Adam) -> jax.Array:
  """-log p of every target, float32 [B, L]; `window` divides L."""
  rows, length = batch["tokens"].shape
  _, nats = jax.lax.scan(
      lambda states, number: step(objective, params, batch, states, number, window=window,
                                  adam=adam),
      begin(objective, params, batch, window), jnp.arange(length // window))
  return nats.swapaxes(0, 1).reshape(rows, length)


def _average(old: Any, new: Any, decay: float) -> Any:
  """The moving average of a tree."""
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)
