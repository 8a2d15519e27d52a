r"""Mixtures of experts in place of the MLP of a block: routing, matrices by group, and balance.

Contents: Experts, built, Choice, Load, choose, mix, grouped, megablox, load_of, penalty,
collecting, is_collecting, add.

Convention: of E experts each token takes K, and none is left out for want of room. Scores and
weights are float32. Losses of the router are means over the rows of a batch of what one row gives,
so microbatches and devices do not change them.

References: Shazeer et al. 2017, arXiv:1701.06538; Zoph et al. 2022, arXiv:2202.08906 (z-loss);
DeepSeek-AI 2024, arXiv:2412.19437 (sigmoid scores, groups, balance of a sequence); Wang et al.
2024, arXiv:2408.15664 (a bias that balances).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mdx import config as config_lib
from mdx import sharding
from mdx.networks import heads

_LEAST_TILE, _LARGEST_TILE = 8, 128  # rows of one matmul where there is no kernel for groups
_TILES, _WIDEST = (512, 256, 128), 1024  # rows, and most columns, of a tile of megablox


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
  """Hyper-parameters of the experts of a block.

  Attributes:
    number: of experts, E.
    per_token: experts of each token, K.
    width: hidden width of one.
    router: "softmax" over all experts or "sigmoid" of each.
    is_normalized: whether the weights of a token's experts are divided by their sum.
    scale: factor of the weights.
    shared_width: hidden width of an MLP beside them that every token has; 0 = none.
    groups: neighbouring experts form so many groups, of which a token takes the best
      `groups_per_token` by their two highest scores; 1 = no groups.
    groups_per_token: groups of each token.
    has_bias: whether a bias of each expert is added to the scores that choose, not to the weights.
    first_dense: the first so many blocks have the plain MLP.
    balance: weight of the balance loss of a row, E / K sum_e f_e p_e with the share f_e of its
      choices and the mean score p_e (scores divided by their sum); mean over layers, 1 = balanced.
    z: weight of the mean squared logarithm of the sum of the exponentials of the router's logits.
    bias_rate: weight of the gradient that a bias gets, its expert's share of the choices above
      1 / E; an optimizer with normalised steps moves it by about its learning rate.
    backend: of the matmuls by group: "xla" (`jax.lax.ragged_dot`, anywhere) or "megablox" (the
      Pallas kernel of JAX for TPUs).
  """
  number: int
  per_token: int
  width: int
  router: str = "softmax"
  is_normalized: bool = True
  scale: float = 1.0
  shared_width: int = 0
  groups: int = 1
  groups_per_token: int = 1
  has_bias: bool = False
  first_dense: int = 0
  balance: float = 0.0
  z: float = 0.0
  bias_rate: float = 0.0
  backend: str = "xla"

  def __post_init__(self):
    config_lib.check(self, "network.experts", choices=dict(
        router=("softmax", "sigmoid"), backend=("xla", "megablox")),
                     at_least=dict(number=1, per_token=1, width=1, shared_width=0, groups=1,
                                   groups_per_token=1, first_dense=0, balance=0.0, z=0.0,
                                   bias_rate=0.0), between=dict(scale="(0, 1e6]"))
    size = self.number // self.groups
    for is_wrong, message in (
        (self.per_token > self.number, f"per_token {self.per_token} exceeds the {self.number} "
         "experts; choose fewer."),
        (self.number % self.groups, f"groups {self.groups} do not divide the {self.number} experts;"
         " use a divisor."),
        (self.groups > 1 and size < 2, f"groups {self.groups} have one expert each, and a group is "
         "ranked by its best two; use fewer."),
        (self.groups_per_token > self.groups, f"groups_per_token {self.groups_per_token} exceeds "
         f"the {self.groups} groups."),
        (self.per_token > self.groups_per_token * size, f"per_token {self.per_token} exceeds the "
         f"{self.groups_per_token * size} experts of a token's groups."),
        (self.bias_rate and not self.has_bias, "bias_rate needs has_bias=True.")):
      if is_wrong:
        raise ValueError(f"network.experts.{message}")

  def scaled(self, width: float, depth: float) -> Experts:
    """As many experts, of a share of the width, from a share of the layers on."""
    share = lambda size: max(1, round(width * size)) if size else 0
    return dataclasses.replace(self, width=share(self.width), shared_width=share(self.shared_width),
                               first_dense=int(depth * self.first_dense))

  @property
  def is_balanced(self) -> bool:
    """Returns whether training adds anything to the loss."""
    return bool(self.balance or self.z or self.bias_rate)


def built(value: Experts | Mapping[str, Any] | None) -> Experts | None:
  """Returns the experts of a table of a config; None of an empty one."""
  if value is None or isinstance(value, Experts):
    return value
  if not isinstance(value, Mapping):
    raise ValueError(f"network.experts is {value!r:.60}; expected a table of fields.")
  return config_lib.construct(Experts, value, what="network.experts") if value else None


class Choice(NamedTuple):
  """Experts of some tokens.

  Attributes:
    index: int32 [..., K].
    weight: float32 [..., K].
    scores: float32 [..., E], divided by their sum.
    logits: float32 [..., E].
  """
  index: jax.Array
  weight: jax.Array
  scores: jax.Array
  logits: jax.Array


class Load(NamedTuple):
  """Figures of the router of one layer, over the tokens of each row.

  Attributes:
    balance: float32 [B], the balance loss.
    z: float32 [B], the mean squared log-sum.
    bias: float32 [B], the bias times the share of choices above 1 / E, which is its gradient.
    share: float32 [E], of the choices of all rows.
  """
  balance: jax.Array
  z: jax.Array
  bias: jax.Array
  share: jax.Array


def choose(experts: Experts, logits: jax.Array, bias: jax.Array | None) -> Choice:
  """Returns the experts of tokens, from the router's logits float32 [..., E] and a bias [E]."""
  scores = (jax.nn.softmax if experts.router == "softmax" else jax.nn.sigmoid)(logits)
  ranked = scores if bias is None else scores + jnp.expand_dims(bias, range(scores.ndim - 1))
  if experts.groups > 1:
    grouped = ranked.reshape(ranked.shape[:-1] + (experts.groups, -1))
    best = jax.lax.top_k(grouped, 2)[0].sum(-1)
    chosen = jax.lax.top_k(best, experts.groups_per_token)[1]
    is_open = jax.nn.one_hot(chosen, experts.groups).sum(-2) > 0
    ranked = jnp.where(is_open[..., None], grouped, heads.NEVER).reshape(ranked.shape)
  index = jax.lax.top_k(ranked, experts.per_token)[1]
  weight = jnp.take_along_axis(scores, index, axis=-1)
  if experts.is_normalized:
    weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
  return Choice(index, weight * experts.scale, scores / (scores.sum(-1, keepdims=True) + 1e-20),
                logits)


