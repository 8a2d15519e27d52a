"""mdx: masked language models in JAX, from pre-training to sampling.

Reference: see README.md for the map from papers to configs.
"""

__version__ = "0.1.0"
