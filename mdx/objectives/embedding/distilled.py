"""Distillation of embeddings: the similarities of a batch are those that a teacher sees.

Contents: divergence, Distilled.

Convention: the teacher is `config.frozen["teacher"]`, read by its own `embedding`, or as the
student is where it has none; only similarities are compared, so that its width may differ.

Reference: Fang et al. 2021, arXiv:2101.04731 (SEED; there against a queue, here the batch).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads
from mdx.objectives.embedding import contrastive
from mdx.utils import tree


def divergence(teacher: jax.Array, student: jax.Array, is_live: jax.Array) -> jax.Array:
  """KL(teacher || student) of each row's distribution over the other live rows, float32 [B].

  Args:
    teacher, student: float32 [B, B], similarities over their temperatures.
    is_live: bool [B].
  """
  kept = is_live[None] & ~jnp.eye(len(is_live), dtype=bool)
  log_probs = lambda x: jax.nn.log_softmax(jnp.where(kept, x, heads.NEVER), axis=1)
  wanted, found = log_probs(teacher), log_probs(student)
  return jnp.where(kept, jnp.exp(wanted) * (wanted - found), 0.0).sum(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled(contrastive.Contrastive):
  """InfoNCE, and the divergence from a teacher's similarities among the first views.

  Attributes (more in `Contrastive`):
    teacher: objective of the frozen model; None: it is the student at the start.
    teacher_temperature: of its similarities.
    contrast_scale, teacher_scale: factors of the terms.
  """
  teacher: Any = dataclasses.field(default=None, repr=False, compare=False)
  teacher_temperature: float = 0.05
  contrast_scale: float = 0.0
  teacher_scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least=dict(contrast_scale=0, teacher_scale=0),
                     between=dict(teacher_temperature="(0, 100]"))

  @classmethod
  def build(cls, fields, world):
    """Builds it with the teacher."""
    tokenizer = world.tokenizer
    return config_lib.construct(
        cls, fields, what="objective", network=world.network, mask_id=tokenizer.mask_id,
        chars=tokenizer.chars_per_token, special_ids=tuple(sorted(tokenizer.special_ids)),
        teacher=world.frozen.get("teacher"))

  @classmethod
  def complete(cls, config, data):
    """Refuses a run without a teacher."""
    if "teacher" not in (config.get("frozen") or {}):
      raise ValueError("objective distilled has no teacher; set config.frozen = "
                       "dict(teacher=dict(checkpoint=RUN)).")
    return super().complete(config, data)

  @property
  def scales(self) -> Mapping[str, float]:
    """Factors of both terms."""
    return {"contrast": self.contrast_scale, "teacher": self.teacher_scale}

  def prepare(self, params, batch, key, context):
    """Adds the weight of the second term, the number of rows."""
    batch, weights = super().prepare(params, batch, key, context)
    return batch, weights | {"teacher": batch["is_live"].sum(dtype=jnp.float32)}

  def served(self, config):
    """An export is a contrastive model; the teacher is of the training."""
    own = {field.name for field in dataclasses.fields(contrastive.Contrastive)}
    return super().served({k: v for k, v in config.items() if k in own} | {"name": "contrastive"})

  def represent(self, params, rows, context):
    """Embeddings of the student's views, and the teacher's of the first ones, without gradient."""
    own = self.embedder().vectors
    # A teacher that is the student at the start has those leaves alone that are trained.
    weights = tree.nest(tree.flatten(params) | tree.flatten(context.frozen["teacher"]))
    if self.teacher is not None:
      own = self.teacher.embedder().vectors or contrastive.Contrastive(
          network=self.teacher.network, mask_id=self.mask_id, pooling=self.pooling,
          attention=self.attention).embedder().vectors
    return super().represent(params, rows, context) | {
        "teacher": jax.lax.stop_gradient(own(weights, rows))}

  def compare(self, params, reps, batch, context):
    """Totals and Aux; `rows` has the nats of the contrast."""
    totals, aux = super().compare(params, reps, batch, context)
    is_live, own, wanted = batch["is_live"], reps["tokens"], reps["teacher"]
    rows = divergence(
        contrastive.similarities(wanted, wanted) / self.teacher_temperature,
        self.scale(params) * contrastive.similarities(own, own, self.distance), is_live)
    total = jnp.where(is_live, rows, 0.0).sum()
    metrics = aux.metrics | {"teacher_nats": (total, is_live.sum(dtype=jnp.float32))}
    return totals | {"teacher": total}, types.Aux(metrics, aux.rows, {})
