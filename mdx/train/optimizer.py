"""Optimizers and learning-rate schedules, as optax chains.

Contents: Optimizer (AdamW), Muon, Adafactor, OPTIMIZERS, SELECTIONS, SCHEDULES, decay_mask,
is_matrix, layer_factors.

Convention: a step is -rate * factor of the layer * (direction + weight_decay * parameter); an
optimizer says what the direction is. A parameter's part (`types.Part`) says whether it is decayed.
Layers are stacked ("layers/...", the first axis counts
them) or have sub-trees of their own ("layers_3/..."); both get the same steps.

References: Loshchilov & Hutter 2019, arXiv:1711.05101 (AdamW); Jordan et al. 2024 (Muon) and Liu et
al. 2025, arXiv:2502.16982 (its scale and decay); Shazeer & Stern 2018, arXiv:1804.04235
(Adafactor); Clark et al. 2020, arXiv:2003.10555 (rates that decay by layer).
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdx import config as config_lib
from mdx import types
from mdx.train import masks as masks_lib
from mdx.utils import tree

_LAYER = re.compile(r"((?:.*/)?)(first_)?layers(?:_(\d+))?/(.*)")
_INPUT = re.compile(r"(.*/)?\w*embed\w*/.*")


def decay_mask(params: Any, parts: Mapping[str, types.Part]) -> Any:
  """Tree of bools: which parameters weight decay applies to, as their parts say."""

  def decide(path, _):
    name, _, rest = path.partition("/")
    return parts[name].decays(rest)

  return tree.map_with_path(decide, params)


def is_matrix(params: Any) -> Any:
  """Tree of bools: the matrices within layers, which Muon takes; the rest is AdamW's."""

  def decide(path, _):
    found = _LAYER.fullmatch(path)
    return bool(found) and found[4].endswith("kernel")

  return tree.map_with_path(decide, params)


def layer_factors(params: Any, decay: float) -> Any:
  """Tree of factors: decay ** (distance of a parameter from the head), as in ELECTRA's code.

  Of n layers, the last has decay ** 2, the first decay ** (n + 1) and the embeddings (also of
  positions and times, and tied ones) decay ** (n + 2); heads, the final norm and whatever is
  neither have 1. A part without layers of its own, such as embeddings that several networks share,
  counts those of the deepest network.

  Returns:
    float32 per leaf: a scalar, or [layers, 1, ...] for stacked layers.
  """
  stacks: dict[tuple[str, str], int] = {}  # layers of the stacks whose parameters begin so
  for path, leaf in tree.flatten(params).items():
    if found := _LAYER.fullmatch(path):
      num_layers = leaf.shape[0] if found[3] is None else int(found[3]) + 1
      stack = found[1], found[2] or ""
      stacks[stack] = max(stacks.get(stack, 0), num_layers)
  first = {prefix: number for (prefix, which), number in stacks.items() if which}
  depth = {prefix: number + first.get(prefix, 0) for (prefix, which), number in stacks.items()
           if not which}  # of the network whose parameters begin with a prefix

  def factor(path, leaf):
    if found := _LAYER.fullmatch(path):
      num_layers = depth[found[1]]
      if found[3] is not None:
        return np.float32(decay ** (num_layers + 1 - int(found[3])))
      top = num_layers + 1 - (0 if found[2] else first.get(found[1], 0))
      powers = decay ** np.arange(top, top - leaf.shape[0], -1, dtype=np.float64)
      return powers.astype(np.float32).reshape((-1,) + (1,) * (len(leaf.shape) - 1))
    if not _INPUT.fullmatch(path):
      return np.float32(1)
    own = max((prefix for prefix in depth if path.startswith(prefix)), key=len, default=None)
    num_layers = max(depth.values(), default=0) if own is None else depth[own]
    return np.float32(decay ** (num_layers + 2))

  return tree.map_with_path(factor, params)


def _everything(path: str, leaf: Any, step: jax.Array) -> jax.Array:
  """Trains all of every parameter, at every step."""
  del path, leaf, step
  return jnp.float32(1)


