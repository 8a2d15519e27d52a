"""Parts that are put into a block: adapters behind branches or beside them, prefixes, prompts.

Contents: Bottleneck, Compacter, Prefix, GatedPrefix, Prompt.

Convention: none of them can be merged into kernels.
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


_zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)


def _by_fan(key, shape, dtype):
  return shape[-2] ** -0.5 * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(types.Adaptation):
  """h + scale gelu(h D) U behind attention and MLP, with U = 0 at first; 2 D width a branch.

  On both branches as Houlsby et al. 2019, arXiv:1902.00751, put them; `targets=("mlp",)` is the
  place of Pfeiffer et al. 2020, arXiv:2005.00247. With `is_parallel`, h + scale relu(x D) U of the
  branch's input x, as He et al. 2021, arXiv:2110.04366, put it beside the MLP with scale 4; with a
  short prefix, that is their MAM adapter.

  Attributes:
    width: of the bottleneck.
    scale: factor of what is added.
    is_parallel: whether it reads the branch's input.
    targets: branches that have one.
  """
  width: int = 16
  scale: float = 1.0
  is_parallel: bool = False
  targets: tuple[str, ...] = ("attention", "mlp")

  def __post_init__(self):
    config_lib.check(self, "adaptation", at_least=dict(width=1))

  def leaves(self, shape, axes):
    """Down and up."""
    return {"adapter_down": types.Leaf((shape[0], self.width), _normal, (axes[0], None)),
            "adapter_up": types.Leaf((self.width, shape[1]), _zeros, (None, axes[1]))}

  def maps(self, own) -> tuple[jax.Array, jax.Array]:
    """Returns the matrices [D, width] and [width, D]."""
    return own["adapter_down"], own["adapter_up"]

  def branch(self, own, x, hidden):
    """The branch's output, and what the bottleneck makes of it or of its input."""
    down, up = (one.astype(hidden.dtype) for one in self.maps(own))
    inner = (jax.nn.relu(jnp.matmul(x, down)) if self.is_parallel
             else jax.nn.gelu(jnp.matmul(hidden, down)))
    return hidden + self.scale * jnp.matmul(inner, up)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compacter(Bottleneck):
  """A bottleneck whose maps are sums of Kronecker products, sum_i R_i (x) (s_i t_i), and t = 0.

  Karimi Mahabadi et al. 2021, arXiv:2106.04647: R_i [n, n], s_i [in / n, rank], t_i [rank, out / n]
  for n = `summands`. The two maps of a branch share R; the paper's R is also shared by all layers.
  n^3 + 2 rank (D + width) parameters a branch.

  Attributes:
    summands: products in a sum; divides D and the width.
    rank: of a product's second factor.
  """
  summands: int = 4
  rank: int = 1

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "adaptation", at_least=dict(summands=1, rank=1))
    if self.width % self.summands:
      raise ValueError(f"compacter.summands {self.summands} does not divide width {self.width}; "
                       "use a divisor.")

  def check(self, name, shape):
    """The summands divide the width of the network."""
    if shape[0] % self.summands:
      raise ValueError(f"compacter.summands {self.summands} does not divide the network's width "
                       f"{shape[0]} ({name}); use a divisor.")

  def leaves(self, shape, axes):
    """R, and s and t of both maps."""
    n, leaf = self.summands, lambda *shape, init=_by_fan: types.Leaf(shape, init, (None,) * 3)
    wide, narrow = shape[0] // n, self.width // n
    return {"phm_rule": leaf(n, n, n),
            "phm_down_s": leaf(n, wide, self.rank), "phm_down_t": leaf(n, self.rank, narrow),
            "phm_up_s": leaf(n, narrow, self.rank),
            "phm_up_t": leaf(n, self.rank, wide, init=_zeros)}

  def maps(self, own):
    """The sums of products."""
    def total(name):
      found = jnp.einsum("nij,nkr,nrl->ikjl", own["phm_rule"], own[f"{name}_s"], own[f"{name}_t"])
      return found.reshape(found.shape[0] * found.shape[1], -1)

    return total("phm_down"), total("phm_up")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix(types.Adaptation):
  """Keys and values of `length` positions that every query sees; 2 length K H parameters a layer.

  Li & Liang 2021, arXiv:2101.00190, without their network that makes the vectors in training.
  Needs the attention back end xla.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedPrefix(Prefix):
  """A prefix with a softmax of its own, times tanh(gate) of the head, which is 0 at first.

  LLaMA-adapter (Zhang et al. 2023, arXiv:2303.16199): what attention gives, plus tanh(gate) times
  attention to the prefix; 2 length K H + K parameters a layer, one gate for the queries of a key
  head. In all layers, where the paper takes the upper ones.
  """

  def leaves(self, shape, axes):
    """Keys and values, and a gate for each key head."""
    return ({f"gated_{name}": leaf for name, leaf in super().leaves(shape, axes).items()}
            | {"prefix_gate": types.Leaf((shape[0],), _zeros, (axes[0],), decays=False)})

  def memory(self, own, batch):
    """None: the softmax of the row is its own."""
    return None

  def attended(self, own, query, mixed):
    """Attention to the row, and gated attention to the prefix."""
    keys, values = (own[name].astype(query.dtype) for name in ("gated_keys", "gated_values"))
    heads, width = query.shape[2:]
    split = query.reshape(*query.shape[:2], len(own["prefix_gate"]), -1, width)
    scores = jnp.einsum("blkgh,pkh->blkgp", split, keys).astype(jnp.float32) * width ** -0.5
    found = jnp.einsum("blkgp,pkh->blkgh", jax.nn.softmax(scores).astype(query.dtype), values)
    gate = jnp.tanh(own["prefix_gate"]).astype(query.dtype)[None, None, :, None, None]
    return mixed + (gate * found).reshape(*query.shape[:2], heads, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(types.Adaptation):
  """States of `length` positions before every row, which go through the blocks; length D.

  Lester et al. 2021, arXiv:2104.08691. The row reads the prompt, at positions -length .. -1 of
  rotary networks, and the prompt itself alone: so in causal models it is what the paper has, packed
  rows, caches and every attention take it, and of encoders it is a variant. With `hidden` the
  vectors pass a perceptron of three layers first (P-tuning, Liu et al. 2021, arXiv:2103.10385):
  length D + 2 D hidden + hidden^2 + 2 hidden + D parameters. Needs the attention back end xla.

  Attributes:
    length: positions.
    hidden: width of the perceptron's layers; 0 = none.
    targets: ("input",).
  """
  length: int = 16
  hidden: int = 0
  targets: tuple[str, ...] = ("input",)

  def __post_init__(self):
    config_lib.check(self, "adaptation", at_least=dict(length=1, hidden=0))

  def leaves(self, shape, axes):
    """Vectors, and matrices and biases of the perceptron."""
    found = {"prompt": types.Leaf((self.length, shape[0]), _normal, (None, axes[0]))}
    sizes = (shape[0], self.hidden, self.hidden, shape[0])
    for i, (before, after) in enumerate(zip(sizes, sizes[1:])) if self.hidden else ():
      found[f"prompt_w{i}"] = types.Leaf((before, after), _by_fan, (None, None))
      found[f"prompt_b{i}"] = types.Leaf((after,), _zeros, (None,), decays=False)
    return found

  def prompt(self, own):
    """The vectors, as the perceptron makes them."""
    x = own["prompt"]
    for i in range(3 if self.hidden else 0):
      x = jnp.matmul(jax.nn.relu(x) if i else x, own[f"prompt_w{i}"]) + own[f"prompt_b{i}"][None]
    return x
