"""Texts of images: the decoder that evaluation and the library share.

Contents: make_decode, text_of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.samplers import loop


def make_decode(objective: types.Objective, sampler: Any, *, mask_id: int, record: str = "none"
                ) -> Callable[[types.Params, types.Batch, jax.Array], loop.Decoded]:
  """Builds (params, batch, key) -> decoded rows; a prompt is given, and no part of the text.

  Args:
    objective: reads a context, that of `batch`, which `look` has seen.
    sampler: the rule.
    mask_id: of the canvas.
    record: as of `samplers.loop.decode_rows`.
  """

  def decode(params, batch, key):
    is_given = (batch["segment_ids"] > 0) & ~batch["loss_mask"]
    rows = {"canvas": jnp.where(is_given, batch["tokens"], mask_id),
            "row_index": batch["example_index"], "context": objective.context_of(params, batch)}
    return loop.decode_rows(objective, sampler, params, key, rows, start=0, record=record)

  return decode


def text_of(tokenizer: tokenizer_lib.Tokenizer, tokens: np.ndarray) -> str:
  """The text before the first end."""
  ends = np.flatnonzero(tokenizer.ends(tokens))
  return tokenizer.decode(tokens[:ends[0]] if ends.size else tokens)
