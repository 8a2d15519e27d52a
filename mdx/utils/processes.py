"""The processes of a job: programs that they begin together, and arrays that all of them hold.

Contents: Jitted, fetch.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable

import jax
from jax.experimental import multihost_utils

_SECONDS = 1800  # that a process may compile longer than another
_count = itertools.count()


class Jitted:
  """`jax.jit`, whose first run waits until every process of the job has compiled.

  The first collective of a program waits for the others as well, but over Gloo for half a minute
  only, and where processes share few cores one may compile that much longer than another.
  """

  def __init__(self, function: Callable, **options: Any):
    """Compiles at the first call; options are those of `jax.jit`."""
    self._jitted, self._is_compiled = jax.jit(function, **options), False

  def __call__(self, *args: Any) -> Any:
    """Runs it."""
    if not self._is_compiled and jax.process_count() > 1:
      from orbax.checkpoint import multihost  # pylint: disable=g-import-not-at-top  (slow to load)
      self._jitted.lower(*args).compile()  # the call below takes it
      multihost.get_barrier_sync_fn()(key=f"mdx_compiled_{next(_count)}",
                                      timeout_ms=1000 * _SECONDS)
    self._is_compiled = True
    return self._jitted(*args)

  def lower(self, *args: Any) -> Any:
    """Lowers like a jitted function."""
    return self._jitted.lower(*args)


def fetch(values: Any) -> Any:
  """Global arrays as numpy, with the rows of every process."""
  if jax.process_count() > 1:
    values = multihost_utils.process_allgather(values, tiled=True)
  return jax.device_get(values)
