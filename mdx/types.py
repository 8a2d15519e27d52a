"""The four extension points of mdx, as protocols and named tuples.

Contents: RARE, Params, Batch, Aux, Context, Network, Request, Objective, Sampler, Task.

Convention: a method is *draw, then score*. `Objective.prepare` makes every
random choice of a step on the whole global batch and gives the weight of each
loss term; `Objective.__call__` scores a microbatch and returns sums. Only the
train step divides one by the other, so accumulation is exact.
"""

from __future__ import annotations

from typing import Any, Callable, ClassVar, Mapping, NamedTuple, Protocol

import jax

PyTree = Any
# Name scope of branches that are hardly ever taken; estimates of a program leave them out.
RARE = "rare"
# {"model": ..., "generator": ..., "schedule": ...}: one sub-tree per part.
Params = Mapping[str, PyTree]
# tokens int32 [B, L], example_index int32 [B] (position in the global stream);
# loss_mask bool [B, L], segment_ids int32 [B, L], positions int32 [B, L].
Batch = dict[str, jax.Array]


class Aux(NamedTuple):
  """What an objective reports beside its loss terms.

  Attributes:
    metrics: name -> (sum, weight), float32 scalars; the metric is sum / weight.
    rows: name -> float32 [B]; `nll` is an estimate of each row's negative
      log-likelihood in nats (a bound for diffusion) and `count` the number of
      tokens it is about; read by `eval.likelihood`.
    state: sums to fold into `Context.state`, once a step; {} for most.
  """
  metrics: dict[str, tuple[jax.Array, jax.Array]]
  rows: dict[str, jax.Array]
  state: PyTree


class Context(NamedTuple):
  """What the step hands an objective beside parameters and batch.

  Attributes:
    step: int32 scalar, for rate schedules and annealing.
    frozen: parameters that are not trained (reference policy, teacher).
    state: explicit untrained state; {} for most objectives.
  """
  step: jax.Array
  frozen: Params
  state: PyTree


class Network(NamedTuple):
  """Pure functions over one parameter sub-tree.

  Attributes:
    init: key -> parameter sub-tree (float32).
    encode: (params, tokens [B, L], *, attention, positions, segment_ids, time)
      -> hidden [B, L, D]. `token_types` int32 [B, L] may be given where a network has them (0
      where not). Samplers may add `cache`: () asks for (hidden, cache); a
      cache and `slots` int32 [B, W] run the tokens [B, W] of these places against it
      (`positions` and `segment_ids` stay those of whole rows). `added` [B, L, E] is added to the
      embeddings of the tokens; `states` [B, L, D] go into the first block instead of embeddings.
    head: (params, hidden [..., D], name) -> logits [..., V], float32. `hidden`
      may be gathered to the target positions first.
    vocab_size: number of ids the head scores (padding columns score -1e30).
    unstack: the same parameters in the layout that is fastest for many calls in a
      compiled loop; called once, outside of it.
    vary: (width=1.0, depth=1.0, **fields) -> Network with these shares of the width and of the
      layers, the same embeddings, and other fields; None if it cannot be varied.
  """
  init: Callable[[jax.Array], PyTree]
  encode: Callable[..., jax.Array]
  head: Callable[..., jax.Array]
  vocab_size: int
  unstack: Callable[[PyTree], PyTree] = lambda params: params
  vary: Callable[..., Network] | None = None


class Request(NamedTuple):
  """What a sampler asks a model: the logits of the clean tokens at some places.

  Attributes:
    tokens: int32 [B, S], the canvas; the mask id marks what is unknown.
    noise_level: float32 [B], t of a time-conditioned model.
    positions: int32 [B, S], or None: 0 .. S - 1.
    segment_ids: int32 [B, S], 0 on padding, or None: all one segment.
    targets: int32 [B, T], the places whose logits are wanted, as indices into the
      places that are run; None = all of them.
    cache: None; () to be given the keys and values of the rows; or such a cache.
    slots: int32 [B, W], ascending: with a cache, the places that are run (S: none).
    num_targets: int32 [], or None: targets after so many are no places, in any row, and
      their logits may be anything.
  """
  tokens: jax.Array
  noise_level: jax.Array
  positions: jax.Array | None = None
  segment_ids: jax.Array | None = None
  targets: jax.Array | None = None
  cache: PyTree = None
  slots: jax.Array | None = None
  num_targets: jax.Array | None = None


