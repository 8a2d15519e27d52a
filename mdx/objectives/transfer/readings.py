"""How objectives of tokens read rows that they have drawn: inputs, targets and weights.

Contents: Reading, READINGS, logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdx import types
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion


class Reading(NamedTuple):
  """How the objective of a model reads texts and their translations.

  Attributes:
    draw: (model, fields of its drawn rows [B, ...]) -> inputs int32 [B, L], is_target bool
      [B, L], weight float32 [B, L], noise level float32 [B].
    is_causal: whether a position sees those before it alone.
  """
  draw: Any
  is_causal: bool


def _causal(model, rows):
  mask = rows["loss_mask"]
  return rows["tokens"], mask, jnp.ones(mask.shape, jnp.float32), jnp.zeros(len(mask), jnp.float32)


def _noised(model, rows):
  weight = rows["token_weight"]
  weight = weight[:, None] if weight.ndim == 1 else weight
  mask = rows["is_masked"]
  return rows["noisy_tokens"], mask, jnp.broadcast_to(weight, mask.shape), rows["noise_level"]


READINGS = {ar.AutoRegressive: Reading(_causal, True),
             diffusion.MaskedDiffusion: Reading(_noised, False)}


def logits(model: types.Objective, params: types.Params, tokens: jax.Array, noise_level: jax.Array,
           segment_ids: jax.Array | None) -> jax.Array:
  """Logits of the tokens of rows, float32 [B, L, V], as the model's own reader gives them."""
  reader = model.reader()
  assert reader is not None  # objectives of tokens have one
  return reader.answer(params, types.Request(tokens, noise_level, segment_ids=segment_ids)).logits
