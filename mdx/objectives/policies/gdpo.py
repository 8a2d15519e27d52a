"""Group diffusion policy optimisation: bounds by quadrature over the mask rate.

Contents: GDPO.

Reference: Rojas et al. 2025, arXiv:2510.08554.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import time as time_lib
from mdx.objectives.policies import sequence
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class GDPO(sequence.SequencePolicy):
  """Sequence-level ratios of bounds from one random canvas at each node of a quadrature.

  The bound is the integral over the mask rate t of the expected nats of the masked tokens, over t,
  with each token masked with probability t. That is a polynomial of degree L - 1 in t for L tokens,
  so nodes n of Gauss and Legendre have no bias up to L = 2 n, and little beyond; the variance over
  t, most of that of a bound, is gone.

  Attributes:
    num_nodes: canvases of an answer, at least 1.
  """
  clip: float = 0.5
  num_nodes: int = 3

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_nodes": 1})

  def canvases(self, key, index, is_answer):
    """One a node, in the order of the rates."""
    rates, weights = time_lib.quadrature(self.num_nodes)
    draw = lambda node: mask_lib.bernoulli(
        rng.per_example(rng.stream(key, "answer", node), index), rates[node], is_answer)
    hidden = jnp.stack([draw(node) for node in range(self.num_nodes)], axis=1)
    return hidden, hidden * (weights / rates)[None, :, None]
