"""Model FLOPs of a function, from the shapes in its jaxpr.

Contents: count.

Convention: matrix products and convolutions only, 2 a multiplication. A scan counts as often as
it runs, a loop whose end depends on values `unknown_trips` times (of several numbers the second for
a loop within such a loop, and so on), a conditional as the mean of its branches without those of
scope `types.RARE`. Recomputation by `jax.checkpoint` counts where the jaxpr has it, so trace the
model without rematerialisation.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import jax
import numpy as np

from mdx import types


def count(function: Callable, *args: Any,
          unknown_trips: float | tuple[float, ...] = 1.0) -> float:
  """FLOPs of a call with arguments of these shapes, over all devices."""
  return _count(jax.make_jaxpr(function)(*args).jaxpr, tuple(np.atleast_1d(unknown_trips).tolist()))


def _count(jaxpr, trips: tuple[float, ...]) -> float:
  return sum(_of_equation(eqn, trips) for eqn in jaxpr.eqns)


def _of_equation(eqn, trips: tuple[float, ...]) -> float:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * inner
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    features = kernel[params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / features
  if name == "scan":
    return params["length"] * _count(params["jaxpr"].jaxpr, trips)
  if name == "while":
    inside = trips[1:] or trips
    return trips[0] * (_count(params["body_jaxpr"].jaxpr, inside)
                       + _count(params["cond_jaxpr"].jaxpr, inside))
  if name == "cond":
    branches = [b.jaxpr for b in params["branches"] if not _is_rare(b.jaxpr)]
    return sum(_count(b, trips) for b in branches) / max(len(branches), 1)
  return sum(_count(inner, trips) for inner in _inner(params))


def _inner(params):
  """Jaxprs among the parameters of an equation."""
  for value in params.values():
    for one in value if isinstance(value, (tuple, list)) else (value,):
      inner = getattr(one, "jaxpr", one)
      if hasattr(inner, "eqns"):
        yield inner


def _is_rare(jaxpr) -> bool:
  return any(types.RARE in str(eqn.source_info.name_stack).split("/") for eqn in jaxpr.eqns)
