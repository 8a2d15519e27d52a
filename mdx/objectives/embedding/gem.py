"""Embeddings of a causal language model that stays one: special tokens as a bottleneck (GEM).

Contents: LAYOUTS, GEM.

Convention: the input of a row is the start token and the text, as of objective `ar`, with special
tokens put in: [start, prefix, specials, suffix]. The suffix reads the prefix through the specials
alone (`visibility.Bottleneck`), so that next-token prediction of the suffix fills them. A special
token is the embedding of the mask plus a trained vector. Special tokens are no targets.

Reference: Zhang et al. 2025, arXiv:2506.04344.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import visibility
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.objectives.causal import ar
from mdx.objectives.embedding import contrastive
from mdx.utils import rng

LAYOUTS = ("split", "copy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GEM(contrastive.Contrastive):
  """(1 - a) * next-token nats of mixed rows + a * InfoNCE of the states at special tokens.

  a is 0 for `contrast_start` steps and `contrast_share` from then on. A row is a plain text with
  probability `raw_rate`, else one with special tokens; the weight of the first term is the number
  of predicted tokens. The second view of the second term has tokens of the text masked at random.

  Attributes (more in `Contrastive`):
    num_special: special tokens of a row; an embedding is the mean of their states.
    layout: of rows with special tokens: "split" (at a random place of the text) or "copy" (the text
      is the prefix, and again the suffix).
    has_bottleneck: whether the suffix cannot see the prefix; False is an ablation.
    raw_rate: share of the rows that are plain texts.
    mask_rate: share of the tokens that are masked in the second view.
    contrast_start: steps of next-token prediction alone.
    contrast_share: a after them, in [0, 1].
  """
  temperature: float = 0.05
  learns_temperature: bool = True
  num_special: int = 1
  layout: str = "split"
  has_bottleneck: bool = True
  raw_rate: float = 0.8
  mask_rate: float = 0.2
  contrast_start: int = 100
  contrast_share: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(layout=LAYOUTS),
                     at_least=dict(num_special=1, contrast_start=0),
                     between=dict(raw_rate="[0, 1]", mask_rate="[0, 1)", contrast_share="[0, 1]"))
    if self.span:
      raise ValueError("objective.span is not read: the second view masks tokens at mask_rate; set "
                       "span=0.")
    if self.pooling != "mean" or dict(self.attention) != {"name": "full"}:
      raise ValueError("objective.pooling and attention are not read: embeddings are the states at "
                       "the special tokens of a causal model; leave them out.")
    if self.network.embed is None:
      raise ValueError("objective gem puts special tokens among the embeddings, and this network "
                       "has none; use one of tokens.")

  @property
  def causal(self) -> ar.AutoRegressive:
    """The language model."""
    return ar.AutoRegressive(network=self.network, mask_id=self.mask_id)

  def bound(self, estimator):
    """The likelihood of plain texts: exact."""
    return self.causal.bound(estimator)

  def reader(self):
    """Reader of the language model."""
    return self.causal.reader()

  @property
  def scales(self) -> Mapping[str, float]:
    """Next tokens and contrast; their shares change within the totals."""
    return {"next_token": 1.0, "contrast": 1.0}

  def check_length(self, length):
    """Raises ValueError for rows without room for special tokens and a text on each side."""
    least = self.num_special + 2
    if length < least:
      raise ValueError(f"data.length {length} has no room for {self.num_special} special tokens "
                       f"and a text on each side; use {least} or more.")

  def check_fields(self, fields):
    """Checks nothing beside what all objectives check: one text makes both views."""
    types.Objective.check_fields(self, fields)

  @classmethod
  def complete(cls, config, data):
    """Refuses rows of several texts."""
    if config["data"].get("packing", "concat") not in ("pad", "crop"):
      raise ValueError(f"data.packing is {config['data'].get('packing', 'concat')!r}, but "
                       "objective gem puts special tokens into one text a row; use crop or pad.")
    if config["data"].get("buckets"):
      raise ValueError("objective gem puts special tokens behind a text, which data.buckets leave "
                       "no room for; leave them out.")
    return super().complete(config, data)

  def parts(self):
    """The model, the temperature, and the vectors of the special tokens."""

    def init(key):
      table = lambda key: self.network.embed(self.network.init(key), jnp.zeros((1,), jnp.int32))
      width = jax.eval_shape(table, key).shape[-1]
      return {"embed": 0.02 * jax.random.normal(key, (self.num_special, width), jnp.float32)}

    return super().parts() | {"special": types.Part(init, is_served=True)}

  def prepare(self, params, batch, key, context):
    """Draws which rows have special tokens and where, and what the second view masks."""
    del params, context
    tokens, is_text = batch["tokens"], mask_lib.text_positions(batch)
    count, index = is_text.sum(axis=1, dtype=jnp.int32), batch["example_index"]
    draw = lambda name: jax.vmap(jax.random.uniform)(rng.per_example(rng.stream(key, name), index))
    room = tokens.shape[1] - self.num_special
    if self.layout == "copy":
      prefix = suffix = jnp.minimum(count, room // 2)
    else:
      kept = jnp.minimum(count, room)
      prefix = jnp.clip(1 + (draw("place") * (kept - 1)).astype(jnp.int32), 1,
                        jnp.maximum(kept - 1, 1))
      suffix = kept - prefix
    is_split = (draw("layout") >= self.raw_rate) & (prefix > 0) & (suffix > 0)
    masked = mask_lib.bernoulli(rng.per_example(rng.stream(key, "mask"), index), self.mask_rate,
                                is_text)
    row, roles, is_target = self._laid(tokens, count, prefix, suffix, is_split)
    batch = batch | {"row": row, "roles": roles, "is_target": is_target, "is_live": count > 0,
                     "count": count, "other": jnp.where(masked, self.mask_id, tokens)}
    number = batch["is_live"].sum(dtype=jnp.float32)
    return batch, {"next_token": is_target.sum(dtype=jnp.float32),
                   "contrast": (2 if self.is_symmetric else 1) * number}

  def _laid(self, tokens, count, prefix, suffix, is_split):
    """Rows [B, L] with special tokens where `is_split`: tokens, roles, and what is predicted."""
    place = jnp.arange(tokens.shape[1])[None]
    prefix, suffix = prefix[:, None], suffix[:, None]
    behind = place - prefix - self.num_special
    source = jnp.where(behind < 0, jnp.minimum(place, prefix - 1),
                       behind if self.layout == "copy" else prefix + behind)
    special = (place >= prefix) & (behind < 0)
    laid = jnp.take_along_axis(tokens, jnp.clip(source, 0, tokens.shape[1] - 1), axis=1)
    laid = jnp.where(special, self.mask_id, laid)
    roles = jnp.where(behind >= 0, visibility.SUFFIX,
                      jnp.where(special, visibility.SPECIAL, visibility.TEXT))
    is_split = is_split[:, None]
    is_target = jnp.where(is_split, ~special & (behind < suffix), place < count[:, None])
    return (jnp.where(is_split, laid, tokens),
            jnp.where(is_split, roles, visibility.TEXT).astype(jnp.int32), is_target)

  def represent(self, params, rows, context):
    """Embeddings of both views, and nats and number of the predicted tokens of each row."""
    noise = lambda name: reading.noise_for(context.noise, name)
    found = {name: self.embed(params, rows[name], rows["count"], rows["example_index"], noise(name))
             for name in ("tokens", "other")}
    nats = self._next_token_nats(params, rows, noise("row"))
    return found | {"nats": nats, "predicted": rows["is_target"].sum(axis=1, dtype=jnp.float32)}

  def _read(self, params, tokens, roles, index, noise):
    """States [B, L, D] of the inputs [start, tokens], of which the last is not read."""
    before = lambda x, first: jnp.concatenate([jnp.full_like(x[:, :1], first), x[:, :-1]], axis=1)
    tokens, roles = before(tokens, self.mask_id), before(roles, visibility.TEXT)
    is_special = roles == visibility.SPECIAL
    number = jnp.clip(jnp.cumsum(is_special, axis=1) - 1, 0, self.num_special - 1)
    added = jnp.where(is_special[..., None], params["special"]["embed"][number], 0.0)
    seen = roles if self.has_bottleneck else jnp.zeros_like(roles)
    return self.network.encode(
        params["model"], types.Inputs(tokens, added=added), attention=visibility.Bottleneck(seen),
        noise=reading.noise_of(noise, {"example_index": index})).last

  def _next_token_nats(self, params, rows, noise):
    hidden = self._read(params, rows["row"], rows["roles"], rows["example_index"], noise)
    return targets_lib.target_losses(self.network, params["model"], hidden, rows["row"],
                                     rows["is_target"], blocked=self.mask_id).sum(axis=1)

  def embed(self, params: types.Params, tokens: jax.Array, count: jax.Array,
            index: jax.Array | None = None, noise: jax.Array | None = None) -> jax.Array:
    """Embeddings float32 [B, D]: the mean of the states at special tokens behind each text.

    Args:
      params: of all parts.
      tokens: int32 [B, L].
      count: int32 [B], tokens of each text.
      index: int32 [B], of the examples, which noise depends on.
      noise: as `Context.noise`.
    """
    place = jnp.arange(tokens.shape[1] + self.num_special + 1)[None]
    behind = place - count[:, None]
    is_special = (behind >= 0) & (behind < self.num_special)
    padded = jnp.pad(tokens, ((0, 0), (0, self.num_special + 1)))
    hidden = self._read(params, jnp.where(is_special, self.mask_id, padded),
                        jnp.where(is_special, visibility.SPECIAL, visibility.TEXT), index, noise)
    read = jnp.pad(is_special[:, :-1], ((0, 0), (1, 0)))  # an input stands one position later
    return self.pool(hidden, read)

  def embedder(self):
    """Embedder of rows with special tokens behind the text."""
    return types.Embedder(self.visibility, is_bound=True, vectors=lambda params, batch: self.embed(
        params, batch["tokens"], mask_lib.text_positions(batch).sum(axis=1, dtype=jnp.int32)))

  def compare(self, params, reps, batch, context):
    """Totals and Aux; `rows` has the nats of the next tokens."""
    views = {name: reps[name] for name in ("tokens", "other")}
    totals, aux = super().compare(params, views, batch, context)
    share = jnp.where(context.step >= self.contrast_start, self.contrast_share, 0.0)
    total, count = reps["nats"].sum(), reps["predicted"]
    return ({"next_token": (1 - share) * total, "contrast": share * totals["contrast"]},
            types.Aux(aux.metrics | {"nats_per_token": (total, count.sum())},
                      {"nll": reps["nats"], "count": count}, {}))