class Objective(Protocol):
  """A training loss: a frozen dataclass that names this class as its base.

  Its fields are hyper-parameters and networks; `network` is the model. What is
  defined here are defaults.

  Attributes:
    network: the model.
    rows_per_unit: consecutive rows that a microbatch must not cut (pairs,
      coupled masks).
    is_likelihood: whether `rows["nll"]` is a negative log-likelihood or a bound
      of one, so that bits per character mean something.
    is_exact: whether it is the same for every draw.
    generates: name of the sampler that decodes a model trained with it; "" if none does. Such
      an objective has `denoise(params, request)` -> logits float32 [B, T, V], or
      (logits, cache) if the request has a cache.
    has_labels: whether it is trained on labelled records. Such an objective has `labels`, the
      `kind` of what is labelled and `score(params, batch)`; see `objectives.finetune`.
    fresh: parts of the parameters that begin from the seed, whatever `init.checkpoint` has.
    served_as: name of the objective that an exported model is read with, which has the part
      "model" alone; "" if the model stays what it is.
  """
  network: Network
  rows_per_unit: ClassVar[int] = 1
  is_likelihood: ClassVar[bool] = False
  is_exact: ClassVar[bool] = False
  generates: ClassVar[str] = ""
  has_labels: ClassVar[bool] = False
  fresh: ClassVar[tuple[str, ...]] = ()
  served_as: ClassVar[str] = ""

  @property
  def scales(self) -> Mapping[str, float]:
    """Factor of each loss term."""

  def init(self, key: jax.Array) -> Params:
    """Returns all trained parameters, one sub-tree per part."""
    return {"model": self.network.init(key)}

  def check_length(self, length: int) -> None:
    """Raises ValueError if the objective cannot take rows of `length` tokens."""

  def init_state(self) -> PyTree:
    """Returns the untrained state that `Aux.state` is added to once a step."""
    return {}

  def prepare(
      self, params: Params, batch: Batch, key: jax.Array, context: Context
  ) -> tuple[Batch, dict[str, jax.Array]]:
    """Draws on the whole batch; runs no network.

    Returns:
      The batch with the draws added (every field keeps a leading axis B), and
      the weight of each loss term over the whole batch, float32 scalars.
    """

  def __call__(
      self, params: Params, batch: Batch, context: Context
  ) -> tuple[dict[str, jax.Array], Aux]:
    """Returns the sum of each loss term over the rows given, nats, float32."""


class Sampler(Protocol):
  """A decoding rule: a frozen dataclass that `samplers.loop` drives.

  The state is a dict of arrays with leading axis B; it has the `canvas` [B, S], the
  places that are `free`, the `block` being decoded [B] and the steps taken, `nfe` [B].
  `samplers.decoder.Decoder` is the base of those that mdx has.
  """

  def width(self, num_free: int) -> int:
    """Most places of a row that a step looks at, of `num_free` free ones."""

  def max_steps(self, num_free: int) -> int:
    """Upper bound of the network calls of a row."""

  def init(self, canvas: jax.Array, positions: jax.Array, keys: jax.Array):
    """Returns the state for a canvas int32 [B, S]; `keys` [B] of (seed, row)."""

  def active(self, state) -> jax.Array:
    """Rows that still need a step, bool [B]; the others are left alone."""

  def wanted(self, state) -> jax.Array:
    """Places whose logits the step needs, bool [B, S]."""

  def noise_level(self, state) -> jax.Array:
    """What a time-conditioned network is told, float32 [B]."""

  def update(self, state, index: jax.Array, logits: jax.Array, keys: jax.Array):
    """Returns the next state, and what was done; `keys` [B] of (seed, row, step)."""

  def finalize(self, state) -> jax.Array:
    """Returns the decoded canvas int32 [B, S]."""


class Task(Protocol):
  """A problem set with an exact checker, for RL and evaluation."""

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns the examples of a split."""

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text a model is asked to complete."""

  def score(self, examples, completions) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""
