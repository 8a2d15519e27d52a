"""The doors of mdx: protocols and named tuples that an extension is written against.

Contents: RARE, Params, Batch, no_axes, Upkeep, Part, Aux, Context, context, Noise, Inputs, Hidden,
Network, Request, Answer, Reader, Embedder, World, Objective, Coupled, is_coupled, Frontend, Leaf,
Adaptation, Sampler, Task, Drawing, Shown, Environment, Stopped, Solved, Measured, Field,
Layout, Evaluator.

Convention: a method is *draw, then score*. `Objective.prepare` makes every
random choice of a step on the whole global batch and gives the weight of each
loss term; `Objective.__call__` scores a microbatch and returns sums. Only the
train step divides one by the other, so accumulation is exact.

Shapes: B rows, L positions of a row, S positions of a canvas, T target positions, V ids, D width
of the hidden states, E width of the embeddings.
"""

from __future__ import annotations

from typing import (
    Any, Callable, ClassVar, Mapping, NamedTuple, Protocol, Sequence, runtime_checkable)

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx.utils import rng

PyTree = Any
# Name scope of branches that are hardly ever taken; estimates of a program leave them out.
RARE = "rare"
# {"model": ..., "generator": ..., "schedule": ...}: one sub-tree per part.
Params = Mapping[str, PyTree]
# example_index int32 [B] (position in the global stream) and the fields of a layout, such as
# tokens int32 [B, L], loss_mask bool [B, L], segment_ids and positions int32 [B, L].
Batch = dict[str, jax.Array]


