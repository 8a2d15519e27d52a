"""Masked fine-tuning: a causal model recovers a document from a masked copy before it.

Contents: MaskedDocument.

A row reads: instruction, the document with tokens replaced by masks, separator, the document. Only
the last is predicted. Later tokens of the document are in the prompt, so the model learns of
earlier ones given later ones, which next-token prediction of the document alone never asks for.

Reference: Pan et al. 2025, arXiv:2510.09885.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.objectives.causal import ar
from mdx.utils import rng

HIDDEN = ("mask", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDocument(ar.AutoRegressive):
  """-sum over i of log p(x_i | instruction, masked x, separator, x_<i), in nats.

  Every row has a mask rate of its own, uniform in [min_rate, max_rate] (the paper draws one a
  batch). Tokens that are given (prompts of answers) are neither masked nor predicted. Rows are of
  2 L tokens and those of instruction and separator, for documents of at most L tokens, one a row.

  Attributes:
    min_rate, max_rate: interval of the mask rate.
    hidden: "mask"; or "random", the control: every token of the copy is a random one, which says
      nothing of the document.
    plain_rate: share of the rows that are the document alone, as in next-token prediction.
    instruction, separator: their ids; a config has texts.
  """
  min_rate: float = 0.05
  max_rate: float = 0.95
  hidden: str = "mask"
  plain_rate: float = 0.0
  instruction: tuple[int, ...] = ()
  separator: tuple[int, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(hidden=HIDDEN), between=dict(
        min_rate="[0, 1]", max_rate="[0, 1]", plain_rate="[0, 1]"))
    if self.min_rate > self.max_rate:
      raise ValueError(f"objective.min_rate {self.min_rate} is above max_rate {self.max_rate}; "
                       "exchange them.")
    if self.start != "always":
      raise ValueError(f"objective.start {self.start!r} is not for masked documents, whose rows "
                       "begin with the start token; use always.")

  @classmethod
  def complete(cls, config: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    """The config; ValueError for rows of several documents."""
    if config["data"]["packing"] not in ("pad", "crop"):
      raise ValueError(f"data.packing {config['data']['packing']!r} puts several documents in a "
                       "row, and each needs its masked copy before it; use pad or crop.")
    return config

  @classmethod
  def build(cls, fields, world):
    """The ids of instruction and separator are those of the tokenizer."""
    texts = {name: tuple(int(i) for i in world.tokenizer.encode(fields.get(name, "")))
             for name in ("instruction", "separator")}
    return config_lib.construct(cls, {k: v for k, v in fields.items() if k not in texts},
                                what="objective", network=world.network,
                                mask_id=world.tokenizer.mask_id, **texts)

  def prepare(self, params, batch, key, context):
    """Draws rates and masks, and makes the long rows; the weight counts predicted tokens."""
    del params, context
    index, allowed = batch["example_index"], mask_lib.allowed_positions(batch)
    keys = lambda name: rng.per_example(rng.stream(key, name), index)
    uniform = lambda name: jax.vmap(jax.random.uniform)(keys(name))
    rate = self.min_rate + (self.max_rate - self.min_rate) * uniform("rate")
    if self.hidden == "mask":
      is_masked = mask_lib.bernoulli(keys("mask"), rate[:, None], allowed)
      copy = replace_lib.mask_all(batch["tokens"], is_masked, self.mask_id)
    else:
      other = replace_lib.random_tokens(keys("mask"), allowed.shape[1], mask_id=self.mask_id,
                                        vocab_size=self.network.vocab_size)
      copy = jnp.where(allowed, other, batch["tokens"])
    rows = self._rows(batch, allowed, copy, uniform("plain") < self.plain_rate)
    return rows, {"nll": allowed.sum(dtype=jnp.float32)}

  def _rows(self, batch, allowed, copy, is_plain):
    """Rows with the copy before the document; of plain ones all before the document is padding."""
    tokens, is_text = batch["tokens"], batch["segment_ids"] > 0
    size, length = tokens.shape
    count = is_text.sum(axis=1, keepdims=True)
    repeat = lambda ids: jnp.broadcast_to(jnp.asarray(ids, jnp.int32), (size, len(ids)))
    first, middle = repeat(self.instruction), repeat(self.separator)
    place = jnp.arange(length)[None]
    begins = count + first.shape[1]  # of the separator
    document = jnp.where(is_plain[:, None], 0, begins + middle.shape[1]) + place
    ones = lambda x: jnp.ones(x.shape, bool)
    is_real = jnp.concatenate([ones(first), is_text, ones(middle)], axis=1) & ~is_plain[:, None]
    positions = jnp.concatenate([
        jnp.broadcast_to(jnp.arange(first.shape[1]), first.shape), first.shape[1] + place
        + jnp.zeros_like(tokens), begins + jnp.arange(middle.shape[1])[None], document], axis=1)
    is_real = jnp.concatenate([is_real, is_text], axis=1)
    whole = jnp.concatenate([first, copy, middle, tokens], axis=1)
    # The input of a position is the last real token before it.
    before = jax.lax.cummax(jnp.where(is_real, jnp.arange(whole.shape[1])[None], -1), axis=1)
    before = jnp.pad(before[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    previous = jnp.where(before < 0, self.start_token, jnp.take_along_axis(
        whole, jnp.maximum(before, 0), axis=1))
    return {"tokens": whole, "segment_ids": is_real.astype(jnp.int32),
            "positions": jnp.where(is_real, positions, 0), "previous": previous,
            "loss_mask": jnp.pad(allowed, ((0, 0), (whole.shape[1] - length, 0))),
            "example_index": batch["example_index"]}

  def served(self, config):
    """An export is an autoregressive model."""
    return {"name": "ar", **{k: config[k] for k in ("start_id", "start") if k in config}}
