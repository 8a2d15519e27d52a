"""Parts that are put into a block: bottleneck adapters behind branches, prefixes of attention.

Contents: Bottleneck, Prefix.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types

_STD = 0.02


def _normal(key, shape, dtype):
  return _STD * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(types.Adaptation):
  """h + gelu(h D) U behind attention and MLP, with U = 0 at first; 2 D width parameters a branch.

  On both branches as Houlsby et al. 2019, arXiv:1902.00751, put them; `targets=("mlp",)` is the
  place of Pfeiffer et al. 2020, arXiv:2005.00247. Neither can be merged.

  Attributes:
    width: of the bottleneck.
    targets: branches that have one.
  """
  width: int = 16
  targets: tuple[str, ...] = ("attention", "mlp")

  def __post_init__(self):
    config_lib.check(self, "adaptation", at_least=dict(width=1))

  def leaves(self, shape, axes):
    """Down and up."""
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    return {"adapter_down": types.Leaf((shape[0], self.width), _normal, (axes[0], None)),
            "adapter_up": types.Leaf((self.width, shape[1]), zeros, (None, axes[1]))}

  def branch(self, own, hidden):
    """The branch's output, and what the bottleneck makes of it."""
    down, up = (own[name].astype(hidden.dtype) for name in ("adapter_down", "adapter_up"))
    return hidden + jnp.matmul(jax.nn.gelu(jnp.matmul(hidden, down)), up)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix(types.Adaptation):
  """Keys and values of `length` positions that every query sees; 2 length K H parameters a layer.

  Li & Liang 2021, arXiv:2101.00190, without their network that makes the vectors in training.
  Needs the attention back end xla, and cannot be merged.

  Attributes:
    length: positions.
    targets: ("memory",).
  """
  length: int = 16
  targets: tuple[str, ...] = ("memory",)

  def __post_init__(self):
    config_lib.check(self, "adaptation", at_least=dict(length=1))

  def leaves(self, shape, axes):
    """Keys and values."""
    return {name: types.Leaf((self.length, *shape), _normal, (None, *axes))
            for name in ("keys", "values")}

  def memory(self, own, batch):
    """The same for every row."""
    keys, values = (jnp.broadcast_to(own[name], (batch, *own[name].shape))
                    for name in ("keys", "values"))
    return keys, values
