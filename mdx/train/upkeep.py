"""Work of a training step on parts of the parameters, beside the gradient of the objective.

Contents: penalised, after, moves.

Convention: a part says by its `types.Upkeep` what is to be done; most have none.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import jax

from mdx import types
from mdx.utils import tree


def _kept(parts: Mapping[str, types.Part], params: types.Params) -> dict[str, types.Upkeep]:
  found = {name: parts[name].upkeep for name in params if name in parts}
  return {name: one for name, one in found.items() if one is not None}


def penalised(parts: Mapping[str, types.Part], params: types.Params,
              trains: Callable[[str], bool], loss: jax.Array, grads: Any) -> tuple[jax.Array, Any]:
  """Returns the loss and the gradients of what is trained with the penalties of all parts."""
  kept = _kept(parts, params)
  if not kept:
    return loss, grads
  fixed = tree.part(params, lambda path: not trains(path))

  def total(trained):
    whole = tree.merge(trained, fixed)
    return sum(one.penalty(whole[name]) for name, one in kept.items())

  more, added = jax.value_and_grad(total)(tree.part(params, trains))
  return loss + more, jax.tree.map(lambda one, other: one + other, grads, added)


def after(parts: Mapping[str, types.Part], params: types.Params, grads: Any,
          step: jax.Array) -> types.Params:
  """Returns the parameters after the upkeep that follows an update.

  Args:
    parts: of the objective.
    params: after the update.
    grads: of those that are trained.
    step: int32 [], number of the update.
  """
  new = {}
  for name, one in _kept(parts, params).items():
    new |= {f"{name}/{path}": leaf
            for path, leaf in one.after(params[name], grads.get(name, {}), step).items()}
  return tree.nest(tree.flatten(params) | new) if new else params


def moves(parts: Mapping[str, types.Part]) -> Callable[[str], bool]:
  """Returns path -> whether upkeep alone changes the parameter."""

  def decide(path):
    name, _, rest = path.partition("/")
    one = parts[name].upkeep if name in parts else None
    return one is not None and one.moves(rest)

  return decide
