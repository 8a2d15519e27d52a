"""Contrastive learning of embeddings: a text is to be nearest to its own other view.

Contents: DISTANCES, similarities, info_nce, side, Contrastive.

Convention: rows are those of layout "views" (`tokens` and `other`) or "triplets" (and a hard
`negative`). The other rows of the global batch are negatives; a row of padding is none. With one
text a record (`data.layout="views"`) the views differ by the noise inside the network (SimCSE,
Mirror-BERT) and by a window of masks in the second one.

References: Liu et al. 2021, arXiv:2104.08027 (Mirror-BERT); Gao et al. 2021, arXiv:2104.08821
(SimCSE); van den Oord et al. 2018, arXiv:1807.03748 (InfoNCE); Chen et al. 2020, arXiv:2002.05709
(NT-Xent); Kusupati et al. 2022, arXiv:2205.13147 (Matryoshka); Radford et al. 2021,
arXiv:2103.00020 (a learned temperature, clamped).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import heads
from mdx.networks import pooling as pooling_lib
from mdx.objectives import reading
from mdx.utils import rng

_LARGEST_SCALE = 100.0  # of similarities under a learned temperature
SPAN_UNITS = ("chars", "tokens")


def _cosine(x, y):
  return jnp.einsum("nd,md->nm", x, y, precision=jax.lax.Precision.HIGHEST)


def _nearness(x, y):
  squared = jnp.maximum(2 - 2 * _cosine(x, y), 0.0)
  # The root has no gradient at 0.
  return -jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


# Name -> (rows of length 1 [N, D], [M, D]) -> similarities [N, M].
DISTANCES = {"cosine": _cosine, "l2": _nearness}


def similarities(x: jax.Array, y: jax.Array, distance: str = "cosine") -> jax.Array:
  """Similarities float32 [N, M] of embeddings [N, D] and [M, D] of any length.

  Args:
    x, y: embeddings.
    distance: "cosine", or "l2": minus the distance of the embeddings at length 1.
  """
  return DISTANCES[distance](pooling_lib.normalize(x), pooling_lib.normalize(y))


def info_nce(scores: jax.Array, target: jax.Array, is_candidate: jax.Array
             ) -> tuple[jax.Array, jax.Array]:
  """-log of the share that its own candidate has of a text's exponentiated scores.

  Args:
    scores: float32 [N, M], similarities over the temperature.
    target: int32 [N], number of the own candidate.
    is_candidate: bool, broadcastable to [N, M]; the own one always counts.

  Returns:
    Nats float32 [N], and whether the own candidate has the largest score, bool [N].
  """
  own = jnp.arange(scores.shape[1])[None] == target[:, None]
  scores = jnp.where(is_candidate | own, scores, heads.NEVER)
  return heads.cross_entropy(scores, target), scores.argmax(axis=1) == target


def side(batch: types.Batch, name: str) -> types.Batch:
  """The texts of one field of a batch as a batch of their own: tokens, segments, positions."""
  found = {"tokens": batch[name], "example_index": batch["example_index"]}
  if name == "tokens":
    return found | {k: batch[k] for k in ("segment_ids", "positions") if k in batch}
  segments = batch[f"{name}_segment_ids"]
  return found | {"segment_ids": segments,
                  "positions": jnp.where(segments > 0, jnp.arange(segments.shape[1])[None], 0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(types.Coupled):
  """InfoNCE with in-batch and hard negatives over the global batch, in nats.

  The sum over texts i of -log exp(s(i, i+) / T) / sum over candidates j of exp(s(i, j) / T). With
  `is_symmetric` (NT-Xent) both views of every row are texts, and the candidates of a text are all
  other views; otherwise the first views are texts, the second ones candidates. Hard negatives are
  candidates of every text. The weight is the number of texts.

  Attributes:
    network: the encoder, or decoder.
    mask_id: id of [MASK].
    chars: characters of each id, float32 [V], for windows of characters.
    special_ids: ids that stand for no text.
    pooling: name of a `networks.pooling`, or a table of `name` and fields.
    attention: dict(name="full"), "causal" or another of `networks.attention`.
    temperature: T; under `learns_temperature` the first one.
    learns_temperature: whether 1 / T is trained, on a logarithmic scale, within [1, 100].
    is_symmetric: see above.
    distance: similarity of two embeddings, of DISTANCES.
    dims: Matryoshka: the loss is summed over embeddings cut to their first so many columns; () =
      whole ones alone.
    span: length of the window of the second view whose tokens become [MASK]; 0 = none.
    span_unit: what it counts, "chars" or "tokens".
    span_least: shorter texts have no window.
  """
  network: types.Network
  mask_id: int
  chars: Any = dataclasses.field(default=None, repr=False, compare=False)
  special_ids: tuple[int, ...] = ()
  pooling: Any = "mean"
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  temperature: float = 0.05
  learns_temperature: bool = False
  is_symmetric: bool = True
  distance: str = "cosine"
  dims: tuple[int, ...] = ()
  span: int = 0
  span_unit: str = "chars"
  span_least: int = 30

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(distance=DISTANCES, span_unit=SPAN_UNITS),
                     at_least=dict(span=0, span_least=0), between=dict(temperature="(0, 100]"))
    if self.learns_temperature and not 1 <= 1 / self.temperature <= _LARGEST_SCALE:
      raise ValueError(f"objective.temperature {self.temperature} is learned within "
                       f"[{1 / _LARGEST_SCALE}, 1]; begin in there.")
    for dim in self.dims:
      if not 0 < dim <= self.network.width:
        raise ValueError(f"objective.dims has {dim}; expected 1 to {self.network.width}, the width "
                         "of the embeddings.")
    if len(set(self.dims)) != len(self.dims):
      raise ValueError(f"objective.dims names a width twice: {self.dims}.")
    if self.span and self.span_unit == "chars" and (self.chars is None or not self.chars.any()):
      raise ValueError("objective.span_unit chars needs a tokenizer whose ids stand for "
                       "characters; use tokens.")
    self.visibility  # pylint: disable=pointless-statement  (refuses what is wrong with it)
    self.pool.part(self.network.width)

  @classmethod
  def build(cls, fields, world):
    """Builds it with what the tokenizer says of its ids."""
    tokenizer = world.tokenizer
    return config_lib.construct(
        cls, fields, what="objective", network=world.network, mask_id=tokenizer.mask_id,
        chars=tokenizer.chars_per_token, special_ids=tuple(sorted(tokenizer.special_ids)))

  @classmethod
  def complete(cls, config, data):
    """Refuses batches of one row, in which nothing is compared."""
    if config["batch_size"] < 2:
      raise ValueError(f"batch_size is {config['batch_size']}, but the other rows of a batch are "
                       "the negatives; use 2 or more.")
    return super().complete(config, data)

  def check_fields(self, fields):
    """Raises ValueError for rows of one text."""
    super().check_fields(fields)
    if "other" not in fields:
      raise ValueError("a contrastive objective compares two views of a row; set "
                       "data.layout='views' for texts, or read pairs.")

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)

  @property
  def pool(self):
    """The pooling."""
    return pooling_lib.build(self.pooling)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"contrast": 1.0}

  def parts(self):
    """The model, and what pooling and temperature learn."""
    found, own = dict(super().parts()), self.pool.part(self.network.width)
    if own is not None:
      found["pooling"] = own
    if self.learns_temperature:
      found["temperature"] = types.Part(
          lambda key: {"log_scale": jnp.float32(-math.log(self.temperature))})
    return found

  def prepare(self, params, batch, key, context):
    """Masks a window of the second view; the weight is the number of texts."""
    del params, context
    is_live = mask_lib.text_positions(batch).any(axis=1)
    batch = batch | {"other": self.masked(rng.stream(key, "span"), side(batch, "other")),
                     "is_live": is_live}
    number = is_live.sum(dtype=jnp.float32)
    return batch, {"contrast": 2 * number if self.is_symmetric else number}

  def masked(self, key: jax.Array, texts: types.Batch) -> jax.Array:
    """Tokens [B, L] with a random window of each text masked."""
    tokens = texts["tokens"]
    if not self.span:
      return tokens
    is_text = (texts["segment_ids"] > 0) & ~heads.is_one_of(tokens, self.special_ids)
    sizes = jnp.asarray(self.chars)[tokens] if self.span_unit == "chars" else jnp.ones_like(tokens)
    selected = mask_lib.window(rng.per_example(key, texts["example_index"]),
                               jnp.where(is_text, sizes, 0), self.span, self.span_least)
    return jnp.where(selected, self.mask_id, tokens)

  def vectors(self, params: types.Params, texts: types.Batch,
              noise: jax.Array | None = None) -> jax.Array:
    """Embeddings float32 [B, D] of the texts of a batch; `noise` as `Context.noise`."""
    pool = self.pool
    found = self.network.encode(
        params["model"], reading.inputs_of(texts), attention=self.visibility,
        noise=reading.noise_of(noise, texts), keep_layers=pool.reads_layers)
    return pool(found.layers if pool.reads_layers else found.last, mask_lib.text_positions(texts),
                tokens=texts["tokens"], params=params.get("pooling"))

  def embedder(self):
    """Embedder with the pooling and the attention of the training."""
    own = self.pool.part(self.network.width)
    return types.Embedder(
        self.visibility, settings={"pooling": config_lib.to_dict(self.pooling)},
        pooling_part="" if own is None else "pooling",
        vectors=lambda params, batch: self.vectors(params, side(batch, "tokens")))

  def served(self, config):
    """An export needs no temperature."""
    return {**config, "learns_temperature": False}

  def represent(self, params, rows, context):
    """Embeddings of each text of the rows, each read with noise of its own."""
    names = [name for name in ("tokens", "other", "negative") if name in rows]
    return {name: self.vectors(params, side(rows, name), reading.noise_for(context.noise, name))
            for name in names}

  def scale(self, params: types.Params) -> jax.Array | float:
    """1 / T. Beyond its bounds it stays there and keeps its gradient."""
    if not self.learns_temperature:
      return 1 / self.temperature
    learned = params["temperature"]["log_scale"]
    kept = jnp.clip(learned, 0.0, math.log(_LARGEST_SCALE))
    return jnp.exp(learned + jax.lax.stop_gradient(kept - learned))

  def compare(self, params, reps, batch, context):
    """Totals and Aux; `rows` has the nats of each row, the mean of those of its texts."""
    del context
    is_live = batch["is_live"]
    nats, is_right = self.contrast(reps, is_live, self.scale(params))
    nats, number = nats * is_live[None], is_live.sum(dtype=jnp.float32)
    total, views, rows = nats.sum(), len(nats), nats.mean(axis=0)
    own = (pooling_lib.normalize(reps["tokens"]) * pooling_lib.normalize(reps["other"])).sum(axis=1)
    metrics = {"contrast_nats": (total, views * number),
               "contrast_accuracy": ((is_right & is_live[None]).sum(dtype=jnp.float32),
                                     views * number),
               "positive_cosine": ((own * is_live).sum(), number)}
    return {"contrast": total}, types.Aux(
        metrics, {"nll": rows, "count": is_live.astype(jnp.float32)}, {})

  def contrast(self, reps: Mapping[str, jax.Array], is_live: jax.Array, scale: jax.Array | float
               ) -> tuple[jax.Array, jax.Array]:
    """Nats of each text, summed over `dims`, and whether whole embeddings find the own view.

    Args:
      reps: embeddings [B, D], by name.
      is_live: bool [B], rows that are no padding.
      scale: 1 / T.

    Returns:
      float32 [1 or 2, B]: of the first views, and of the second if `is_symmetric`; bool likewise.
    """
    one, two, size = reps["tokens"], reps["other"], len(is_live)
    more = [reps["negative"]] if "negative" in reps else []
    texts = jnp.concatenate([one, two]) if self.is_symmetric else one
    candidates = jnp.concatenate([texts, *more] if self.is_symmetric else [two, *more])
    number = jnp.arange(len(texts))
    target = (number + size) % len(texts) if self.is_symmetric else number
    is_candidate = jnp.tile(is_live, len(candidates) // size)[None]
    if self.is_symmetric:
      is_candidate = is_candidate & (number[:, None] != jnp.arange(len(candidates))[None])
    score = lambda dim: info_nce(
        scale * similarities(texts[:, :dim], candidates[:, :dim], self.distance), target,
        is_candidate)
    width = texts.shape[1]
    found = {dim: score(dim) for dim in dict.fromkeys((*self.dims, width))}
    nats = sum(found[dim][0] for dim in self.dims or (width,))
    return nats.reshape(-1, size), found[width][1].reshape(-1, size)
