"""Sparse fine-tuning: which entries of the trained parameters move, and when.

Contents: Half, Sparse, Child, MASKS, draw_half, largest.

Convention: a mask is put around an optimizer's moments and around what turns them into steps; what
it leaves out keeps its value bit for bit, also with weight decay. The schedule of the learning rate
goes on over all phases and rounds.

References: Hui et al. 2024, arXiv:2404.18466 (HFT); Sung et al. 2021, arXiv:2111.09839 (FISH);
Xu et al. 2021, arXiv:2109.05687 (Child-Tuning); Ansell et al. 2022, arXiv:2110.07560 (LT-SFT);
Bhardwaj et al. 2024, arXiv:2406.13175 (SHiRA).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdx import config as config_lib
from mdx.utils import rng
from mdx.utils import tree

_UNIT = re.compile(r"((?:.*/)?(?:first_)?layers)/(.+)/[^/]+")  # network, projection or norm
_times = lambda updates, mask: jax.tree.map(lambda x, m: x * m.astype(x.dtype), updates, mask)
_choose = lambda is_first, one, other: jax.tree.map(lambda a, b: jnp.where(is_first, a, b), one,
                                                    other)


def _ranks(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """A random order of the last axis, int32."""
  return jnp.argsort(jnp.argsort(jax.random.uniform(key, shape)))


def _half_of(key: jax.Array, number: int) -> jax.Array:
  """A random half of `number`, bool; of odd numbers one more or less, by chance."""
  one, two = jax.random.split(key)
  return _ranks(one, (number,)) < (number + jax.random.bernoulli(two).astype(jnp.int32)) // 2


def draw_half(key: jax.Array, params: Any, scheme: str) -> Any:
  """Draws the half of the matrices and norms of all layers that a round of HFT trains.

  Args:
    key: typed key, consumed.
    params: tree of parameters whose layers are stacked, or of their shape structs.
    scheme: "category": within each layer half of the projections of attention, of the MLP and of
      the norms; of an odd number one more in half of the layers. "layer": half of the layers.
      "model": half of all matrices.

  Returns:
    Tree of bool, [layers, 1, ...] within layers; the embeddings, the head and the last norm are
    always trained. A bias goes with its matrix.
  """
  leaves, categories = tree.flatten(params), {}
  for path, leaf in leaves.items():
    if found := _UNIT.fullmatch(path):
      above, _, name = found[2].rpartition("/")
      category = (found[1], "norm" if name.endswith("_norm") else above)
      categories.setdefault(category, {})[found[2]] = leaf.shape[0]
  chosen = {}
  if scheme == "model":
    places = [(network, unit, layer) for (network, _), units in categories.items()
              for unit, layers in units.items() for layer in range(layers)]
    is_in, begin = _half_of(key, len(places)), 0
    for (network, _), units in categories.items():
      for unit, layers in units.items():
        chosen[network, unit] = is_in[begin:begin + layers]
        begin += layers
  for i, ((network, _), units) in enumerate(categories.items() if scheme != "model" else ()):
    layers, number = next(iter(units.values())), len(units)
    if scheme == "layer":
      is_in = jnp.repeat(_half_of(rng.stream(key, network), layers)[:, None], number, axis=1)
    else:
      one, two = jax.random.split(jax.random.fold_in(key, i))
      wanted = number // 2 + number % 2 * _half_of(one, layers).astype(jnp.int32)
      is_in = _ranks(two, (layers, number)) < wanted[:, None]
    chosen |= {(network, unit): is_in[:, j] for j, unit in enumerate(units)}

  def of_leaf(path, leaf):
    found = _UNIT.fullmatch(path)
    if not found:
      return jnp.ones((1,) * len(leaf.shape), bool)
    return chosen[found[1], found[2]].reshape((-1,) + (1,) * (len(leaf.shape) - 1))

  return tree.map_with_path(of_leaf, params)


def largest(scores: Any, share: float, scope: str) -> Any:
  """Marks the entries with the largest scores.

  Args:
    scores: tree of float32 arrays.
    share: of the entries that are marked, rounded to a number.
    scope: "all" entries of the tree are compared, or those of a "leaf".

  Returns:
    Tree of bool, of the shapes of the scores.
  """
  def mark(flat):
    order = jnp.argsort(-flat)[:max(1, round(share * flat.size))]
    return jnp.zeros(flat.shape, bool).at[order].set(True)

  if scope == "leaf":
    return jax.tree.map(lambda x: mark(x.ravel()).reshape(x.shape), scores)
  leaves, form = jax.tree.flatten(scores)
  cuts = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
  flat = jnp.split(mark(jnp.concatenate([leaf.ravel() for leaf in leaves])), cuts)
  return jax.tree.unflatten(form, [one.reshape(leaf.shape) for one, leaf in zip(flat, leaves)])


class State(NamedTuple):
  """State of a mask.

  Attributes:
    count: int32 [], updates done.
    mask: tree of bool, or () where it follows from the count.
    scores: tree of float32: sums of squared gradients, or the values at first; or ().
    moments, steps: of the transformations inside.
  """
  count: jax.Array
  mask: Any
  scores: Any
  moments: Any
  steps: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
  """Half fine-tuning: each round trains another random half of the matrices of all layers.

  Attributes:
    scheme: "category", "layer" or "model", as of `draw_half`.
    round_steps: updates of a round.
    resets: whether a round begins with new moments, as an optimizer of its own would.
    seed: of the halves.
  """
  scheme: str = "category"
  round_steps: int = 1000
  resets: bool = True
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "masks", choices=dict(scheme=("category", "layer", "model")),
                     at_least=dict(round_steps=1, seed=0))

  def around(self, moments: optax.GradientTransformation, steps: optax.GradientTransformation
             ) -> optax.GradientTransformation:
    """The optimizer of `moments` and then `steps`, masked."""

    def update(updates, state, params):
      key = jax.random.fold_in(rng.stream(rng.root(self.seed), "half"),
                               state.count // self.round_steps)
      mask, old = draw_half(key, params, self.scheme), state.moments
      if self.resets:
        old = _choose(state.count % self.round_steps == 0, moments.init(params), old)
      updates, new = moments.update(_times(updates, mask), old, params)
      updates, after = steps.update(updates, state.steps, params)
      return _times(updates, mask), State(optax.safe_increment(state.count), (), (), new, after)

    return optax.GradientTransformation(
        lambda params: State(jnp.zeros([], jnp.int32), (), (), moments.init(params),
                             steps.init(params)), update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparse:
  """A fixed share of the entries is trained: those of the largest scores.

  Attributes:
    score: "random" or "magnitude" (SHiRA); "fisher", the sums of the squared gradients of
      `score_steps` batches without updates (FISH, Child-Tuning-D); "change", what an entry moves in
      `score_steps` updates of everything, after which all go back to where they were and train
      with new moments (LT-SFT).
    share: of the entries, in (0, 1].
    score_steps: batches or updates of the scores; 0 with "random" and "magnitude".
    scope: "all" entries are compared, or those of a "leaf" (a parameter of all layers).
    seed: of random scores.
  """
  score: str = "fisher"
  share: float = 0.005
  score_steps: int = 0
  scope: str = "all"
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "masks", between=dict(share="(0, 1]"), choices=dict(
        score=("random", "magnitude", "fisher", "change"), scope=("all", "leaf")),
                     at_least=dict(score_steps=0, seed=0))
    if (self.score in ("fisher", "change")) != bool(self.score_steps):
      raise ValueError(f"masks.score_steps is {self.score_steps} with score {self.score}; fisher "
                       "and change need at least 1, random and magnitude 0.")

  def _scored(self, params: Any, scores: Any) -> Any:
    if self.score == "random":
      key = rng.stream(rng.root(self.seed), "sparse")
      return tree.map_with_path(
          lambda path, x: jax.random.uniform(rng.stream(key, path), x.shape), params)
    if self.score == "fisher":
      return scores
    start = scores if self.score == "change" else jax.tree.map(jnp.zeros_like, params)
    return jax.tree.map(lambda x, y: jnp.abs(x - y).astype(jnp.float32), params, start)

  def around(self, moments: optax.GradientTransformation, steps: optax.GradientTransformation
             ) -> optax.GradientTransformation:
    """The optimizer of `moments` and then `steps`, masked."""
    is_rewound = self.score == "change"

    def init(params):
      scores = {"fisher": lambda: jax.tree.map(jnp.zeros_like, params),
                "change": lambda: jax.tree.map(jnp.copy, params)}.get(self.score, lambda: ())()
      mask = jax.tree.map(lambda x: jnp.full(x.shape, is_rewound), params)
      return State(jnp.zeros([], jnp.int32), mask, scores, moments.init(params), steps.init(params))

    def update(updates, state, params):
      is_chosen, scores = state.count == self.score_steps, state.scores
      if self.score == "fisher":
        scores = jax.tree.map(lambda s, g: s + jnp.where(
            state.count < self.score_steps, jnp.square(g), 0.0), scores, updates)
      mask = jax.lax.cond(
          is_chosen, lambda: largest(self._scored(params, scores), self.share, self.scope),
          lambda: state.mask)
      old = _choose(is_chosen, moments.init(params), state.moments)
      updates, new = moments.update(_times(updates, mask), old, params)
      updates, after = steps.update(updates, state.steps, params)
      updates = _times(updates, mask)
      if is_rewound:
        updates = _choose(is_chosen, jax.tree.map(jnp.subtract, scores, params), updates)
        new = _choose(is_chosen, moments.init(params), new)
      return updates, State(optax.safe_increment(state.count), mask, scores, new, after)

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Child:
  """Child-Tuning-F: each update reads a random share of the entries of the gradient, over it.

  Attributes:
    share: of the entries, in (0, 1].
    seed: of the draws.
  """
  share: float = 0.3
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "masks", between=dict(share="(0, 1]"), at_least=dict(seed=0))

  def around(self, moments: optax.GradientTransformation, steps: optax.GradientTransformation
             ) -> optax.GradientTransformation:
    """The optimizer of `moments` and then `steps`, of masked gradients."""

    def update(updates, state, params):
      key = jax.random.fold_in(rng.stream(rng.root(self.seed), "child"), state.count)
      mask = tree.map_with_path(lambda path, x: jax.random.bernoulli(
          rng.stream(key, path), self.share, x.shape).astype(jnp.float32) / self.share, updates)
      updates, new = moments.update(_times(updates, mask), state.moments, params)
      updates, after = steps.update(updates, state.steps, params)
      return updates, State(optax.safe_increment(state.count), (), (), new, after)

    return optax.GradientTransformation(
        lambda params: State(jnp.zeros([], jnp.int32), (), (), moments.init(params),
                             steps.init(params)), update)


MASKS = {"half": Half, "sparse": Sparse, "child": Child}
