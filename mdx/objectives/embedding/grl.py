"""Representation and generation with one decoder, taught to agree (GRL of ULLME).

Contents: PREFERENCES, DIRECTIONS, consistency, GRL.

Convention: rows are those of layout "triplets": a query (`tokens`), a passage that answers it
(`other`) and one that does not (`negative`). The decoder embeds each with `attention` (all of the
text, by default), and scores a passage as the text that follows the query, read causally as
objective `ar` reads. Scores of generation are a target of those of representation, without
gradient.
Of the published code two things are left out: a projection of the embeddings in the loss, and the
loss of the query's tokens.

Reference: Man et al. 2024, arXiv:2408.03402.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import pooling as pooling_lib
from mdx.objectives import reading
from mdx.objectives.causal import ar
from mdx.objectives.embedding import contrastive


def _dpo(margin, beta, smoothing):
  return -(1 - smoothing) * jax.nn.log_sigmoid(beta * margin) - smoothing * (
      jax.nn.log_sigmoid(-beta * margin))


def _hinge(margin, beta, smoothing):
  del smoothing
  return jnp.maximum(0.0, 1 - beta * margin)


def _ipo(margin, beta, smoothing):
  del smoothing
  return jnp.square(margin - 1 / (2 * beta))


# Name -> (log p(right) - log p(wrong) [P], beta, label smoothing) -> losses [P]; IPO is given means
# over the tokens.
PREFERENCES = {"dpo": _dpo, "hinge": _hinge, "ipo": _ipo}
DIRECTIONS = ("generation", "representation")


def consistency(generated: jax.Array, represented: jax.Array, direction: str) -> jax.Array:
  """Divergence of two distributions over the passages of a query, float32 [B], in nats.

  Args:
    generated, represented: float32 [B, k], logits.
    direction: "generation": KL(generation || representation); "representation": the other.
  """
  first, second = (jax.nn.log_softmax(x, axis=-1) for x in (generated, represented))
  if direction == "representation":
    first, second = second, first
  return (jnp.exp(first) * (first - second)).sum(axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRL(contrastive.Contrastive):
  """InfoNCE + next-token nats of the right passage + preference for it + agreement of both scores.

  Attributes (more in `Contrastive`):
    preference: "dpo" (without a reference), "hinge" or "ipo" (of mean log-probabilities).
    beta: of the preference.
    label_smoothing: of "dpo".
    direction: of the divergence, of DIRECTIONS; the code of the paper has "generation".
    contrast_scale, generation_scale, preference_scale, consistency_scale: factors of the terms.
  """
  distance: str = "l2"
  preference: str = "dpo"
  beta: float = 0.1
  label_smoothing: float = 0.0
  direction: str = "generation"
  contrast_scale: float = 1.0
  generation_scale: float = 1.0
  preference_scale: float = 1.0
  consistency_scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    names = ("contrast_scale", "generation_scale", "preference_scale", "consistency_scale")
    config_lib.check(self, "objective", at_least=dict.fromkeys(names, 0),
                     choices=dict(preference=PREFERENCES, direction=DIRECTIONS),
                     between=dict(beta="(0, inf)", label_smoothing="[0, 0.5]"))
    if self.label_smoothing and self.preference != "dpo":
      raise ValueError(f"objective.label_smoothing is of preference dpo, {self.preference} does "
                       "not read it; leave it at 0.")

  def check_fields(self, fields):
    """Raises ValueError for rows that are no triplets."""
    super().check_fields(fields)
    if "negative" not in fields:
      raise ValueError("objective grl reads a query with a right and a wrong passage; use data of "
                       "layout triplets (lines of three texts).")

  @property
  def causal(self) -> ar.AutoRegressive:
    """The language model."""
    return ar.AutoRegressive(network=self.network, mask_id=self.mask_id)

  def reader(self):
    """Reader of the language model."""
    return self.causal.reader()

  @property
  def scales(self) -> Mapping[str, float]:
    """Factors of the four terms."""
    return {"contrast": self.contrast_scale, "generation": self.generation_scale,
            "preference": self.preference_scale, "consistency": self.consistency_scale}

  def prepare(self, params, batch, key, context):
    """Adds the weights: passages for all terms but the nats, which have tokens."""
    batch, weights = super().prepare(params, batch, key, context)
    number = batch["is_live"].sum(dtype=jnp.float32)
    tokens = (batch["other_segment_ids"] > 0).sum(dtype=jnp.float32)
    return batch, weights | {"generation": tokens, "preference": number, "consistency": number}

  def represent(self, params, rows, context):
    """Embeddings, and nats and tokens of both passages behind the query, [b, 2]."""
    found = super().represent(params, rows, context)
    query = contrastive.side(rows, "tokens")
    sides = [_behind(query, contrastive.side(rows, name)) for name in ("other", "negative")]
    both = {k: jnp.stack([one[k] for one in sides], axis=1).reshape(-1, *sides[0][k].shape[1:])
            for k in sides[0]}
    noise = reading.noise_for(context.noise, "generation")
    scored = self.causal(params, both, context._replace(noise=noise))[1].rows
    return found | {k: scored[k].reshape(-1, 2) for k in ("nll", "count")}

  def compare(self, params, reps, batch, context):
    """Totals and Aux; `rows` has the nats of the contrast."""
    views = {name: reps[name] for name in ("tokens", "other", "negative")}
    totals, aux = super().compare(params, views, batch, context)
    live = batch["is_live"].astype(jnp.float32)
    nll, count = reps["nll"], jnp.maximum(reps["count"], 1.0)
    score = -nll / count if self.preference == "ipo" else -nll
    margin = score[:, 0] - score[:, 1]
    query, *passages = (pooling_lib.normalize(views[name]) for name in views)
    cosine = jnp.stack([(query * passage).sum(axis=1) for passage in passages], axis=1)
    apart = consistency(jax.lax.stop_gradient(-nll / count), self.scale(params) * cosine,
                        self.direction)
    number, total = live.sum(), lambda x: (live * x).sum()
    losses = PREFERENCES[self.preference](margin, self.beta, self.label_smoothing)
    metrics = {"generation_nats": (total(nll[:, 0]), total(reps["count"][:, 0])),
               "preference_accuracy": (total(margin > 0), number),
               "consistency_nats": (total(apart), number)}
    return (totals | {"generation": total(nll[:, 0]), "preference": total(losses),
                      "consistency": total(apart)}, aux._replace(metrics=aux.metrics | metrics))


def _behind(query: types.Batch, passage: types.Batch) -> dict[str, Any]:
  """Rows [B, 2 L] of a query and a passage right behind it, of which the passage is predicted."""
  length = query["tokens"].shape[1]
  sizes = [(x["segment_ids"] > 0).sum(axis=1, keepdims=True) for x in (query, passage)]
  place = jnp.arange(2 * length)[None]
  source = jnp.where(place < sizes[0], place, length + jnp.minimum(place - sizes[0], length - 1))
  tokens = jnp.take_along_axis(jnp.concatenate([query["tokens"], passage["tokens"]], axis=1),
                               source, axis=1)
  is_real = place < sizes[0] + sizes[1]
  return {"tokens": tokens, "segment_ids": is_real.astype(jnp.int32),
          "positions": jnp.where(is_real, place, 0), "loss_mask": is_real & (place >= sizes[0]),
          "example_index": query["example_index"]}
