"""The train state and its one initialisation.

Contents: State, everything, averaged, begin_fn, init_fn, create.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mdx import sharding
from mdx import types
from mdx.utils import rng
from mdx.utils import tree


class State(NamedTuple):
  """State that a training step reads and writes.

  Attributes:
    step: int32 scalar, number of updates done.
    params: parameters, float32 where they are trained.
    ema: the moving average of those that are trained, or {} where none is kept.
    opt_state: optimizer state.
    extra: the objective's untrained state, {} for most.
  """
  step: jax.Array
  params: types.Params
  ema: types.Params
  opt_state: Any
  extra: types.PyTree

  def items(self) -> dict[str, Any]:
    """The parts as separate checkpoint items."""
    return {"params": self.params, "ema": self.ema, "opt_state": self.opt_state,
            "extra": self.extra}


def everything(path: str) -> bool:
  """Trains every parameter."""
  del path
  return True


def averaged(state: State) -> types.Params:
  """The parameters with the moving average of those that have one."""
  return tree.overlay(state.ema, state.params)


def begin_fn(objective: types.Objective, optimizer: optax.GradientTransformation, *,
             keep_ema: bool, trains: Callable[[str], bool] = everything
             ) -> Callable[[types.Params], State]:
  """Returns params -> State at step 0; the average starts at the parameters."""

  def begin(params):
    trained = tree.part(params, trains)
    ema = jax.tree.map(jnp.copy, trained) if keep_ema else {}
    return State(jnp.int32(0), params, ema, optimizer.init(trained), objective.init_state())

  return begin


def init_fn(objective: types.Objective, optimizer: optax.GradientTransformation, *,
            keep_ema: bool, trains: Callable[[str], bool] = everything
            ) -> Callable[[jax.Array], State]:
  """Returns key -> State, to be jitted with out_shardings."""
  begin = begin_fn(objective, optimizer, keep_ema=keep_ema, trains=trains)
  return lambda key: begin(objective.init(rng.stream(key, "init")))


def create(init: Callable[[jax.Array], State], key: jax.Array, parts: Mapping[str, types.Part],
           mesh: jax.sharding.Mesh, table: Mapping[str, str] | None = None) -> State:
  """Initialises the whole state already sharded, in one compiled function.

  Raises:
    ValueError: a parameter that its part does not know, or a mesh axis
      that does not divide a dimension (before anything is compiled).
  """
  shapes = jax.eval_shape(init, key)
  shardings = sharding.state_sharding(shapes, shapes.params, parts, mesh, table)
  return jax.jit(init, out_shardings=shardings)(key)