# Name -> (path, leaf, step) -> share of a parameter that is trained, float32 [] or, of stacked
# layers, [layers, 1, ...] or of the shape of the leaf.
SELECTIONS = {"all": _everything}
SCHEDULES = ("constant", "linear", "cosine", "wsd", "wsd_sqrt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """AdamW with global-norm clipping, warm-up and a decay.

  Attributes:
    learning_rate: peak value.
    schedule: after the warm-up "constant", "linear" or "cosine"; or constant and at last a decay,
      "wsd" linear or "wsd_sqrt" by the square root of its share that is done (MiniCPM, Hu et al.
      2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392).
    warmup_steps: linear warm-up, at most a fifth of the run.
    final_rate: learning rate of the last step as a share of the peak.
    decay_share: share of the steps that the decay of "wsd" takes.
    weight_decay: decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101).
    b1: decay rate of the first moment.
    b2: decay rate of the second moment.
    eps: Adam's epsilon.
    clip_norm: global gradient norm; 0 = no clipping.
    trainable: pattern of the paths of the parameters that are trained, such as ".*/lora_[ab]"; the
      others keep their values, and have neither gradients nor moments. "" = all.
    selection: name in SELECTIONS: which of these are trained at a step, also by layer.
    masks: () or one table, dict(name=..., **fields) of `train.masks`: which entries of these move.
    layer_decay: rate of a layer as a share of that of the layer above, in (0, 1]; the last layer
      has its square, see `layer_factors`. This factor multiplies the whole step, weight decay
      included.
  """
  learning_rate: float = 3e-4
  schedule: str = "cosine"
  warmup_steps: int = 1000
  final_rate: float = 0.1
  decay_share: float = 0.2
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  clip_norm: float = 1.0
  layer_decay: float = 1.0
  trainable: str = ""
  selection: str = "all"
  masks: tuple[Any, ...] = ()

  def __post_init__(self):
    config_lib.check(self, "optimizer", choices={"selection": SELECTIONS})
    built = tuple(config_lib.build(masks_lib.MASKS, one, what="mask") if isinstance(one, Mapping)
                  else one for one in self.masks)
    if len(built) > 1:
      raise ValueError(f"optimizer.masks has {len(built)} tables; give one, or ().")
    object.__setattr__(self, "masks", built)
    try:
      re.compile(self.trainable)
    except re.error as error:
      raise ValueError(f"optimizer.trainable {self.trainable!r} is no pattern ({error}); a path is "
                       "written model/layers/attention/q/kernel.") from None
    config_lib.check(
        self, "optimizer", choices=dict(schedule=SCHEDULES),
        at_least=dict(warmup_steps=0, final_rate=0, weight_decay=0, eps=0, clip_norm=0),
        between=dict(learning_rate="(0, inf)", b1="[0, 1)", b2="[0, 1)", layer_decay="(0, 1]",
                     decay_share="(0, 1]"))

  def trains(self, path: str) -> bool:
    """Returns whether the parameter of a path is trained."""
    return not self.trainable or bool(re.fullmatch(self.trainable, path))

  def share(self, path: str, leaf: Any, step: jax.Array) -> jax.Array:
    """Share of a parameter that is trained at a step.

    Args:
      path: of the parameter.
      leaf: its value or shape struct.
      step: int32 scalar.

    Returns:
      float32 [], of stacked layers [layers, 1, ...], or of the shape of the leaf; in [0, 1].
    """
    return SELECTIONS[self.selection](path, leaf, step) * jnp.float32(self.trains(path))

  def check(self, params: Any) -> None:
    """Raises ValueError if nothing of `params` is trained."""
    if not any(map(self.trains, tree.flatten(params))):
      raise ValueError(f"optimizer.trainable {self.trainable!r} matches no parameter; paths are "
                       f"such as {', '.join(list(tree.flatten(params))[:3])}.")

  def rate(self, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step, for a run of `steps`."""
    warmup = min(self.warmup_steps, max(steps // 5, 0))
    rest = max(steps - warmup - 1, 1)  # so that the last step has the final rate
    end = self.learning_rate * self.final_rate
    after = {
        "constant": optax.constant_schedule(self.learning_rate),
        "linear": optax.linear_schedule(self.learning_rate, end, rest),
        "cosine": optax.cosine_decay_schedule(self.learning_rate, rest, alpha=self.final_rate),
        "wsd": self._decayed_at_last(steps, rest, lambda share: share),
        "wsd_sqrt": self._decayed_at_last(steps, rest, jnp.sqrt),
    }[self.schedule]

    def value(step):
      ramp = self.learning_rate * (step + 1) / max(warmup, 1)
      return jnp.where(step < warmup, ramp, after(step - warmup)).astype(jnp.float32)

    return value

  def _decayed_at_last(self, steps: int, rest: int, form: Callable) -> Callable:
    """A constant rate with a decay in the last steps, of the step after the warm-up."""
    length = min(max(round(self.decay_share * steps), 1), rest)

    def value(step):
      share = jnp.clip((step - (rest - length)) / length, 0.0, 1.0)
      return self.learning_rate * (1 - (1 - self.final_rate) * form(share))

    return value

  def direction(self) -> optax.GradientTransformation:
    """Clipped gradients to steps of rate 1."""
    return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)

  def build(self, steps: int, parts: Mapping[str, types.Part]) -> optax.GradientTransformation:
    """The gradient transformation of a run of `steps` over the parameters of `parts`."""
    clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
    by_layer = [_scale(lambda x: layer_factors(x, self.layer_decay))] * (self.layer_decay < 1)
    selected = [] if self.selection == "all" else [_by_step(self.share)]
    after = (optax.add_decayed_weights(
        self.weight_decay, mask=lambda params: decay_mask(params, parts)), *by_layer,
             optax.scale_by_learning_rate(self.rate(steps)))
    if self.masks:
      return optax.chain(*selected, self.masks[0].around(
          optax.chain(*clip, self.direction()), optax.chain(*after)), *selected)
    return optax.chain(*selected, *clip, optax.chain(self.direction(), *after), *selected)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
  """Momentum whose matrices are made orthogonal, for the matrices within layers; AdamW elsewhere.

  The matrix is gradient + momentum * (sum of momentum^i times the gradient i steps ago), without a
  correction of its bias, as in the code of Jordan et al. and Liu et al.; its scale does not matter.
  Every matrix of a stack by itself, by five Newton-Schulz iterations, which take singular values
  to about 0.7 .. 1.2. A matrix [m, n] is then scaled by rms * sqrt(max(m, n)), so that its step has
  the root mean square `rms`, that of AdamW's steps: rate and weight decay of AdamW can stay.

  Attributes:
    momentum: decay rate of the (Nesterov) momentum.
    rms: root mean square of a matrix's step at rate 1.
  """
  momentum: float = 0.95
  rms: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "optimizer", between=dict(momentum="[0, 1)", rms="(0, inf)"))

  def direction(self) -> optax.GradientTransformation:
    """Orthogonal momentum for matrices, AdamW's for the rest."""
    size = lambda x: np.float32(self.rms * math.sqrt(max(x.shape[-2:])))
    matrices = optax.chain(_orthogonal(self.momentum), _scale(lambda x: jax.tree.map(size, x)))
    label = lambda params: jax.tree.map(lambda x: "muon" if x else "adamw", is_matrix(params))
    return optax.partition({"muon": matrices, "adamw": super().direction()}, label)


