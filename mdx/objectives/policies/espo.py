"""ELBO-based sequence-level policy optimisation.

Contents: ESPO, complements.

Reference: Ou et al. 2025, arXiv:2512.03759.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import time as time_lib
from mdx.objectives.policies import sequence
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class ESPO(sequence.SequencePolicy):
  """Sequence-level ratios of bounds from pairs of complementary canvases.

  A canvas masks x of the L tokens, x uniform on 0 .. L and spread evenly over the rows of a batch;
  its complement masks the others. A token that is masked with x others weighs (L + 1) / x, so each
  half of a pair is unbiased: the sum over x = 1 .. L of 1 / x times the expected nats of x masks.

  Attributes:
    num_pairs: pairs of canvases of an answer, at least 1.
  """
  kl: float = 0.01
  num_pairs: int = 2

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least={"num_pairs": 1})

  def canvases(self, key, index, is_answer):
    """Pairs of complements, one after the other."""
    length = is_answer.sum(axis=1)
    pairs = []
    for pair in range(self.num_pairs):
      share = 1 - time_lib.lattice(rng.stream(key, "count", pair), index)
      count = jnp.minimum(jnp.floor(share * (length + 1)).astype(jnp.int32), length)
      keys = rng.per_example(rng.stream(key, "answer", pair), index)
      pairs.append(complements(mask_lib.exact_count(keys, count, is_answer), is_answer))
    hidden, mix = (jnp.concatenate(x, axis=1) for x in zip(*pairs))
    return hidden, mix / self.num_pairs


def complements(is_masked: jax.Array, is_answer: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A mask and its complement in the answer, bool [N, 2, G], and their factors, float32.

  Args:
    is_masked: bool [N, G], part of the answer.
    is_answer: bool [N, G].
  """
  hidden = jnp.stack([is_masked, is_answer & ~is_masked], axis=1)
  count = hidden.sum(axis=2, keepdims=True)
  length = is_answer.sum(axis=1)[:, None, None]
  return hidden, hidden * (length + 1) / jnp.maximum(count, 1) / 2