def no_axes(path: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
  """Logical axes of a parameter that is the same on every device."""
  del path
  return (None,) * len(shape)


class Upkeep(NamedTuple):
  """Work of a training step on a part, beside the gradient of the objective.

  Attributes:
    moves: path within the part -> whether `after` alone changes the parameter: it has no gradient,
      no moments and no moving average.
    penalty: parameters of the part -> float32 [], added to the loss once a step.
    after: (parameters of the part after the update, gradients of those that are trained,
      step int32 []) -> {path within the part: new value}.
  """
  moves: Callable[[str], bool]
  penalty: Callable[[PyTree], jax.Array]
  after: Callable[[PyTree, PyTree, jax.Array], Mapping[str, jax.Array]]


class Part(NamedTuple):
  """One sub-tree of the parameters, described where it is born.

  Attributes:
    init: key -> sub-tree (float32).
    axes: (path within the part, shape) -> logical axis of each dimension ("vocab", "embed",
      "mlp", "heads" or None). Raises ValueError for a leaf that it does not know.
    decays: path within the part -> whether weight decay applies.
    is_served: whether an export keeps the part.
    is_fresh: whether the part begins from the seed: no base checkpoint has it.
    is_rounded: path within the part -> whether all that read the parameter first round it to the
      type of the activations, so that a copy for decoding may be stored in it.
    upkeep: what a training step does with it beside the gradient of the loss; None: nothing.
    adds: path within the part -> whether a model that the part may begin from (`init.parts`) does
      not have the parameter (cross-attention): it begins from the seed.
  """
  init: Callable[[jax.Array], PyTree]
  axes: Callable[[str, tuple[int, ...]], tuple[str | None, ...]] = no_axes
  decays: Callable[[str], bool] = lambda path: path.rpartition("/")[2] == "kernel"
  is_served: bool = False
  is_fresh: bool = True
  is_rounded: Callable[[str], bool] = lambda path: False
  upkeep: Upkeep | None = None
  adds: Callable[[str], bool] = lambda path: False


class Aux(NamedTuple):
  """Figures that an objective reports beside its loss terms.

  Attributes:
    metrics: name -> (sum, weight), float32 scalars; the metric is sum / weight.
    rows: name -> float32 [B]; `nll` is an estimate of each row's negative
      log-likelihood in nats (a bound for diffusion) and `count` the number of
      tokens scored; read by `eval.likelihood`.
    state: sums to fold into `Context.state`, once a step; {} for most.
  """
  metrics: dict[str, tuple[jax.Array, jax.Array]]
  rows: dict[str, jax.Array]
  state: PyTree


class Context(NamedTuple):
  """Facts of a step that an objective is told beside parameters and batch.

  Attributes:
    step: int32 scalar, for rate schedules and annealing.
    frozen: parameters that are not trained, by name (reference policy, teacher).
    state: explicit untrained state; {} for most objectives.
    noise: typed key [] of the noise inside networks (dropout) in this step; None = no noise.
  """
  step: jax.Array
  frozen: Params
  state: PyTree
  noise: jax.Array | None = None


def context(step: jax.Array | int, frozen: Params | None = None, state: PyTree = None, *,
            key: jax.Array | None = None) -> Context:
  """Builds the context of a step.

  Args:
    step: int32 scalar.
    frozen: as of `Context`; None: {}.
    state: as of `Context`; None: {}.
    key: of the step, in training; only folded. None, in evaluation, is without noise.
  """
  return Context(jnp.asarray(step, jnp.int32), {} if frozen is None else frozen,
                 {} if state is None else state, None if key is None else rng.stream(key, "noise"))


class Noise(NamedTuple):
  """Keys of the noise inside a network, in one reading of some rows.

  Attributes:
    shared: typed key [], of noise in the weights, which all rows share.
    rows: typed keys [B], of noise in the activations.
  """
  shared: jax.Array
  rows: jax.Array


class Inputs(NamedTuple):
  """Inputs of a network.

  Attributes:
    tokens: int32 [B, L], or None where `states` are given.
    positions: int32 [B, L], or None: 0 .. L - 1.
    segment_ids: int32 [B, L], 0 on padding, or None: all one segment.
    token_types: int32 [B, L], where the network has an embedding of them, or None: 0.
    added: [B, L, E], added to the embeddings of the tokens, or None.
    states: [B, L, D], fed to the first block instead of embeddings, or None.
    context: [B, C, E], states that cross-attention reads, or None.
    context_mask: bool [B, C], positions of `context` that are real, or None: all.
    prefix: [B, P, E], vectors that stand before the tokens as their embeddings would, or None.
      Positions and segments, where given, are of all P + L.
  """
  tokens: jax.Array | None
  positions: jax.Array | None = None
  segment_ids: jax.Array | None = None
  token_types: jax.Array | None = None
  added: jax.Array | None = None
  states: jax.Array | None = None
  context: jax.Array | None = None
  context_mask: jax.Array | None = None
  prefix: jax.Array | None = None


class Hidden(NamedTuple):
  """Outputs of a network's blocks.

  Attributes:
    last: [B, L, D], states that the head reads.
    layers: [num_layers, B, L, D], states after each block, if they were asked for, or None.
    cache: keys and values of all layers, if a cache was given, or None.
    attention: float32 [num_layers, B, heads, L, S], probabilities of the self-attention, if they
      were asked for, or None.
  """
  last: jax.Array
  layers: jax.Array | None = None
  cache: PyTree = None
  attention: jax.Array | None = None


class Network(NamedTuple):
  """Pure functions over one parameter sub-tree.

  Attributes:
    init: key -> parameter sub-tree (float32).
    encode: (params, inputs, *, attention, time=None, cache=None, slots=None, noise=None,
      keep_layers=False, keep_attention=False) -> Hidden. `cache` () asks for a cache; a
      cache and `slots` int32 [B, W] run the tokens [B, W] of these positions against it
      (`positions` and `segment_ids` stay those of whole rows). `noise`: a `Noise`, for dropout;
      None = no dropout.
    head: (params, hidden [..., D], name) -> logits [..., V], float32. `hidden`
      may be gathered to the target positions first.
    vocab_size: number of ids the head scores (padding columns score -1e30).
    width: D of the hidden states.
    num_layers: number of blocks, each of which may have an attention of its own.
    part: the parameters as a `Part`; None: they are the same on every device.
    unstack: the same parameters in the layout that is fastest for many calls in a
      compiled loop; called once, outside of it.
    vary: (width=1.0, depth=1.0, **fields) -> Network with these shares of the width and of the
      layers, the same embeddings, and other fields; None if it cannot be varied.
    reads_time: whether what it says depends on `time`.
    embed: (params, tokens int [...]) -> their rows of the embedding table [..., E], without
      positions or norms; None: it has none.
    head_chunk: positions that a loss asks the head for at a time; 0 = all of them.
    context_width: width of the states that its cross-attention reads; 0: it has none.
  """
  init: Callable[[jax.Array], PyTree]
  encode: Callable[..., Hidden]
  head: Callable[..., jax.Array]
  vocab_size: int
  width: int = 0
  num_layers: int = 0
  part: Part | None = None
  unstack: Callable[[PyTree], PyTree] = lambda params: params
  vary: Callable[..., Network] | None = None
  reads_time: bool = False
  embed: Callable[[PyTree, jax.Array], jax.Array] | None = None
  head_chunk: int = 0
  context_width: int = 0


class Request(NamedTuple):
  """A sampler's question to a model: the logits of the clean tokens at some positions.

  Attributes:
    tokens: int32 [B, S], the canvas; the mask id marks unknown tokens.
    noise_level: float32 [B], t of a time-conditioned model.
    positions: int32 [B, S], or None: 0 .. S - 1.
    segment_ids: int32 [B, S], 0 on padding, or None: all one segment.
    targets: int32 [B, T], the positions whose logits are wanted, as indices into the
      positions that are run; None = all of them.
    cache: None; () to be given the keys and values of the rows; or such a cache.
    slots: int32 [B, W], ascending: with a cache, the positions that are run (S: none).
    num_targets: int32 [], or None: targets after so many are no positions, in any row, and
      their logits may be anything.
    before: int32 [B], the token before each row, for models that read from left to right; None:
      the model's start token.
    context: [B, C, E], states that cross-attention reads, or vectors that stand before the rows, or
      None.
    context_mask: bool [B, C], positions of `context` that are real, or None: all.
  """
  tokens: jax.Array
  noise_level: jax.Array
  positions: jax.Array | None = None
  segment_ids: jax.Array | None = None
  targets: jax.Array | None = None
  cache: PyTree = None
  slots: jax.Array | None = None
  num_targets: jax.Array | None = None
  before: jax.Array | None = None
  context: jax.Array | None = None
  context_mask: jax.Array | None = None


class Answer(NamedTuple):
  """A model's answer to a `Request`.

  Attributes:
    logits: float32 [B, T, V].
    hidden: [B, T, D], the states that the logits were read from (nothing is computed for them).
    cache: the new cache, if the request had one, or None.
    states: [B, S, D], the states that the logits of every position of the rows are read from
      (nothing is computed for them); None with a cache, or of a model without such states.
    drafted: int32 [B, T], tokens that a rule which `drafts` proposed; the logits are of the causal
      reading behind them.
  """
  logits: jax.Array
  hidden: jax.Array | None = None
  cache: PyTree = None
  states: jax.Array | None = None
  drafted: jax.Array | None = None


class Reader(NamedTuple):
  """The way in which a trained model is asked for tokens.

  Attributes:
    answer: (params, request) -> Answer.
    attention: the value of `networks.attention` that the model is read with.
    noise: dict(name=...), the noise schedule of the model; None: it has none, and is asked at
      the share of masks.
    sampler: name of the decoding rule that suits the model.
    caches: caches that samplers may use with the model, "none" always being one.
    is_shifted: whether a position is read from the state of the one before it, which a window over
      a cache must then include.
    by_blocks: (params, request, clean int32 [B, S]) -> Answer of a model of blocks at the request's
      tokens, each block of them behind the clean blocks before it; None: the model has none.
    by_tokens: likewise of the causal reading: each token of the request, a mask, behind the clean
      tokens before it, in blocks of one token; None: the model has none.
    start_id: start token of an empty row, where rows begin with a first token of their own, which
      nothing predicts; -1: rows begin otherwise.
    given: fields of learned rules of decoding that the model gives, by name: what its training
      made for them.
    reads_context: whether every request needs a `context`, without which nothing can be sampled.
  """
  answer: Callable[[Params, Request], Answer]
  attention: Any
  noise: Mapping[str, Any] | None = None
  sampler: str = "confidence"
  caches: tuple[str, ...] = ("prefix", "dual")
  is_shifted: bool = False
  by_blocks: Callable[[Params, Request, jax.Array], Answer] | None = None
  by_tokens: Callable[[Params, Request, jax.Array], Answer] | None = None
  start_id: int = -1
  given: Mapping[str, Any] = {}
  reads_context: bool = False


class Embedder(NamedTuple):
  """The way in which a model reads a text for its embedding.

  Attributes:
    attention: the value of `networks.attention` that the model is read with.
    start_ids: ids in front of a text, beside those of the tokenizer, unless it begins so.
    settings: fields of `eval.embedders.Settings` that the model was trained for.
    pooling_part: name of the part with the parameters of its pooling; "": it has none.
    project: (params, pooled states float32 [B, D]) -> embeddings [B, E]; None: as they are.
    vectors: (params, batch) -> embeddings float32 [B, D] as in training, of rows with `tokens`,
      `segment_ids` and `example_index`; None: the model was not trained for any.
    is_bound: whether `vectors` is the only way to read a text (rows of a form of its own).
  """
  attention: Any
  start_ids: tuple[int, ...] = ()
  settings: Mapping[str, Any] = {}
  pooling_part: str = ""
  project: Callable[[Params, jax.Array], jax.Array] | None = None
  vectors: Callable[[Params, Batch], jax.Array] | None = None
  is_bound: bool = False


class World(NamedTuple):
  """Facts that `Objective.build` may ask for.

  Attributes:
    network: the model.
    tokenizer: special ids, edges of words, fingerprint, `encode`.
    data: facts of the training data, read when asked for: `labels(kind)`, `dates()`, `layout`;
      None where there is none (a model that is loaded to be read).
    frozen: name -> objective of each model of `config.frozen`: how it is read; {} where a model
      is loaded to be read.
    objective: config -> another objective in this world, for one that is made of others.
  """
  network: Network
  tokenizer: Any
  data: Any = None
  frozen: Mapping[str, Any] = {}
  objective: Callable[[Mapping[str, Any]], Any] | None = None


class Objective(Protocol):
  """A training loss: a frozen dataclass that names this class as its base.

  The fields are hyper-parameters and networks; `network` is the model. Defaults of the methods
  are defined here.

  Attributes:
    network: the model.
    rows_per_unit: consecutive rows that a microbatch must not cut (pairs,
      coupled masks).
    evaluators: names in `eval.evaluators.EVALUATORS` that a run is evaluated with.
    trains_model: whether the loss has a gradient for the parts of a base checkpoint; if not, the
      others alone are trained where `optimizer.trainable` says nothing.
    reads_tokens: whether its rows are token ids, which are those of one vocabulary.
    signal: "frames" of sound or "patches" of images, which its rows have; "" of tokens alone.
  """
  network: Network
  rows_per_unit: ClassVar[int] = 1
  evaluators: ClassVar[tuple[str, ...]] = ("loss",)
  trains_model: ClassVar[bool] = True
  reads_tokens: ClassVar[bool] = True
  signal: ClassVar[str] = ""

  @classmethod
  def complete(cls, config: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    """Returns the config of a run with what its training data says (labels, dates).

    The config is written into the workdir, so that the model is read without its data.

    Args:
      config: of the run.
      data: facts of the training data, read when asked for; see `World.data`.

    Raises:
      ValueError: data that the objective cannot be trained on.
    """
    del data
    return config

  @classmethod
  def build(cls, fields: Mapping[str, Any], world: World) -> Objective:
    """Builds the objective of a config.

    Args:
      fields: `config.objective`.
      world: the network, the tokenizer, and what else an objective may need.

    Raises:
      ValueError: an unknown field, or a value that the objective refuses.
    """
    return config_lib.construct(cls, fields, what="objective", network=world.network,
                                mask_id=world.tokenizer.mask_id)

  def parts(self) -> Mapping[str, Part]:
    """Returns the sub-trees of the parameters, by name; "model" is the network's."""
    own = self.network.part or Part(self.network.init)
    return {"model": own._replace(is_served=True, is_fresh=False)}

  def init(self, key: jax.Array) -> Params:
    """Returns all trained parameters, one sub-tree per part, each from its own key.

    The model takes `key` itself, so that an objective which adds parts begins with the same one.
    """
    return {name: part.init(key if name == "model" else rng.stream(key, name))
            for name, part in self.parts().items()}

  @property
  def gate(self) -> tuple[str, float] | None:
    """Returns the term that is no part of the loss, and the share of its gradient that it drops.

    The gradient of the others is dropped by `train.gating` where that of the term goes against it.
    None: there is none.
    """
    return None

  @property
  def scales(self) -> Mapping[str, float]:
    """Factor of each loss term."""

  def check_length(self, length: int) -> None:
    """Raises ValueError if the objective cannot take rows of `length` tokens."""

  def longest(self, length: int) -> int:
    """Returns the positions that the network is given at a time, of rows of `length` tokens."""
    return length

  def check_fields(self, fields: Sequence[str]) -> None:
    """Raises ValueError if rows with these fields mean something that the loss leaves out."""
    if "is_shared" in fields:
      raise ValueError("data.fill eos_together masks tokens together, which objective "
                       f"{type(self).__name__} as it is set does not; use objective diffusion with "
                       "mask_draw=bernoulli, or another fill.")

  def init_state(self) -> PyTree:
    """Returns the untrained state that `Aux.state` is added to once a step."""
    return {}

  def look(self, frozen: Params, batch: Batch, context: Context) -> Batch:
    """Returns the rows with what frozen models say of them (model-guided masks).

    Runs by microbatch and without gradient, before `prepare`; what it adds depends on (seed, step,
    example) alone. Every field keeps a leading axis B.
    """
    del frozen, context
    return batch

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

  def confidence(self, params: Params, batch: Batch) -> jax.Array:
    """Returns the largest probability that the model gives any label at each position of rows.

    Float32 [B, L], of uncorrupted rows: for masks that a frozen model guides. By default that of
    the tokens of its reader.
    """
    reader = self.reader()
    if reader is None:
      raise TypeError(f"{type(self).__name__} does not say how confident it is")
    request = Request(batch["tokens"], jnp.zeros(len(batch["tokens"])), batch.get("positions"),
                      batch.get("segment_ids"))
    return jax.nn.softmax(reader.answer(params, request).logits, axis=-1).max(axis=-1)

  def reader(self) -> Reader | None:
    """Returns how a trained model is asked for tokens; None: it writes no text."""
    return None

  @property
  def visibility(self) -> Any:
    """The value of `networks.attention` that a whole text is read with."""
    raise TypeError(f"{type(self).__name__} does not say how it reads a text")

  def embedder(self) -> Embedder:
    """Returns how texts are read for their embeddings; the model itself is `params["model"]`."""
    return Embedder(self.visibility)

  def states(self, params: Params, batch: Batch) -> jax.Array | None:
    """Returns the states [B, L, D] that a linear probe reads of rows without corruption.

    None: those of `network`, which reads the tokens of the rows with full attention.
    """
    del params, batch
    return None

  def is_state(self, batch: Batch) -> jax.Array:
    """Returns which of the `states` of rows are real, bool [B, L]."""
    return batch["segment_ids"] > 0

  def bound(self, estimator: str) -> Objective | None:
    """Returns the objective whose `rows["nll"]` an estimator of likelihoods averages over draws.

    Args:
      estimator: one of `eval.likelihood.ESTIMATORS`; "exact", which asks for one whose `nll` is
        the likelihood itself, the same for every draw; or "subsets", which asks for a `Maskable`
        one if there is one.

    Returns:
      None if the model has no likelihood (or, for "exact", only a bound of it).

    Raises:
      ValueError: the estimator does not fit.
    """
    del estimator
    return None

  def served(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `config.objective` that an exported model is read with, of its own `config`."""
    return config

  def also_served(self, params: Params) -> Mapping[str, tuple[Mapping[str, Any], PyTree]]:
    """Returns other networks that an export to a library of models may hold.

    name -> (arguments of `Network.vary` that make it of the model's, its parameters).
    """
    del params
    return {}


class Maskable(Objective, Protocol):
  """A bound that `eval.subsets` averages over masks of its own choice.

  `prepare` takes them from the batch: `is_masked` bool [B, L], `token_weight` float32 [B, L] and
  `noise_level` float32 [B].
  """

  @property
  def reads_time(self) -> bool:
    """Returns whether the cost of a masked token depends on the time beside the masks."""

  def blocks_of(self, positions: np.ndarray) -> np.ndarray:
    """Returns the numbers of the positions' blocks, int [n].

    The cost of a block depends on the masks of no other block.
    """

  def given_count(self, count: np.ndarray, total: int, quantile: np.ndarray
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a number of masks in a block says of the time.

    Args:
      count: int [n], masked tokens, 1 .. `total`.
      total: tokens of the block.
      quantile: float64 [n] in (0, 1).

    Returns:
      weight: float64 [n]; the bound is the sum over counts of weight times the mean cost of a
        masked token. level: float64 [n], the quantile of the noise level given the count.
    """


class Coupled(Objective, Protocol):
  """An objective whose loss compares the rows of the whole global batch (contrastive losses).

  The step represents rows by microbatch, compares all of them, and takes one backward pass a
  microbatch: microbatches do not change the loss.
  """

  def represent(self, params: Params, rows: Batch, context: Context) -> PyTree:
    """Returns representations [b, ...] of any rows of the batch."""

  def compare(self, params: Params, reps: PyTree, batch: Batch, context: Context
              ) -> tuple[dict[str, jax.Array], Aux]:
    """Returns totals and Aux from the representations [B, ...] of all rows."""

  def __call__(self, params, batch, context):
    """Represents and compares the rows given, as if they were all."""
    return self.compare(params, self.represent(params, batch, context), batch, context)


def is_maskable(objective: Objective | None) -> bool:
  """Returns whether masks may be given to a bound."""
  return Maskable in type(objective).__mro__


def is_coupled(objective: Objective) -> bool:
  """Returns whether the loss compares rows of the global batch."""
  return Coupled in type(objective).__mro__


class Frontend(Protocol):
  """An entrance of a network for rows that are no tokens: frames, patches."""

  def part(self) -> Part:
    """Returns its parameters."""

  def embed(self, params: PyTree, batch: Batch) -> Inputs:
    """Returns the inputs of a network, with `states` [B, L, D]; `params` are its own sub-tree."""


class Leaf(NamedTuple):
  """One parameter that an adaptation puts beside a kernel.

  Attributes:
    shape: without the axis of stacked layers.
    init: (key, shape, dtype) -> values; the shape may have a leading axis of stacked layers.
    axes: logical axis of each dimension.
    dtype: of the values.
    decays: whether weight decay applies.
    is_trained: whether it is trained where a config says nothing else.
    is_state: whether `Adaptation.stepped` alone changes it.
  """
  shape: tuple[int, ...]
  init: Callable[..., jax.Array]
  axes: tuple[str | None, ...]
  dtype: Any = "float32"
  decays: bool = True
  is_trained: bool = True
  is_state: bool = False


class Adaptation(Protocol):
  """Changes of a network, inside the scanned block.

  A frozen dataclass; the defaults change nothing. `own` are the leaves of one site, by name.

  Attributes:
    targets: names of the sites that are adapted: projections, of q, k, v, o, gate, up, down; or
      branches, of attention and mlp; or memory; or input.
    replaces: name of the leaf, of the kernel's shape, that a projection has in place of its
      kernel; "" = the kernel stays.
    is_trained: whether its parameters, alone, are trained if a config says nothing else.
    has_noise: whether `kernel` is told noise in training.
    reads_kernel: whether new parameters are taken from the kernel, by `started`.
    reads_inputs: whether they are taken from what a trained model reads, too, by `calibrated`.
    has_upkeep: whether a step calls `penalty` and `stepped`.
  """
  targets: tuple[str, ...]
  replaces: ClassVar[str] = ""
  is_trained: ClassVar[bool] = True
  has_noise: ClassVar[bool] = False
  has_upkeep: ClassVar[bool] = False

  @property
  def reads_kernel(self) -> bool:
    """Returns whether `started` does anything; by default not."""
    return False

  @property
  def reads_inputs(self) -> bool:
    """Returns whether `calibrated` does anything; by default not."""
    return False

  @property
  def calibration_rows(self) -> int:
    """Returns the rows of training that are read for `calibrated`."""
    return 0

  def calibrated(self, own: Mapping[str, np.ndarray], kernel: np.ndarray, moments: np.ndarray
                 ) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """Returns what `started` does, on the host, of inputs x whose sum of x x^T is `moments`."""
    del moments
    return own, kernel

  def check(self, name: str, shape: tuple[int, int]) -> None:
    """Raises ValueError for a site that the adaptation does not fit, by its name and shape."""
    del name, shape

  def leaves(self, shape: tuple[int, int], axes: tuple[str | None, ...]) -> Mapping[str, Leaf]:
    """Returns the parameters of a site; their names depend on neither argument.

    Args:
      shape: [in, out] of a projection's kernel, [D, D] of a branch or of input, [K, H] of memory.
      axes: logical axis of each dimension.
    """
    del shape, axes
    return {}

  def started(self, own: Mapping[str, jax.Array], kernel: jax.Array
              ) -> tuple[Mapping[str, jax.Array], jax.Array]:
    """Returns new parameters as taken from the kernel [in, out], and the kernel without them."""
    return own, kernel

  def penalty(self, own: Mapping[str, jax.Array], kernel: jax.Array) -> jax.Array:
    """Returns what a site adds to the loss, float32 [layers], of stacked leaves and kernels."""
    del own
    return jnp.zeros(kernel.shape[:1])

  def stepped(self, owned: Mapping[str, Mapping[str, jax.Array]],
              grads: Mapping[str, Mapping[str, jax.Array]], step: jax.Array
              ) -> Mapping[str, Mapping[str, jax.Array]]:
    """Returns the leaves that change after an update, of all sites together.

    Args:
      owned: path of the site -> leaves, with the axis of stacked layers.
      grads: the same of the gradients, without leaves that are not trained.
      step: int32 [], number of the update.
    """
    del owned, grads, step
    return {}

  def replacing(self, kernel: jax.Array) -> Mapping[str, jax.Array]:
    """Returns the leaves that replace a kernel [layers, in, out], which is donated."""
    raise TypeError(f"{type(self).__name__} replaces no kernel")

  def kernel(self, own: Mapping[str, jax.Array], kernel: jax.Array | None,
             noise: jax.Array | None) -> jax.Array | None:
    """Returns the kernel that is applied; `noise` is a typed key [], None at evaluation."""
    del own, noise
    return kernel

  def output(self, own: Mapping[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the map's output, of its input x [..., in] and its plain output y [..., out]."""
    del own, x
    return y

  def branch(self, own: Mapping[str, jax.Array], x: jax.Array, hidden: jax.Array) -> jax.Array:
    """Returns what a block's attention or MLP adds, of its input and plain output [B, L, D]."""
    del own, x
    return hidden

  def attended(self, own: Mapping[str, jax.Array], query: jax.Array, mixed: jax.Array) -> jax.Array:
    """Returns what attention gives its last projection, of queries and plain values [B, L, N, H].

    Of memory.
    """
    del own, query
    return mixed

  def prompt(self, own: Mapping[str, jax.Array]) -> jax.Array:
    """Returns states [P, D] that are read before every row, of input; they do not read the row."""
    raise TypeError(f"{type(self).__name__} has no prompt")

  def memory(self, own: Mapping[str, jax.Array], batch: int) -> tuple[jax.Array, jax.Array] | None:
    """Returns keys and values [B, P, K, H] that attention sees before the row's own, or None."""
    del own, batch
    return None

  def merged(self, own: Mapping[str, jax.Array], kernel: jax.Array) -> jax.Array:
    """Returns the kernel that does the same without the adaptation; ValueError if none does."""
    found = self.kernel(own, kernel, None)
    assert found is not None  # a kernel was given
    return found


class Sampler(Protocol):
  """A decoding rule: a frozen dataclass that `samplers.loop` drives.

  The state is a dict of arrays with leading axis B; it has the `canvas` [B, S], the
  positions that are `free`, the `block` being decoded [B] and the steps taken, `nfe` [B]; and,
  where rows are padded, the loop adds their `segment_ids` [B, S].
  `samplers.decoder.Decoder` is the base of those that mdx has.

  Attributes:
    acts: whether a step draws actions from a distribution of the rule's own, which are recorded.
    drafts: whether a step makes a second call, which reads the tokens that `draft` proposes from
      left to right; `update` is given its answer.
    searches: whether it looks for likely texts of an autoregressive model, without draws.
    policy: run that trained the rule's parameters; "" = the model's own.
    told: fields whose value a compiled program may be given at each call, and the value of each at
      which the program is another (None: there is none such).
  """
  told: ClassVar[Mapping[str, float | None]] = {}
  acts: ClassVar[bool] = False
  drafts: ClassVar[bool] = False
  searches: ClassVar[bool] = False
  policy: str = ""

  @property
  def copies(self) -> int:
    """Returns the rows of each canvas, which stand together and may continue one another."""
    return 1

  def parts(self) -> Mapping[str, Part]:
    """Returns the parameters that a learned rule reads, by name; {} of a rule without any."""
    return {}

  @property
  def deployed(self) -> Sampler:
    """Returns the rule as it decodes after its training; by default itself."""
    return self

  def under(self, trained: Sampler, source: str) -> Sampler:
    """Returns this rule with parameters that were trained, deployed; by default itself.

    Args:
      trained: the rule of the rollouts that its parameters were trained on.
      source: their run, for messages.

    Raises:
      ValueError: the parameters are not for this rule as it is set.
    """
    del trained, source
    return self

  def width(self, num_free: int) -> int:
    """Returns the most positions of a row that a step looks at, of `num_free` free ones."""

  def max_steps(self, num_free: int) -> int:
    """Returns an upper bound of the network calls of a row."""

  def init(self, canvas: jax.Array, positions: jax.Array, keys: jax.Array):
    """Returns the state for a canvas int32 [B, S]; `keys` [B] of (seed, row)."""

  def row_draws(self, state) -> Mapping[str, jax.Array]:
    """Returns what a rule that `acts` drew for each row before its first step, [B] each."""

  def action_log_prob(self, params: Params, record: Mapping[str, Any]) -> jax.Array:
    """Returns the log-probability of recorded actions, float32 [N, T], of a rule that `acts`.

    Args:
      params: of the rule.
      record: fields of a `samplers.trajectory.Trajectory` of level "canvas"; no model is run.
    """

  def reward(self, record: Mapping[str, Any], reward: jax.Array) -> jax.Array:
    """Returns what answers are worth to a rule that `acts`, of the verifier's rewards [N]."""

  def active(self, state) -> jax.Array:
    """Returns which rows still need a step, bool [B]; the others are left alone."""

  def wanted(self, state) -> jax.Array:
    """Returns the positions whose logits the step needs, bool [B, S]."""

  def noise_level(self, state) -> jax.Array:
    """Returns the time that a time-conditioned network is told, float32 [B]."""

  def draft(self, state, index: jax.Array, answer: Answer) -> jax.Array:
    """Returns proposed tokens int32 [B, W] at `index`, of a rule that `drafts`."""

  def update(self, params: Params, state, index: jax.Array, answer: Answer, keys: jax.Array):
    """Returns the next state, and a `decoder.Step` of what was done.

    Args:
      params: of the rule, as `parts` describes them.
      state: of the rows.
      index: int32 [B, W], the positions that `answer` is about.
      answer: of the model.
      keys: typed keys [B] of (seed, row, step).
    """

  def finalize(self, state) -> jax.Array:
    """Returns the decoded canvas int32 [B, S]."""


class Task(Protocol):
  """A problem set with an exact checker, for RL and evaluation.

  Attributes:
    blank: text of one token that stands for a token to fill in; "" where an answer follows its
      prompt.
  """
  blank: str = ""

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns the examples of a split; an "answer" in one is kept beside generations."""

  def prompt(self, example: dict[str, Any]) -> str:
    """Returns the text a model is asked to complete."""

  def score(self, examples, completions) -> dict[str, Any]:
    """Returns {"reward": float32 [N], "correct": bool [N]}."""


class Drawing(NamedTuple):
  """How an answer is drawn.

  Attributes:
    lines: positions of each line, from the top.
    is_wrong: bool [G], positions that break a rule.
    box: side of the boxes of a grid, whose lines are as long as there are; 0: lines of text.
  """
  lines: tuple[tuple[int, ...], ...]
  is_wrong: Sequence[bool]
  box: int = 0


@runtime_checkable
class Shown(Task, Protocol):
  """A task that says how people are shown its problems.

  Attributes:
    noun: of its problems, plural: "4x4 Sudokus".
    rules: what is asked and what is right, one sentence.
  """
  noun: str
  rules: str

  def render(self, example: dict[str, Any], tokens: Sequence[str | None]) -> Drawing | None:
    """Returns how an answer is drawn; None: as running text.

    Args:
      example: of the task.
      tokens: texts of the answer's G positions, None where masked.
    """


@runtime_checkable
class Environment(Task, Protocol):
  """A task of several turns: a tool or a user answers what the model writes.

  A transcript is the text that follows a prompt: all turns and replies, which `score` is given too.
  """

  def reply(self, examples: Sequence[dict[str, Any]], transcripts: Sequence[str]
            ) -> list[str | None]:
    """Returns the text that follows each transcript; None: the episode is over."""


@runtime_checkable
class Stopped(Environment, Protocol):
  """An environment whose turns also end behind some texts, such as a closing tag.

  Attributes:
    stops: these texts; what the model writes behind one in a turn is cut.
  """
  stops: tuple[str, ...]


@runtime_checkable
class Solved(Task, Protocol):
  """A task that solves its problems itself, for supervised training."""

  def trajectories(self, split: str, stage: str) -> list[list[dict[str, str]]]:
    """Returns conversations, {"role", "content"} a turn, of a stage of training."""


@runtime_checkable
class Measured(Task, Protocol):
  """A task with further figures of an answer, beside its reward."""

  def measures(self, examples: Sequence[dict[str, Any]], completions: Sequence[str]
               ) -> dict[str, np.ndarray]:
    """Returns figures by name, float32 [N] each."""


class Field(NamedTuple):
  """One field of a row of data.

  Attributes:
    dtype: numpy name of its type.
    shape: of a row's value; a name stands for that key of the data config ("length", "channels").
    pad: value of padding; the name "pad_id" stands for the tokenizer's.
  """
  dtype: str
  shape: tuple[int | str, ...] = ("length",)
  pad: Any = 0


class Layout(Protocol):
  """A form of rows: the fields that a record becomes; the defaults of its methods are here.

  A *document* is a record as arrays, before packing: the fields of a row, positions first and of
  any number, without those that packing makes (`segment_ids`, `positions`, `loss_mask`).

  Attributes:
    fields: name -> Field of a finished row, `loss_mask` and `segment_ids` among them. The length
      of the first one is a document's.
    packings: names of `data.pack.PACKINGS` that rows of this kind allow.
    marks: bool fields that a document has beside those of a row: `is_given`, positions that are no
      targets, and `is_empty`, padding within a document.
    takes: names of layouts whose records become rows of this one too, where `data.layout` asks.
    reads: keys of the data config that rows of other layouts leave at their defaults.
  """
  fields: Mapping[str, Field]
  packings: tuple[str, ...]
  marks: tuple[str, ...] = ()
  takes: tuple[str, ...] = ()
  reads: tuple[str, ...] = ()

  def under(self, cfg: Any) -> Layout:
    """Returns the layout as a data config has it; ValueError for a config that does not fit."""
    del cfg
    return self

  def row(self, record: Mapping[str, Any], cfg: Any, tokenizer: Any) -> Mapping[str, Any] | None:
    """Returns a record as a document; None: it has nothing to learn from.

    Fields of the layout that are left out are padding.

    Raises:
      ValueError: a record that does not fit.
    """

  def texts(self, record: Mapping[str, Any], tokenizer: Any = None, *, targets: bool = True
            ) -> list[str]:
    """Returns the texts of a record: those that are predicted, or all of them.

    Args:
      record: of a source.
      tokenizer: decodes records that are token ids; None: there must be none.
      targets: whether texts that are only given are left out.
    """
    del record, tokenizer, targets
    return []

  def check(self, records: Sequence[Mapping[str, Any]], where: Callable[[int], str], cfg: Any,
            tokenizer: Any) -> None:
    """Raises ValueError for a record that would fail; every row of the first ones is made anyway.

    Args:
      records: of one split of a source.
      where: index of a record -> where it stands, for messages.
      cfg: the data config.
      tokenizer: makes the ids.
    """


class Evaluator(Protocol):
  """A measurement of a model, during training and after it.

  Attributes:
    best_by: name of the figure whose largest value says which weights of a run are kept; "" = the
      last ones.
    has_curve: whether its figures over the steps are a curve worth keeping (an accuracy).
    curve: names of figures that its points have beside, or instead of, an accuracy.
    from_start: whether it is also asked before the first step.
  """
  best_by: str = ""
  has_curve: bool = False
  curve: tuple[str, ...] = ()
  from_start: bool = False

  def __init__(self, parts: Any):
    """Takes the parts of a run, an `eval.evaluators.Parts`; compiles nothing yet."""

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: Objective) -> None:
    """Raises ValueError for a config or an objective that it does not fit; reads no data."""

  def __call__(self, params: Params, frozen: Params, *, quick: bool) -> dict[str, float]:
    """Returns figures by name, of a part of the held-out data if `quick`."""

  def text(self, results: Mapping[str, Any]) -> str:
    """Returns the final figures for the console; "" = nothing."""
    del results
    return ""
