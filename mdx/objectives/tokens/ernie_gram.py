"""ERNIE-Gram: n-grams are masked and predicted as one.

Contents: ErnieGram.

Convention: a selected unit, an n-gram of the lexicon or a token, becomes a single [MASK], and the
text closes up behind it, so that nothing tells how long the unit was. The positions of a row are
[text of L | placeholders]: there is one placeholder for each hidden token, at the position it would
have if the unit began at its [MASK]; it sees the text and itself. `params["model"]` is the model;
the n-gram tables, the detector and the generator are left out when it is served.

Reference: Xiao et al. 2021, arXiv:2010.12148.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import lexicon as lexicon_lib
from mdx.corruption import mask as mask_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import visibility
from mdx.objectives import reading
from mdx.objectives.tokens import detection
from mdx.objectives.tokens import electra
from mdx.objectives.tokens import selection
from mdx.utils import rng


def _take(values, order):
  return jnp.take_along_axis(values, order, axis=1)


def _front(chosen):
  """Positions of each row with the chosen ones, bool [B, L], in front, in order: int32 [B, L]."""
  return jnp.argsort(~chosen, axis=1, stable=True)


def _as_dict(logits, targets):
  ids, uniform = targets
  found = {"nats": heads.cross_entropy(logits, ids),
           "is_right": (logits.argmax(axis=-1) == ids).astype(jnp.float32)}
  return found if uniform is None else found | {
      "sample": heads.sample(jax.lax.stop_gradient(logits), uniform)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErnieGram(selection.Selection):
  """-log p of the n-gram or token that each [MASK] stands for, and of its tokens.

  coarse: of the unit, over tokens and n-grams together, at its [MASK]
  fine: of every token of it, over tokens, at its placeholder
  generator and rtd, with a `sampled_rate`: a smaller model is trained with the first term; for this
    share of the [MASK]s the model reads a sample of it, also an n-gram as one, and tells at every
    position of the text but the [MASK]s left whether that is what stood there.
  Each is a mean over what it counts: units, their tokens, units, positions.

  The embedding of an n-gram that is read is that of [MASK] plus a row of the table that n-grams are
  predicted with. Without n-grams the first term is that of `mlm` with [MASK] alone.

  Attributes (more in `Selection`; `unit` is "ngram", no spans):
    fine_weight: factor of the second term; 0 = explicit n-gram prediction, without placeholders.
    sampled_rate: see above; 0 = no generator.
    rtd_weight: factor of the last term.
    generator_width, generator_depth: shares of the model's heads and layers.

  Raises:
    ValueError: values out of range, or another unit.
  """
  unit: str = "ngram"
  mask_draw: str = "exact_count"
  fine_weight: float = 1.0
  sampled_rate: float = 0.0
  rtd_weight: float = 1.0
  generator_width: float = 0.25
  generator_depth: float = 1.0
  needs_lexicon: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    if self.unit != "ngram" or self.span_max > 1:
      raise ValueError("objective.name ernie_gram masks single n-grams (unit ngram, span_max 1), "
                       f"got {self.unit} and {self.span_max}.")
    config_lib.check(self, "objective", at_least=dict(fine_weight=0, rtd_weight=0),
                     between=dict(sampled_rate="[0, 1]"))

  def check_length(self, length: int) -> None:
    """Raises ValueError if every unit of a row of `length` single tokens would be masked."""
    if max(1, round(self._highest * length)) >= length:
      raise ValueError(f"objective.mask_rate {self._highest} leaves nothing to read of a row of "
                       f"{length} tokens; lower it, or raise data.length.")

  @property
  def _highest(self) -> float:
    return max(self.mask_rate, self.final_mask_rate)

  @property
  def scales(self) -> Mapping[str, float]:
    """The terms there are."""
    terms = {"coarse": 1.0} | ({"fine": self.fine_weight} if self.fine_weight else {})
    return terms | ({"generator": 1.0, "rtd": self.rtd_weight} if self.sampled_rate else {})

  @functools.cached_property
  def generator_network(self) -> types.Network:
    """The generator's network."""
    return self.network.vary(self.generator_width, self.generator_depth, **electra.GENERATOR)

  @property
  def _num_rows(self) -> int:
    """Rows of the table of n-grams: a multiple of 8, and never none."""
    return max(8, -(-self.grams.num_grams // 8) * 8)

  def parts(self):
    """The model, the tables of n-grams, and what the generator does not share with the model."""
    model = self.network.part._replace(init=lambda key: self.network.init(rng.stream(key, "model")),
                                       is_served=True, is_fresh=False)
    parts = {"model": model, "ngram": types.Part(self._init_ngram, _ngram_axes, _ngram_decays)}
    if self.sampled_rate:
      within = lambda path: path.removeprefix("network/")
      own = self.generator_network.part
      parts["generator"] = types.Part(
          self._init_generator,
          lambda path, shape: (_ngram_axes(path, shape) if within(path) == path else
                               own.axes(within(path), shape)),
          lambda path: _ngram_decays(path) if within(path) == path else own.decays(within(path)))
      width = self.network.width
      mlp = heads.mlp_part(width, width, 1)
      parts["rtd"] = mlp._replace(init=lambda key: mlp.init(rng.stream(key, "rtd")))
    return parts

  def init(self, key):
    """Initializes all parts, from the key itself."""
    return {name: part.init(key) for name, part in self.parts().items()}

  def _projection(self, key, name, network, columns):
    """A map from the states of a network to the width of the tables."""
    kernel = jax.random.normal(rng.stream(key, name), (network.width, columns), jnp.float32)
    return {"embed_projection": {"kernel": kernel / math.sqrt(network.width),
                                 "bias": jnp.zeros(columns, jnp.float32)}}

  def _init_ngram(self, key):
    # Rows of the tables are spread as those of the model's embedding.
    table = self.network.init(rng.stream(key, "model"))["embed"]["embedding"]
    columns, std = table.shape[1], jnp.std(table)
    normal = lambda name, *shape: jax.random.normal(rng.stream(key, name), shape, jnp.float32)
    ngram = self._projection(key, "ngram projection", self.network, columns) | {
        "embed": {"embedding": std * normal("ngram", self._num_rows, columns)},
        "lm_head": {"bias": jnp.zeros(self._num_rows, jnp.float32)}}
    if self.fine_weight:
      ngram["placeholder_embed"] = {
          "embedding": std * normal("placeholder", self.grams.longest, columns)}
    return ngram

  def _init_generator(self, key):
    model = jax.eval_shape(self.network.init, rng.root(0))
    columns = model["embed"]["embedding"].shape[1]
    own = self.generator_network.init(rng.stream(key, "generator"))
    return self._projection(key, "generator projection", self.generator_network, columns) | {
        "network": {k: v for k, v in own.items() if k not in electra.EMBEDDINGS or k not in model}}

  def served(self, config):
    """MLM, without n-grams."""
    del config
    return {"name": "mlm"}

  def _over_grams(self, network: types.Network) -> types.Network:
    """`network` with a head over ids, then n-grams; its parameters are `network` and `ngram`."""

    def head(params, hidden, name):
      ngram, table = params["ngram"], params["ngram"]["embed"]["embedding"]
      states = jax.nn.gelu(heads.affine(ngram["embed_projection"], hidden))
      scores = jnp.matmul(states, table.T.astype(states.dtype), preferred_element_type=jnp.float32)
      scores += jnp.expand_dims(ngram["lm_head"]["bias"], tuple(range(scores.ndim - 1)))
      column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
      scores = jnp.where(column < self.grams.num_grams, scores, heads.NEVER)
      return jnp.concatenate([network.head(params["network"], hidden, name), scores], axis=-1)

    return network._replace(head=head)

  def _room(self, length: int) -> int:
    """Placeholders of a row: at least as many as it can have hidden tokens."""
    if not self.fine_weight:
      return 0
    if self.mask_draw == "bernoulli":
      return length
    return min(length, self.grams.longest * math.ceil(self._highest * length + 0.5))

  def prepare(self, params, batch, key, context):
    """Selects units and lays out the rows.

    Returns:
      The batch with, [B, L + placeholders] each, `noisy_tokens`, `row_positions`, `row_segments`
      and `placeholder` (which of its unit; -1 in the text); of the text [B, L] `is_coarse`,
      `coarse_target` (an id, or V + an n-gram, V being the padded vocabulary), `is_counted`; of the
      placeholders `is_fine`, `fine_target`; and with a generator `is_sampled` and `uniforms`.
    """
    tokens, draws = batch["tokens"], self.draws(batch, key)
    length, allowed = tokens.shape[1], mask_lib.allowed_positions(batch)
    units, grams = lexicon_lib.units(batch, self.grams)
    selected = self.draw(draws("mask"), self.rate(context.step), allowed, units)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), tokens.shape)
    segments = batch.get("segment_ids", jnp.ones_like(tokens))
    is_removed = selected & (units != index)
    positions = self._closed(batch.get("positions", index), is_removed)
    num_ids = self._num_ids
    label = jnp.where(grams >= 0, num_ids + grams, tokens)
    order = _front((segments > 0) & ~is_removed)
    is_text = index < ((segments > 0) & ~is_removed).sum(axis=1, keepdims=True)
    is_coarse = _take(selected, order) & is_text
    rows = {"noisy_tokens": jnp.where(is_coarse, self.mask_id, _take(tokens, order)),
            "row_positions": _take(positions, order),
            "row_segments": jnp.where(is_text, _take(segments, order), 0),
            "placeholder": jnp.full_like(tokens, -1)}
    if "token_types" in batch:
      rows["row_types"] = _take(batch["token_types"], order)
    fields = {"is_coarse": is_coarse, "coarse_target": _take(label, order),
              "is_counted": _take(allowed, order) & is_text}
    if room := self._room(length):
      hidden = _front(selected)[:, :room]
      within = index - units
      fields["is_fine"] = index[:, :room] < selected.sum(axis=1, keepdims=True)
      fields["fine_target"] = _take(tokens, hidden)
      more = {"noisy_tokens": jnp.full_like(hidden, self.mask_id),
              "row_positions": _take(_take(positions, units) + within, hidden),
              "row_segments": jnp.where(fields["is_fine"], _take(segments, hidden), 0),
              "placeholder": _take(within, hidden)}
      if "row_types" in rows:
        more["row_types"] = _take(batch["token_types"], hidden)
      rows = {k: jnp.concatenate([v, more[k]], axis=1) for k, v in rows.items()}
    if self.sampled_rate:
      uniform = lambda name: jax.vmap(lambda k: jax.random.uniform(k, (length,)))(draws(name))
      fields["uniforms"] = uniform("sample")
      fields["is_sampled"] = is_coarse & (uniform("sampled") < self.sampled_rate)
    batch = batch | rows | fields | {"num_hidden": selected.sum(axis=1, dtype=jnp.float32)}
    count = lambda x: x.sum(dtype=jnp.float32)
    weights = {"coarse": count(is_coarse), "generator": count(is_coarse)}
    if room:
      weights["fine"] = count(fields["is_fine"])
    if self.sampled_rate:
      weights["rtd"] = count(self._detected(batch))
    return batch, {k: weights[k] for k in self.scales}

  @functools.cached_property
  def _num_ids(self) -> int:
    """Columns of the model's head, padding included."""
    return jax.eval_shape(self.network.init, rng.root(0))["embed"]["embedding"].shape[0]

  def _closed(self, positions, is_removed):
    """Positions once the removed ones are gone."""
    removed = jnp.cumsum(is_removed, axis=1, dtype=jnp.int32)
    index = jnp.arange(positions.shape[1], dtype=jnp.int32)[None]
    start = jnp.clip(index - positions, 0, positions.shape[1] - 1)  # of the document
    return positions - (removed - _take(removed - is_removed, start))

  def _detected(self, batch):
    """Positions at which the model detects replacements: not the [MASK]s that are left."""
    return batch["is_counted"] & (~batch["is_coarse"] | batch["is_sampled"])

  def _encode(self, network, params, batch, tokens, attention, noise, added=None):
    names = {"row_positions": "positions", "row_segments": "segment_ids",
             "row_types": "token_types"}
    rows = {ours: batch[k][:, :tokens.shape[1]] for k, ours in names.items() if k in batch}
    return network.encode(params, reading.inputs_of(rows, tokens, added=added),
                          attention=attention, noise=reading.noise_of(noise, batch)).last

  def _embedded(self, ngram, index):
    """Rows of the table of n-grams, 0 where `index` is negative: [B, L, E]."""
    rows = jnp.take(ngram["embed"]["embedding"], jnp.maximum(index, 0), axis=0)
    return jnp.where(index[..., None] >= 0, rows, 0.0)

  def read(self, params, batch, context):
    """Lets the generator write, and reads text and placeholders with the model."""
    length, ngram = batch["tokens"].shape[1], params["ngram"]
    tokens, added = batch["noisy_tokens"], None
    if self.sampled_rate:
      own = {k: params["model"][k] for k in electra.EMBEDDINGS if k in params["model"]}
      own |= params["generator"]["network"]
      network = self.generator_network
      hidden = self._encode(network, own, batch, tokens[:, :length], attention_lib.Full(),
                            reading.noise_for(context.noise, "generator"))
      found = self.at_targets(
          self._over_grams(network),
          {"network": own, "ngram": ngram | {"embed_projection":
                                             params["generator"]["embed_projection"]}},
          hidden, (batch["coarse_target"], batch["uniforms"]), batch["is_coarse"],
          blocked=self.mask_id, score=_as_dict)
      sample, is_sampled = found["sample"].astype(jnp.int32), batch["is_sampled"]
      is_gram = is_sampled & (sample >= self._num_ids)
      written = jnp.where(is_sampled & ~is_gram, sample, tokens[:, :length])
      tokens = jnp.concatenate([written, tokens[:, length:]], axis=1)
      index = jnp.where(is_gram, sample - self._num_ids, -1)
      added = self._embedded(ngram, jnp.pad(index, ((0, 0), (0, tokens.shape[1] - length)),
                                            constant_values=-1))
      batch = batch | {"generator_nats": found["nats"], "generator_right": found["is_right"],
                       "is_replaced": is_sampled & (sample != batch["coarse_target"])}
    if tokens.shape[1] > length:
      table, which = ngram["placeholder_embed"]["embedding"], batch["placeholder"]
      marks = jnp.where(which[..., None] >= 0, jnp.take(table, jnp.maximum(which, 0), axis=0), 0.0)
      added = marks if added is None else added + marks
    return batch, self._encode(self.network, params["model"], batch, tokens,
                               visibility.Placeholders(length), context.noise, added)

  def score(self, params, batch, hidden, context):
    """The terms; `rows` has the nats of the units a hidden token."""
    del context
    length, is_coarse = batch["tokens"].shape[1], batch["is_coarse"]
    coarse = self.at_targets(
        self._over_grams(self.network), {"network": params["model"], "ngram": params["ngram"]},
        hidden[:, :length], (batch["coarse_target"], None), is_coarse, score=_as_dict)
    rows, num_units = coarse["nats"].sum(axis=1), is_coarse.sum(dtype=jnp.float32)
    totals = {"coarse": rows.sum()}
    metrics = {"unit_nats": (totals["coarse"], num_units),
               "unit_accuracy": (coarse["is_right"].sum(), num_units)}
    if self.fine_weight:
      fine = self.at_targets(self.network, params["model"], hidden[:, length:],
                             batch["fine_target"], batch["is_fine"], rate=1.0)
      totals["fine"] = fine.sum()
      metrics["masked_nats"] = (totals["fine"], batch["is_fine"].sum(dtype=jnp.float32))
    if self.sampled_rate:
      totals["generator"] = batch["generator_nats"].sum()
      metrics["generator_nats"] = (totals["generator"], num_units)
      metrics["generator_accuracy"] = (batch["generator_right"].sum(), num_units)
      network = self.network._replace(
          head=lambda params, hidden, name: heads.mlp(params, hidden)[..., 0])
      nats, _, found = detection.losses(network, params["rtd"], hidden[:, :length],
                                        batch["is_replaced"], self._detected(batch))
      totals["rtd"], metrics = nats.sum(), metrics | found
    return totals, types.Aux(metrics, {"nll": rows, "count": batch["num_hidden"]}, {})


def _ngram_axes(path, shape):
  return {"embed/embedding": ("vocab", "embed"), "lm_head/bias": ("vocab",)}.get(
      path, (None, "embed") if len(shape) == 2 else (None,))


def _ngram_decays(path):
  return path in ("embed/embedding", "embed_projection/kernel")