class _Factored(NamedTuple):
  """Number of steps and moments of Adafactor: means of rows, of columns, and whole ones."""
  count: jax.Array
  replicated: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
  """Gradients over the root of second moments that are kept as means of rows and of columns.

  A matrix [m, n] so has m + n moments in place of AdamW's 2 m n. There is no first moment: b1, b2
  and eps are not there to be set. Decay of weights, clipping and rates are as for AdamW; the
  second moments decay by 1 - t ** -`moment_power` at step t.

  Attributes:
    moment_power: see above.
    factored_from: smallest size of the two largest dimensions that have factored moments; smaller
      matrices and vectors have whole ones.
    update_rms: largest root mean square of a parameter's direction, which is scaled down to it; 0 =
      any.
    is_relative: whether a direction is multiplied by the root mean square of its parameter (at
      least 1e-3), so that `learning_rate` is a share of it, such as 1e-2.

  Reference: Shazeer & Stern 2018, arXiv:1804.04235.
  """
  moment_power: float = 0.8
  factored_from: int = 128
  update_rms: float = 1.0
  is_relative: bool = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "optimizer", between=dict(moment_power="(0, inf)"),
                     at_least=dict(factored_from=1, update_rms=0))
    for name in ("b1", "b2", "eps"):
      usual = Optimizer.__dataclass_fields__[name].default
      if getattr(self, name) != usual:
        raise ValueError(f"optimizer.{name} is {getattr(self, name)}, which adafactor does not "
                         f"read; leave it at {usual}.")

  def direction(self) -> optax.GradientTransformation:
    """Factored scaling of every parameter, of every layer of a stack by itself."""
    moments = optax.scale_by_factored_rms(
        decay_rate=self.moment_power, min_dim_size_to_factor=self.factored_from)
    after = [optax.clip_by_block_rms(self.update_rms)] * (self.update_rms > 0) + (
        [optax.scale_by_param_block_rms()] * self.is_relative)
    places: Any = (None, 0, 0, 0)  # of the layers in count and moments
    of_layers = optax.FactoredState(*places)

    def scaled(update, state, param):
      update, state = moments.update(update, state, param)
      for one in after:
        update, _ = one.update(update, optax.EmptyState(), param)
      return update, state

    def is_stacked(path):
      found = _LAYER.fullmatch(path)
      return bool(found) and found[3] is None

    def of_trees(count, found, like):
      return _Factored(count, tuple(
          jax.tree.unflatten(jax.tree.structure(like), [state[i] for state in found])
          for i in (1, 2, 3)))

    def init(params):
      found = [jax.vmap(moments.init)(leaf) if is_stacked(path) else moments.init(leaf)
               for path, leaf in tree.flatten(params).items()]
      return of_trees(jnp.zeros([], jnp.int32), found, params)

    def update(updates, state, params=None):
      kept = zip(*(jax.tree.leaves(x) for x in state.replicated))
      found = []
      for (path, one), param, own in zip(tree.flatten(updates).items(), jax.tree.leaves(params),
                                         kept):
        run = jax.vmap(scaled, (0, of_layers, 0), (0, of_layers)) if is_stacked(path) else scaled
        found.append(run(one, optax.FactoredState(state.count, *own), param))
      count = optax.safe_increment(state.count)
      return (jax.tree.unflatten(jax.tree.structure(updates), [x for x, _ in found]),
              of_trees(count, [x for _, x in found], updates))

    return optax.GradientTransformation(init, update)


