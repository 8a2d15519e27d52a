"""The processes of a job: programs that they begin together, and arrays that all of them hold.

Contents: Jitted, fetch, check_same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, Callable

import jax
from jax.experimental import multihost_utils
import numpy as np

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
      self._jitted.lower(*args).compile()  # the call below takes it
      _wait("compiled")
    self._is_compiled = True
    return self._jitted(*args)

  def lower(self, *args: Any) -> Any:
    """Lowers like a jitted function."""
    return self._jitted.lower(*args)


def _wait(what: str) -> None:
  """Returns when every process is here."""
  from orbax.checkpoint import multihost  # pylint: disable=g-import-not-at-top  (slow to load)
  multihost.get_barrier_sync_fn()(key=f"mdx_{what}_{next(_count)}", timeout_ms=1000 * _SECONDS)


def check_same(facts: Mapping[str, Callable[[], Any]]) -> None:
  """Raises ValueError, on every process, unless all processes of the job have the same facts.

  Args:
    facts: name, for people -> () -> a value of JSON, which is asked for in jobs of several only.
  """
  if jax.process_count() == 1:
    return
  texts = [json.dumps(fact(), sort_keys=True, default=str) for fact in facts.values()]
  own = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
  _wait("agreed")
  found = multihost_utils.process_allgather(np.array(own, np.uint32))
  for name, values in zip(facts, found.T):
    if (other := np.flatnonzero(values != values[0])).size:
      raise ValueError(f"the processes of this job do not have the same {name}: that of process "
                       f"{other[0]} is another than that of process 0; start all with the same.")


def fetch(values: Any) -> Any:
  """Global arrays as numpy, with the rows of every process."""
  if jax.process_count() > 1:
    values = multihost_utils.process_allgather(values, tiled=True)
  return jax.device_get(values)
