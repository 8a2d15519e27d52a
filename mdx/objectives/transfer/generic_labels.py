"""Generic labels: what a model would say had it never read the texts to forget.

Contents: generic_logits, appeared, GenericLabels.

A reinforced model, trained further on the texts to forget, says which tokens they raise; the
baseline reads a translation in which anchors (names, inventions) are replaced by generic ones:

  v_generic = v_base(translation) - alpha * relu(v_reinforced(text) - v_base(translation))

The model is trained on softmax(v_generic) at the text itself. An anchor that stands there again has
no loss, and the replacements of anchors that appeared are made unlikely; or the model would learn
to change names within a text.

Reference: Eldan and Russinovich 2023, arXiv:2310.02238 (Who's Harry Potter). For masked diffusion
it is our reading: masks of the text are also those of its translation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import replace as replace_lib
from mdx.objectives import wrapping
from mdx.objectives.transfer import readings
from mdx.objectives.transfer import sides
from mdx.utils import rng
from mdx.utils import tree


def generic_logits(base: jax.Array, reinforced: jax.Array, alpha: float) -> jax.Array:
  """base - alpha * relu(reinforced - base), float32 [..., V]; never above `base`."""
  return base - alpha * jax.nn.relu(reinforced - base)


def appeared(replaced: jax.Array, is_visible: jax.Array, vocab_size: int, *, is_causal: bool
             ) -> jax.Array:
  """Returns whether an id begins the replacement of an anchor that is seen, bool [B, L or 1, V].

  Args:
    replaced: int32 [B, L], at the first token of an anchor the id that begins its replacement,
      else -1.
    is_visible: bool [B, L], tokens that the model sees.
    vocab_size: V.
    is_causal: whether a position sees those before it alone.
  """
  seen = jax.nn.one_hot(jnp.where(is_visible, replaced, -1), vocab_size, dtype=jnp.int32)
  return (seen.cumsum(axis=1) - seen if is_causal else seen.sum(axis=1, keepdims=True)) > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenericLabels(wrapping.About):
  """Cross-entropy with the generic labels of texts to forget, in nats per target.

  Rows are those of layout "unlearning", whose source has the anchors. `config.frozen` has the
  "reference" (the baseline) and the "reinforced" model. Of masked diffusion the labels are those of
  masked tokens, weighted as in its bound. All models are read without dropout.

  Attributes:
    model: the objective that the model was trained with, `ar` or `diffusion`.
    reinforced: objective of the frozen model; None: the same.
    alpha: how far raised tokens are pushed down; 0 leaves the anchors alone to do it.
    repeat_penalty: taken off the logits of replacements whose anchor is seen; the paper says that
      they are reduced and not by how much.
    retain_scale: factor of the nats per target of the texts to keep; the paper has none of them.
  """
  model: types.Objective
  reinforced: Any = dataclasses.field(default=None, repr=False, compare=False)
  alpha: float = 5.0
  repeat_penalty: float = 5.0
  retain_scale: float = 0.0

  evaluators = ("forgetting",)

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(alpha=0, repeat_penalty=0, retain_scale=0))
    if type(self.model) not in readings.READINGS:
      raise ValueError(f"objective.model {type(self.model).__name__} has no generic labels; use "
                       "ar or diffusion.")

  @classmethod
  def complete(cls, config, data):
    """The config; ValueError for a frozen model that is missing."""
    for name, what in (("reference", 'dict(checkpoint="init")'),
                       ("reinforced", "dict(base=CONFIG), or dict(checkpoint=...)")):
      if name not in (config.get("frozen") or {}):
        raise ValueError(f"this objective reads the frozen model {name!r}; set "
                         f"config.frozen.{name} = {what}.")
    return config

  @classmethod
  def build(cls, fields, world):
    """The model's own objective is built in the same world."""
    return wrapping.build(cls, fields, world, reinforced=world.frozen.get("reinforced"))

  @property
  def scales(self) -> Mapping[str, float]:
    """The labels, and the texts to keep where they count."""
    return {"generic": 1.0} | ({"retain": self.retain_scale} if self.retain_scale else {})

  def check_fields(self, fields):
    """Raises ValueError for rows without texts to forget and to keep."""
    sides.check_fields(self.model, fields)

  def prepare(self, params, batch, key, context):
    """Draws the masks of text and translation; the weight counts the targets with a label."""
    found = sides.drawn(self.model, "forget", 1, params, batch, rng.stream(key, "forget"), context)
    rows = {k.removeprefix("forget/"): v[:, 0] for k, v in found.items()}
    reading = readings.READINGS[type(self.model)]
    inputs, is_target, weight, level = reading.draw(self.model, rows)
    has_label = batch["generic_index"] >= 0
    origin = jnp.maximum(batch["generic_origin"], 0)
    hidden = (inputs == self.model.mask_id) & (rows["tokens"] != self.model.mask_id)
    generic_hidden = jnp.take_along_axis(hidden, origin, axis=1) & (
        batch["generic_segment_ids"] > 0)
    rows = {"inputs": inputs, "segment_ids": rows["segment_ids"], "noise_level": level,
            "is_target": is_target & has_label, "is_visible": (rows["segment_ids"] > 0) & ~hidden,
            "token_weight": weight, "replaced": batch["replaced"],
            "generic_index": jnp.maximum(batch["generic_index"], 0),
            "generic_segment_ids": batch["generic_segment_ids"],
            "generic": replace_lib.mask_all(batch["generic"], generic_hidden, self.model.mask_id)}
    weights = {"generic": (batch["loss_mask"] & has_label).sum(dtype=jnp.float32)}
    if self.retain_scale:
      rows |= sides.drawn(self.model, "retain", 1, params, batch, rng.stream(key, "retain"),
                          context)
      weights["retain"] = batch["retain_loss_mask"].sum(dtype=jnp.float32)
      rows["retain_count"] = batch["retain_loss_mask"].sum(axis=1, dtype=jnp.float32)
    return rows, weights

  def labels(self, params, batch, context):
    """The generic logits at every position of the texts, float32 [B, L, V], without gradient."""
    reference = tree.overlay(context.frozen["reference"], params)
    reinforced = tree.overlay(context.frozen["reinforced"], params)
    base = self._logits(self.model, reference, batch, "generic", "generic_segment_ids")
    base = jnp.take_along_axis(base, batch["generic_index"][..., None], axis=1)
    raised = self._logits(self.reinforced or self.model, reinforced, batch, "inputs", "segment_ids")
    seen = appeared(batch["replaced"], batch["is_visible"], base.shape[-1],
                    is_causal=readings.READINGS[type(self.model)].is_causal)
    return jax.lax.stop_gradient(
        generic_logits(base, raised, self.alpha) - self.repeat_penalty * seen)

  def _logits(self, model, params, batch, tokens, segments):
    return readings.logits(model, params, batch[tokens], batch["noise_level"], batch[segments])

  def __call__(self, params, batch, context):
    """Sums of both terms over the rows."""
    wanted = jax.nn.log_softmax(self.labels(params, batch, context))
    found = jax.nn.log_softmax(self._logits(self.model, params, batch, "inputs", "segment_ids"))
    over = lambda x: jnp.where(batch["is_target"], (jnp.exp(wanted) * x).sum(axis=-1), 0.0)
    nats = over(-found)
    number = batch["is_target"].sum(dtype=jnp.float32)
    totals = {"generic": (batch["token_weight"] * nats).sum()}
    metrics = {"label_kl": (over(wanted - found).sum(), number)}
    if self.retain_scale:
      kept = sides.nll(self.model, "retain", params, batch, context)
      totals["retain"] = kept.sum()
      metrics["retain_nats"] = (kept.sum(), batch["retain_count"].sum())
    return totals, types.Aux(metrics, {}, {})

  def bound(self, estimator):
    """The model's, of the texts to forget."""
    return self.model.bound(estimator)
