"""Gradient dropout: the gradient of a task is dropped where another one goes against it.

Contents: dropped.

Reference: Zheng et al. 2023, arXiv:2307.15049.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdx.utils import rng
from mdx.utils import tree


def dropped(key: jax.Array, grads: Any, against: Any, share: float) -> Any:
  """The gradients, each entry kept with probability P and otherwise multiplied by 1 - `share`.

  P = (1 + sign(a) (a + r) / (|a| + |r|)) / 2: 1 where both have one sign, and |a| / (|a| + |r|)
  where they have not.

  Args:
    key: typed key [], of this step.
    grads: a, of the task.
    against: r, the same tree.
    share: l in [0, 1].
  """

  def one(path, pair):
    a, r = pair
    size = jnp.abs(a) + jnp.abs(r)
    keep = (1 + jnp.sign(a) * (a + r) / jnp.where(size > 0, size, 1.0)) / 2
    draws = jax.random.uniform(rng.stream(key, path), a.shape)
    return jnp.where(draws < keep, a, (1 - share) * a)

  flat, other = tree.flatten(grads), tree.flatten(against)
  return tree.nest({path: one(path, (leaf, other[path])) for path, leaf in flat.items()})