def _scale(factors: Callable[[Any], Any]) -> optax.GradientTransformation:
  """Multiplies updates by a tree that depends on their paths and shapes."""
  return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors(updates)))


def _by_step(share: Callable[..., jax.Array]) -> optax.GradientTransformation:
  """Multiplies updates by their shares, which depend on path, leaf and step."""

  def update(updates, state, params=None):
    del params
    updates = tree.map_with_path(
        lambda path, x: x * share(path, x, state.count).astype(x.dtype), updates)
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(
      lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update)


def _orthogonal(momentum: float) -> optax.GradientTransformation:
  """Nesterov momentum made orthogonal over the last two axes, with the state of optax's Muon.

  optax corrects the bias of gradient and momentum apart, which is another direction from the second
  step on; so it is only given what is to be made orthogonal. The constants of optax are no state.
  """
  axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
  inner = optax.contrib.scale_by_muon(
      beta=0.0, nesterov=False, weight_dimension_numbers=lambda x: jax.tree.map(lambda _: axes, x))

  def update(updates, state, params=None):
    mean = lambda old, new: momentum * old + (1 - momentum) * new
    mu = jax.tree.map(mean, state.mu, updates)
    ahead = jax.tree.map(mean, mu, updates)
    updates, done = inner.update(ahead, inner.init(ahead)._replace(count=state.count), params)
    return updates, done._replace(mu=mu, ns_coeffs=())

  return optax.GradientTransformation(
      lambda params: inner.init(params)._replace(ns_coeffs=()), update)


OPTIMIZERS = {"adamw": Optimizer, "muon": Muon, "adafactor": Adafactor}
