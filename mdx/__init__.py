"""mdx: masked language models in JAX, from pre-training to sampling.

Contents: load.

Reference: see docs/methods/index.md for the map from papers to configs.
"""

import importlib
from typing import Any

__version__ = "0.2.0"


def load(path: str, **options: Any):
  """Loads a model to sample from and to score with; see `mdx.model.load`."""
  return importlib.import_module("mdx.model").load(path, **options)