def mix(x: jax.Array, choice: Choice, kernels: tuple[jax.Array, ...],
        activation: Callable[[jax.Array], jax.Array], backend: str = "xla") -> jax.Array:
  """Returns the weighted sum of the experts' outputs, in the dtype of x.

  Args:
    x: [B, L, D].
    choice: of its tokens.
    kernels: up [E, D, F], gate [E, D, F] where the MLP is gated, down [E, F, D], in x's dtype.
    activation: of the gate, or of the hidden states where there is none.
    backend: as of `Experts`.
  """
  run = functools.partial(_mix, activation=activation,
                          dot=grouped if backend == "xla" else megablox)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(x, choice.index, choice.weight, *kernels)
  # Each device sorts its own tokens, and has its columns of every expert's hidden states.
  cuts = len(x) % sharding.batch_shards() == 0
  positions = "sequence" if x.shape[1] % mesh.shape["sequence"] == 0 else None
  columns = "tensor" if kernels[0].shape[-1] % mesh.shape["tensor"] == 0 else None
  rows = P(sharding.BATCH_AXES if cuts else None, positions, None)
  inner, outer = P(None, None, columns), P(None, columns, None)

  def local(*args):
    y = run(*args)
    return jax.lax.psum(y, columns) if columns else y

  specs = (rows, rows, rows, *(inner,) * (len(kernels) - 1), outer)
  return jax.shard_map(local, in_specs=specs, out_specs=rows, check_vma=False)(
      x, choice.index, choice.weight, *kernels)


