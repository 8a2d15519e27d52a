"""The host process: settings that make XLA faster on CPUs, and results from all processes.

Contents: tune_cpu, fetch.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any


_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def tune_cpu() -> None:
  """Lets glibc keep freed memory instead of giving it back after every step.

  XLA allocates the buffers of a step anew each time. Unmapped and mapped again, their
  pages are zeroed by the kernel once a step, up to a quarter of the CPU time of a small
  model. One arena that never shrinks costs nothing: a run needs its peak memory anyway.
  Call it before jax is used; does nothing where there is no glibc.
  """
  if not sys.platform.startswith("linux"):
    return
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return
  mallopt(_ARENA_MAX, 1)
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, -1)


def fetch(values: Any) -> Any:
  """Global arrays as numpy, with the rows of every process."""
  import jax  # pylint: disable=g-import-not-at-top  (tune_cpu runs before it)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils  # pylint: disable=g-import-not-at-top
    values = multihost_utils.process_allgather(values, tiled=True)
  return jax.device_get(values)
