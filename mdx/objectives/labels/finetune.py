"""Fine-tuning on labels: of texts and pairs of texts, of words, and scores.

Contents: Labelled (base), Classification, Tagging, Regression, POOLINGS.

Convention: the encoder is `params["model"]`, what is new `params["task"]`: a dense layer with tanh
over the pooled state ([CLS] unless `pooling` says otherwise), and a linear map to the labels; of
words the linear map alone, at the first token of each (Devlin et al. 2019). Labels come in the
batch, float32 [B, L], where `loss_mask` is True (see `mdx.data.layouts.labelled_rows`).

References: Devlin et al. 2019, arXiv:1810.04805; Clark et al. 2020, arXiv:2003.10555 (rates that
decay by layer: `optimizer.layer_decay`); Dukić & Šnajder 2024, arXiv:2401.14556 (layers of a
decoder without the causal mask: `attention`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import heads
from mdx.objectives import reading


def _first(hidden, is_text):
  del is_text
  return hidden[:, 0]


def _last(hidden, is_text):
  last = jnp.maximum(is_text.sum(axis=1) - 1, 0)
  return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def _mean(hidden, is_text):
  share = is_text / jnp.maximum(is_text.sum(axis=1, keepdims=True), 1)
  return jnp.einsum("bl,bld->bd", share.astype(hidden.dtype), hidden)


POOLINGS = {"first": _first, "last": _last, "mean": _mean}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(types.Objective):
  """Base of fine-tuning on labels; sums are over the labelled texts or words.

  Attributes:
    network: the encoder, or decoder.
    mask_id: id of the mask, which no text has.
    labels: the labels, by number; () = those of the training data, which `setup` fills in.
    attention: dict(name="full"), "causal", or "per_layer" with `layers`, one attention each.
    init_std: standard deviation of the new matrices.
    kind: of `mdx.data.sources.labelled.KINDS`, what is labelled.
  """
  network: types.Network
  mask_id: int
  labels: tuple[str, ...] = ()
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  init_std: float = 0.02
  kind: ClassVar[str] = "text"
  counts: ClassVar[bool] = True  # whether labels are names, not numbers
  evaluators: ClassVar[tuple[str, ...]] = ("labels",)

  def __post_init__(self):
    if len(set(self.labels)) != len(self.labels):
      raise ValueError(f"objective.labels names one twice: {self.labels}.")
    config_lib.check(self, "objective", at_least=dict(init_std=0))
    self.visibility  # pylint: disable=pointless-statement  (refuses what is wrong with it)

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"labels": 1.0}

  @property
  def head_form(self) -> str:
    """Name of the form of the part `task`; "" if no model of others has it."""
    return ""

  @property
  def num_outputs(self) -> int:
    """Scores of a text or a word."""
    return max(len(self.labels), 1)

  @classmethod
  def complete(cls, config, data):
    """The config with the labels of its training data, where it names none."""
    labels = config["objective"].get("labels") or ()
    if not isinstance(labels, (list, tuple)) or not all(isinstance(x, str) for x in labels):
      raise ValueError(f"objective.labels must be a list of texts, got {labels!r:.60}.")
    labels = tuple(labels)
    if cls.counts:
      found = data.labels(cls.kind)
      labels = labels or found
      if len(labels) < 2:
        raise ValueError(f"the training data has {len(labels)} label(s), {', '.join(labels)}; "
                         "a task needs 2 or more.")
    return {**config, "data": {**config["data"], "labels": list(labels)},
            "objective": {**config["objective"], "labels": list(labels)}}

  def parts(self):
    """The encoder, and the layers of the task."""
    width = self.network.width

    def init(key):
      keys = jax.random.split(key)
      dense = lambda key, size: {
          "kernel": self.init_std * jax.random.normal(key, (width, size), jnp.float32),
          "bias": jnp.zeros((size,), jnp.float32)}
      return self._layers(dense, keys, width)

    axes = lambda path, shape: ("embed", None) if len(shape) == 2 else (None,)
    return super().parts() | {"task": types.Part(init, axes, is_served=True)}

  def _layers(self, dense, keys, width):
    return {"dense": dense(keys[0], width), "out": dense(keys[1], self.num_outputs)}

  def prepare(self, params, batch, key, context):
    """Draws nothing; the weight is the number of labels."""
    del params, key, context
    return batch, {"labels": mask_lib.allowed_positions(batch).sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of the losses of the labels."""
    return self.score(params, batch, context.noise)[1:]

  def score(self, params, batch, noise=None) -> tuple[jax.Array, dict[str, jax.Array], types.Aux]:
    """Scores of the labels, and the loss of those that are given.

    Returns:
      float32 [B, labels], of words [B, L, labels]; the sums and figures of `__call__`.
    """
    allowed = mask_lib.allowed_positions(batch)
    scores = self._scores(params, batch, noise)
    losses, is_right = self._losses(scores, batch["labels"])
    rows = (losses * allowed).sum(axis=1)
    count = allowed.sum(axis=1, dtype=jnp.float32)
    metrics = {"label_loss": (rows.sum(), count.sum())}
    if is_right is not None:
      metrics["label_accuracy"] = ((is_right & allowed).sum(dtype=jnp.float32), count.sum())
    return scores, {"labels": rows.sum()}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  def _encode(self, params, batch, noise):
    if "token_type_embed" not in params["model"]:  # the two texts of a pair are read alike
      batch = {k: v for k, v in batch.items() if k != "token_types"}
    return reading.encode(self.network, params["model"], batch, attention=self.visibility,
                          noise=noise)

  def _scores(self, params, batch, noise):
    raise TypeError("an objective for labels defines _scores")

  def _losses(self, scores, labels):
    """Loss float32 and rightness bool, broadcastable to the labels [B, L]."""
    targets = labels.astype(jnp.int32)
    scores = scores if scores.ndim == 3 else scores[:, None]
    if scores.shape[1] == 1:
      targets = targets[:, :1]
    return heads.cross_entropy(scores, targets), scores.argmax(axis=-1) == targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Labelled):
  """-log p(label | text or pair of texts), in nats.

  Answer selection is this with two labels, ranked by the probability of the second.

  Attributes:
    pooling: the state that is read: "first", "last" (of a decoder) or "mean".
  """
  pooling: str = "first"

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(pooling=POOLINGS))

  @property
  def head_form(self):
    """A dense layer with tanh and a linear map, of a pooled state."""
    return f"pooled_{self.pooling}"

  def _scores(self, params, batch, noise):
    hidden, segments = self._encode(params, batch, noise), batch.get("segment_ids")
    is_text = jnp.ones(hidden.shape[:2], bool) if segments is None else segments > 0
    pooled = POOLINGS[self.pooling](hidden, is_text)
    dense = heads.affine(params["task"]["dense"], pooled.astype(jnp.float32))
    return heads.affine(params["task"]["out"], jnp.tanh(dense))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Classification):
  """Squared error of a score, in units of `spread`.

  The prediction is middle + spread * output.

  Attributes:
    middle, spread: of the scores of the task; 2.5 and 2.5 for 0 .. 5.
  """
  middle: float = 2.5
  spread: float = 2.5
  counts: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    if self.labels:
      raise ValueError("objective regression predicts numbers; leave objective.labels empty.")
    config_lib.check(self, "objective", between=dict(spread="(0, inf)"))

  @property
  def head_form(self):
    """None, for outputs are in units of `spread`."""
    return ""

  def _scores(self, params, batch, noise):
    return self.middle + self.spread * super()._scores(params, batch, noise)

  def _losses(self, scores, labels):
    return jnp.square((scores - labels) / self.spread), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagging(Labelled):
  """-log p(tag of each word | text), in nats; tags of entities are decoded as they stand."""
  kind: ClassVar[str] = "words"

  @property
  def head_form(self):
    """A linear map of the state of every word's first token."""
    return "words"

  def _layers(self, dense, keys, width):
    del width
    return {"out": dense(keys[1], self.num_outputs)}

  def _scores(self, params, batch, noise):
    hidden = self._encode(params, batch, noise)
    return heads.affine(params["task"]["out"], hidden.astype(jnp.float32))