def _mix(x, index, weight, up, *rest, activation, dot):
  *gate, down = rest
  number, most = len(up), index.shape[-1]
  flat, chosen = x.reshape(-1, x.shape[-1]), index.reshape(-1)
  order = jnp.argsort(chosen, stable=True)
  sizes = jax.nn.one_hot(chosen, number, dtype=jnp.int32).sum(0)
  rows = jnp.take(flat, order // most, axis=0)
  dot = functools.partial(dot, sizes=sizes)
  hidden = dot(rows, up)
  hidden = activation(dot(rows, gate[0])) * hidden if gate else activation(hidden)
  found = jnp.take(dot(hidden, down), jnp.argsort(order), axis=0)
  found = found.reshape(-1, most, x.shape[-1])
  y = jnp.sum(found * weight.reshape(-1, most, 1).astype(found.dtype), axis=1)
  return y.reshape(x.shape).astype(x.dtype)


def grouped(rows: jax.Array, kernels: jax.Array, sizes: jax.Array) -> jax.Array:
  """Rows [M, D], sorted by expert, times the matrix [E, D, F] of the expert of each; [M, F]."""
  return jax.lax.platform_dependent(rows, kernels, sizes, cpu=_tiled, default=jax.lax.ragged_dot)


def megablox(rows: jax.Array, kernels: jax.Array, sizes: jax.Array, *, interpret: bool = False
             ) -> jax.Array:
  """`grouped` by the kernel of JAX for TPUs; `interpret` emulates it on any machine (for tests).

  Raises:
    ValueError: a number of rows that it does not take.
  """
  from jax.experimental.pallas.ops.tpu.megablox import ops  # pylint: disable=g-import-not-at-top
  total, (inner, outer) = len(rows), kernels.shape[1:]
  tile = next((tile for tile in _TILES if total % tile == 0), 0)
  if not tile:
    raise ValueError(f"network.experts.backend megablox needs a multiple of {_TILES[-1]} tokens "
                     f"times per_token on each device, got {total}; change batch_size or "
                     "data.length, or use xla.")
  return ops.gmm(rows, kernels, sizes, rows.dtype,
                 (tile, min(inner, _WIDEST), min(outer, _WIDEST)), interpret=interpret)


def _tiled(rows, kernels, sizes):
  """`jax.lax.ragged_dot` at the cost of the rows: XLA on CPUs multiplies all rows by all experts.

  Each group is padded to whole tiles, each of which takes one matrix.
  """
  number, total = len(kernels), len(rows)
  tile = min(max(1 << (total // number).bit_length() >> 1, _LEAST_TILE), _LARGEST_TILE)
  num_tiles = -(-total // tile) + number
  tiles = -(-sizes // tile)
  last_tile, last_row = jnp.cumsum(tiles), jnp.cumsum(sizes)
  expert = jnp.minimum(jnp.sum(jnp.arange(num_tiles)[:, None] >= last_tile[None], axis=1),
                       number - 1)
  inside = (jnp.arange(num_tiles) - (last_tile - tiles)[expert])[:, None] * tile + jnp.arange(
      tile)[None]
  row = jnp.where(inside < sizes[expert][:, None], inside + (last_row - sizes)[expert][:, None],
                  total)

  def one(args):
    expert, row = args
    taken = jnp.take(rows, row, axis=0, mode="fill", fill_value=0)
    return jnp.matmul(taken, jax.lax.dynamic_index_in_dim(kernels, expert, keepdims=False))

  found = jax.lax.map(one, (expert, row))
  out = jnp.zeros((total, kernels.shape[-1]), found.dtype)
  return out.at[row.reshape(-1)].set(found.reshape(-1, found.shape[-1]), mode="drop")


def load_of(experts: Experts, choice: Choice, bias: jax.Array | None,
            is_real: jax.Array | None) -> Load:
  """Returns the load of one layer; `is_real` bool [B, L] are the tokens that count, None: all."""
  real = jnp.ones(choice.index.shape[:2]) if is_real is None else is_real.astype(jnp.float32)
  count = jnp.maximum(real.sum(1), 1.0)
  mean = lambda x: (x * real[..., None]).sum(1) / count[:, None]
  share = mean(jax.nn.one_hot(choice.index, experts.number).sum(-2)) / experts.per_token
  balance = experts.number * jnp.sum(share * mean(choice.scores), axis=-1)
  z = mean(jnp.square(jax.nn.logsumexp(choice.logits, axis=-1, keepdims=True)))[:, 0]
  above = jax.lax.stop_gradient(share - 1 / experts.number)
  pulled = jnp.zeros(len(share)) if bias is None else above @ bias
  return Load(balance, z, pulled, share.mean(0))


def penalty(experts: Experts, load: Load) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns what the loads [layers, ...] of a reading add to the loss, and figures of them."""
  mean = {name: getattr(load, name).mean() for name in ("balance", "z", "bias")}
  added = experts.balance * mean["balance"] + experts.z * mean["z"] + experts.bias_rate * (
      mean["bias"] - jax.lax.stop_gradient(mean["bias"]))
  return added, {"router_balance": mean["balance"], "router_z": mean["z"],
                 "router_largest_share": load.share.max(axis=-1).mean()}


class _Collected:
  """Penalties of the readings of a step."""

  def __init__(self):
    self._found: list[tuple[jax.Array, dict[str, jax.Array]]] = []

  def append(self, added, figures):
    """Adds those of one reading."""
    self._found.append((added, figures))

  def mean(self) -> tuple[jax.Array | float, dict[str, Any]]:
    """The mean over readings, and that of the figures."""
    if not self._found:
      return 0.0, {}
    return jax.tree.map(lambda *x: sum(x) / len(x), *self._found)


_COLLECTED: contextvars.ContextVar[_Collected | None] = contextvars.ContextVar("collected",
                                                                               default=None)


@contextlib.contextmanager
def collecting() -> Iterator[_Collected]:
  """Collects the penalties of all readings while a loss is traced."""
  found = _Collected()
  token = _COLLECTED.set(found)
  try:
    yield found
  finally:
    _COLLECTED.reset(token)


def is_collecting() -> bool:
  """Returns whether a loss is being traced that adds the penalties."""
  return _COLLECTED.get() is not None


def add(experts: Experts, load: Load) -> None:
  """Adds the penalty of one reading to the loss that is traced."""
  found = _COLLECTED.get()
  if found is not None:
    found.append(*penalty(experts, load))
