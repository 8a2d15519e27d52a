"""The cache of compiled programs, which later processes read.

Contents: use_cache.
"""

from __future__ import annotations

import os
import pathlib

import jax


def use_cache() -> None:
  """Keeps compiled programs on disk, unless the user said where jax does.

  They are in `mdx/jax` of the user's cache directory ($XDG_CACHE_HOME, ~/.cache).
  """
  if os.environ.get("JAX_COMPILATION_CACHE_DIR") or jax.config.values["jax_compilation_cache_dir"]:
    return
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mdx" / "jax"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
