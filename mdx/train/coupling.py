"""Rows that interact: found in the program of a loss, before anything is compiled.

Contents: check.

A loss that is accumulated over microbatches must be a sum over rows. The loss is traced with a
number of rows that no other dimension has, so that every array with an axis of rows is known; rows
interact if two axes of one array count them (every row beside every other), or if a sum over rows
goes through anything that is not linear.
"""

from __future__ import annotations

from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import types

_ROWS = 10007  # a prime
_LINEAR = frozenset((
    "add", "sub", "neg", "convert_element_type", "reduce_sum", "reshape", "squeeze", "transpose",
    "broadcast_in_dim", "stop_gradient", "copy", "add_any", "sharding_constraint", "concatenate",
    "slice", "name", "optimization_barrier", "psum"))
_REDUCTIONS = ("reduce_", "arg", "cumsum", "cumlogsumexp", "cummax", "cummin", "cumprod", "sort")


def check(objective: types.Objective, params: types.Params, batch: Mapping[str, Any],
          frozen: types.Params, num_microbatches: int) -> None:
  """Refuses a loss whose rows interact with microbatches that would cut them.

  Args:
    objective: the loss.
    params: shape structs of its parameters.
    batch: field -> (shape, dtype) of a global batch of rows.
    frozen: shape structs of frozen models, by name.
    num_microbatches: of the step.

  Raises:
    ValueError: rows interact, and the objective does not say so (`types.Coupled`).
  """
  if num_microbatches == 1 or types.is_coupled(objective):
    return
  rows = _ROWS * objective.rows_per_unit
  batch = {name: jax.ShapeDtypeStruct((rows, *shape[1:]), dtype)
           for name, (shape, dtype) in batch.items()}

  def prepare(params, frozen, batch):
    key = jax.random.key(0)
    context = types.context(0, frozen, objective.init_state(), key=key)
    return objective.prepare(params, objective.look(frozen, batch, context), key, context)[0]

  def totals(params, frozen, batch):
    context = types.context(0, frozen, objective.init_state(), key=jax.random.key(0))
    return objective(params, batch, context)[0]

  prepared = jax.eval_shape(prepare, params, frozen, batch)
  program = jax.make_jaxpr(totals)(params, frozen, prepared).jaxpr
  live = jax.interpreters.partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[0]
  found = _interaction(live, [False] * len(live.invars), [])
  if found:
    raise ValueError(f"microbatches is {num_microbatches}, but rows of objective "
                     f"{type(objective).__name__} interact ({found[0]}): microbatches would change "
                     "the loss; set microbatches to 1, or make it a types.Coupled.")


def _counts_rows(size: int) -> bool:
  return size > 0 and size % _ROWS == 0


def _is_real(var: Any) -> bool:
  return jnp.issubdtype(var.aval.dtype, jnp.floating)


def _interaction(jaxpr: Any, reduced: list[bool], found: list[str]) -> list[str]:
  """Ways in which rows interact in a jaxpr; `reduced`: which inputs are sums over rows."""
  _walk(jaxpr, reduced, found)
  return found


def _walk(jaxpr: Any, reduced: list[bool], found: list[str]) -> list[bool]:
  """Returns whether each output is a sum over rows; adds interactions to `found`."""
  is_sum = dict(zip(jaxpr.invars, reduced))
  known = lambda var: not isinstance(var, jax.extend.core.Literal) and is_sum.get(var, False)
  for eqn in jaxpr.eqns:
    name, sums = eqn.primitive.name, [known(var) for var in eqn.invars]
    inner = _inner(eqn)
    if inner is not None:
      outs = _through(eqn, inner, sums, found)
    else:
      outs = [_of_equation(eqn, name, sums, found)] * len(eqn.outvars)
    is_sum.update(zip(eqn.outvars, outs))
  return [known(var) for var in jaxpr.outvars]


def _of_equation(eqn, name, sums, found) -> bool:
  for var in eqn.outvars:
    axes = [size for size in var.aval.shape if _counts_rows(size)]
    if len(axes) > 1 and _is_real(var):
      found.append(f"{name} gives an array with every row beside every other")
  if any(sums):
    others = [var for var, one in zip(eqn.invars, sums) if not one]
    is_scaled = (name == "mul" or name == "div" and sums[0]) and sum(sums) == 1 and not any(
        _counts_rows(size) for var in others for size in var.aval.shape)
    if name not in _LINEAR and not is_scaled:
      found.append(f"{name} of a sum over rows")
    elif name in ("add", "sub", "concatenate") and any(
        _counts_rows(size) for var in eqn.outvars for size in var.aval.shape):
      found.append(f"{name} of a sum over rows to each of them")
    return True
  return _reduces_rows(eqn, name) and any(map(_is_real, eqn.outvars))


def _reduces_rows(eqn, name) -> bool:
  if name == "dot_general":
    (left, _), _ = eqn.params["dimension_numbers"]
    return any(_counts_rows(eqn.invars[0].aval.shape[axis]) for axis in left)
  if name.startswith(_REDUCTIONS):
    axes = eqn.params.get("axes", (eqn.params.get("axis", eqn.params.get("dimension")),))
    return any(axis is not None and _counts_rows(eqn.invars[0].aval.shape[axis]) for axis in axes)
  return False


def _inner(eqn) -> Any:
  """The jaxprs that an equation runs, or None."""
  if eqn.primitive.name == "cond":
    return [branch.jaxpr for branch in eqn.params["branches"]]
  for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    if name in eqn.params:
      one = eqn.params[name]
      return [one if isinstance(one, jax.extend.core.Jaxpr) else one.jaxpr]
  if eqn.primitive.name == "while":
    return [eqn.params["body_jaxpr"].jaxpr]
  return None


def _through(eqn, inner, sums, found) -> list[bool]:
  name = eqn.primitive.name
  if name == "cond":
    outs = [_walk(one, sums[1:], found) for one in inner]
    return [any(column) for column in zip(*outs)]
  if name == "while":
    sums = sums[eqn.params["cond_nconsts"]:]
    return _loop(inner[0], sums, eqn.params["body_nconsts"], len(eqn.outvars), found)
  if name == "scan":
    return _loop(inner[0], sums, eqn.params["num_consts"], eqn.params["num_carry"], found)
  return _walk(inner[0], sums[:len(inner[0].invars)], found)


def _loop(body, sums, num_consts, num_carry, found) -> list[bool]:
  """A body whose carry may become a sum over rows as it goes round."""
  for _ in range(num_carry + 1):
    outs = _walk(body, sums, [])
    carry = [a or b for a, b in zip(sums[num_consts:num_consts + num_carry], outs[:num_carry])]
    if carry == sums[num_consts:num_consts + num_carry]:
      break
    sums = [*sums[:num_consts], *carry, *sums[num_consts + num_carry:]]
  return _walk(body, sums, found)
