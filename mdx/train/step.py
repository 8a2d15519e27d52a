"""The one training step, for every objective.

Contents: look, loss_and_grad, make_step, Compiled, jitted.

Convention: `prepare` draws on the whole batch and weighs every loss term; the
loss of a microbatch is the sum over terms of scale * total / weight with the
weights of the whole batch, so accumulation over microbatches is exact.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from mdx import types
from mdx.networks import experts
from mdx.train import gating
from mdx.train import state as state_lib
from mdx.train import upkeep
from mdx.utils import processes
from mdx.utils import rng
from mdx.utils import tree

Step = Callable[[state_lib.State, types.Batch, types.Params],
                tuple[state_lib.State, dict[str, Any]]]


def _split(batch: types.Batch, num: int, unit: int) -> types.Batch:
  """[B, ...] -> [num, B / num, ...], dealing units of rows round robin.

  Each device's rows are dealt out evenly, so no row changes its device.
  """

  def deal(x):
    x = x.reshape((-1, num, unit) + x.shape[1:]).swapaxes(0, 1)
    return x.reshape((num, -1) + x.shape[3:])

  return jax.tree.map(deal, batch)


def _join(rows: types.PyTree, unit: int) -> types.PyTree:
  """Inverse of `_split`."""

  def collect(x):
    x = x.reshape((len(x), -1, unit) + x.shape[2:]).swapaxes(0, 1)
    return x.reshape((-1,) + x.shape[3:])

  return jax.tree.map(collect, rows)


def look(objective: types.Objective, batch: types.Batch, context: types.Context,
         num_microbatches: int) -> types.Batch:
  """Batch with the fields that frozen models add, read by microbatch."""
  if type(objective).look is types.Objective.look:
    return batch
  one = lambda rows: jax.lax.stop_gradient(objective.look(context.frozen, rows, context))
  if num_microbatches == 1:
    return one(batch)
  unit = objective.rows_per_unit
  return _join(jax.lax.map(one, _split(batch, num_microbatches, unit)), unit)


def loss_and_grad(objective: types.Objective, params: types.Params, batch: types.Batch,
                  weights: dict[str, jax.Array], context: types.Context, num_microbatches: int,
                  trains: Callable[[str], bool] = state_lib.everything, gates: bool = False):
  """Loss, aux and gradient (of what is trained) over a prepared batch, accumulated exactly.

  With `gates` the loss is the term of `objective.gate` alone, which otherwise is none of it.
  """
  scales = {name: scale for name, scale in objective.scales.items()
            if (objective.gate is not None and name == objective.gate[0]) == gates}
  fixed = tree.part(params, lambda path: not trains(path))
  params = tree.part(params, trains)

  def scaled(totals, aux):
    loss = sum(scales[k] * totals[k] / jnp.maximum(weights[k], 1e-6) for k in totals if k in scales)
    return loss, types.Aux(aux.metrics, {}, aux.state)

  if types.is_coupled(objective) and num_microbatches > 1:
    return _coupled_loss_and_grad(objective, params, fixed, batch, context, num_microbatches,
                                  scaled)

  def loss_fn(params, rows):
    with experts.collecting() as routers:
      loss, aux = scaled(*objective(tree.merge(params, fixed), rows, context))
    added, figures = routers.mean()
    one = jnp.float32(1)
    return loss + added / num_microbatches, aux._replace(
        metrics=aux.metrics | {name: (value, one) for name, value in figures.items()})

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if num_microbatches == 1:
    (loss, aux), grads = grad_fn(params, batch)
    return loss, aux, grads
  rows = _split(batch, num_microbatches, objective.rows_per_unit)
  shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], rows))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total, one):
    return jax.tree.map(jnp.add, total, grad_fn(params, one)), None

  ((loss, aux), grads), _ = jax.lax.scan(add, zeros, rows)
  return loss, aux, grads


def _coupled_loss_and_grad(objective, params, fixed, batch, context, num_microbatches, scaled):
  """`loss_and_grad` at the memory of a microbatch, for a loss that compares all rows.

  Representations are computed without gradient by microbatch; the loss of all of them gives
  each its cotangent, which one backward pass a microbatch takes to the parameters (gradient
  caching, Gao et al. 2021, arXiv:2101.06983).
  """
  rows = _split(batch, num_microbatches, objective.rows_per_unit)
  represent = lambda params, rows: objective.represent(tree.merge(params, fixed), rows, context)
  reps = jax.lax.map(lambda one: represent(params, one), rows)

  def loss_fn(params, reps):
    return scaled(*objective.compare(tree.merge(params, fixed),
                                     _join(reps, objective.rows_per_unit), batch, context))

  (loss, aux), (grads, cotangents) = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)(params, reps)

  def add(total, one):
    rows, cotangent = one
    more, = jax.vjp(lambda params: represent(params, rows), params)[1](cotangent)
    return jax.tree.map(jnp.add, total, more), None

  grads, _ = jax.lax.scan(add, grads, (rows, cotangents))
  return loss, aux, grads


def make_step(objective: types.Objective, optimizer: optax.GradientTransformation, *, seed: int,
              rate: Callable, num_microbatches: int = 1, ema_decay: float = 0.0,
              trains: Callable[[str], bool] = state_lib.everything,
              parts: Mapping[str, types.Part] = {}) -> Step:
  """Builds (state, batch, frozen) -> (state, metrics); jit it with state donated.

  Args:
    objective: the loss.
    optimizer: optax chain over those of `state.params` that are trained.
    seed: of the run; draws depend on (seed, step, example_index).
    rate: step -> learning rate, for the metrics.
    num_microbatches: gradient accumulation; divides the batch.
    ema_decay: decay of the moving average, ramped up as (1 + n) / (10 + n);
      0 keeps none.
    trains: path -> whether the parameter is trained.
    parts: those of the objective whose upkeep a step does.

  Returns:
    The step; `frozen` are parameters the objective reads but does not train. The metrics of a step
    are {name: (sum, weight)}, float32 scalars, with `loss`, `grad_norm` and `learning_rate` among
    them.
  """

  def step(state: state_lib.State, batch: types.Batch, frozen: types.Params):
    key = rng.stream(rng.root(seed), "train", state.step)
    context = types.context(state.step, frozen, state.extra, key=key)
    batch = look(objective, batch, context, num_microbatches)
    batch, weights = objective.prepare(state.params, batch, key, context)
    weights = jax.tree.map(jax.lax.stop_gradient, weights)
    loss, aux, grads = loss_and_grad(objective, state.params, batch, weights, context,
                                     num_microbatches, trains)
    loss, grads = upkeep.penalised(parts, state.params, trains, loss, grads)
    if objective.gate is not None:
      _, _, against = loss_and_grad(objective, state.params, batch, weights, context,
                                    num_microbatches, trains, gates=True)
      grads = gating.dropped(rng.stream(key, "gate"), grads, against, objective.gate[1])
    fixed = tree.part(state.params, lambda path: not trains(path))
    params = tree.part(state.params, trains)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params, ema = optax.apply_updates(params, updates), state.ema
    if ema_decay:
      count = state.step.astype(jnp.float32)
      decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
      ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
    extra = jax.tree.map(jnp.add, state.extra, aux.state) if aux.state else state.extra
    one = jnp.float32(1)
    metrics = dict(aux.metrics, loss=(loss, one), grad_norm=(optax.tree.norm(grads), one),
                   learning_rate=(rate(state.step), one))
    params = upkeep.after(parts, tree.merge(params, fixed), grads, state.step)
    state = state_lib.State(state.step + 1, params, ema, opt_state, extra)
    return state, metrics

  return step


class Compiled:
  """A compiled step; donates the buffers of the state, except those of frozen parameters.

  The latter are never copied, so that a reference policy, an evaluation and the state share them.
  """

  def __init__(self, step_fn: Step, shardings: state_lib.State,
               trains: Callable[[str], bool] = state_lib.everything):
    """Compiles at the first call.

    Args:
      step_fn: see `make_step`.
      shardings: of the state.
      trains: path -> whether a step changes the parameter.
    """
    self._trains = trains

    def step(moving, fixed, batch, frozen):
      state = moving._replace(params=tree.merge(moving.params, fixed))
      state, metrics = step_fn(state, batch, frozen)
      return state._replace(params=tree.part(state.params, trains)), metrics

    out = shardings._replace(params=tree.part(shardings.params, trains))
    self._jitted = processes.Jitted(step, donate_argnums=0, out_shardings=(out, None))

  def _split(self, state: state_lib.State) -> tuple[state_lib.State, types.Params]:
    moving = state._replace(params=tree.part(state.params, self._trains))
    return moving, tree.part(state.params, lambda path: not self._trains(path))

  def __call__(self, state, batch, frozen):
    """(state, batch, frozen) -> (state, metrics)."""
    moving, fixed = self._split(state)
    moving, metrics = self._jitted(moving, fixed, batch, frozen)
    return moving._replace(params=tree.merge(moving.params, fixed)), metrics

  def lower(self, state, batch, frozen):
    """Lowers like a jitted function."""
    return self._jitted.lower(*self._split(state), batch, frozen)


def jitted(objective: types.Objective, optimizer: optax.GradientTransformation,
           state: state_lib.State, config: Mapping[str, Any], *, rate: Callable,
           trains: Callable[[str], bool]) -> Compiled:
  """The step of a config as one compiled function that takes the state over.

  Args:
    objective, optimizer, rate, trains: as in `make_step`.
    state: arrays or shape structs with the shardings of the state.
    config: gives `seed`, `microbatches` and `ema_decay`.
  """
  step = make_step(objective, optimizer, seed=config["seed"], rate=rate,
                   num_microbatches=config["microbatches"], ema_decay=config["ema_decay"],
                   trains=trains, parts=objective.parts())
  moves = upkeep.moves(objective.parts())
  return Compiled(step, jax.tree.map(lambda x: x.sharding, state),
                  lambda path: trains(path) or moves(path))
