"""A text to forget beside one to keep, and the translation of the first into generic terms.

Contents: Unlearning.

Convention: a row has `tokens`, the text to forget; `retain`, the text to keep; and `generic`, the
text to forget with its anchors replaced (the text itself, where a source has no anchors).
`generic_index` is the position in `generic` that stands for a position of `tokens`, -1 for none;
`generic_origin` the position of `tokens` that a position of `generic` comes from; `replaced`, at
the first token of an anchor, the id that begins its replacement, else -1. Either text may be
missing; then none of its positions is a target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import types
from mdx.data import buckets
from mdx.data.layouts import text
from mdx.data.prepared import anchors as anchors_lib

_PLAIN = text.Answered(text.encode_pair, text.pair_texts)
_SIDES = ("forget", "retain")


class Unlearning(types.Layout):
  """Rows of {"forget", "retain"}, each {"prompt", "answer", "blank"} or None, and {"anchors"}."""

  fields = text.FIELDS | {
      "retain": types.Field("int32", pad="pad_id"),
      "retain_loss_mask": types.Field("bool", pad=False),
      "retain_segment_ids": types.Field("int32"),
      "generic": types.Field("int32", pad="pad_id"), "generic_segment_ids": types.Field("int32"),
      "generic_index": types.Field("int32", pad=-1), "generic_origin": types.Field("int32", pad=-1),
      "replaced": types.Field("int32", pad=-1)}
  packings = ("pad",)
  reads = buckets.KEYS
  marks = ("is_given",)

  def row(self, record, cfg, tokenizer):
    """The fields of both texts, and of the translation; None: both are missing or too long."""
    cfg = dataclasses.replace(cfg, fill="pad") if cfg.fill == "eos_together" else cfg
    sides = {name: record[name] and _PLAIN.row(record[name], cfg, tokenizer) for name in _SIDES}
    if not any(sides.values()):
      return None
    row, forget = {}, sides["forget"]
    if retain := sides["retain"]:
      row = {"retain": retain["tokens"], "retain_loss_mask": ~retain["is_given"],
             "retain_segment_ids": np.ones(len(retain["tokens"]), np.int32)}
    if not forget:
      return row | {"tokens": np.full(1, tokenizer.pad_id, np.int32), "is_given": np.ones(1, bool)}
    row |= {k: forget[k] for k in ("tokens", "is_given")}
    return row | self._translated(record, forget["tokens"], cfg.length, tokenizer)

  def _translated(self, record: Mapping[str, Any], tokens: np.ndarray, length: int,
                  tokenizer: Any) -> dict[str, np.ndarray]:
    """Fields of the translation of a text of `tokens`, which ends as the text does."""
    seen: set[str] = set()
    found, size, new_size, parts = [], 0, 0, []
    for piece in (record["forget"]["prompt"], record["forget"]["answer"]):
      translated, spans = anchors_lib.translate(piece, record["anchors"], seen)
      new_tokens = tokenizer.encode(translated)
      one = anchors_lib.align(spans, tokenizer.offsets(piece), tokenizer.offsets(translated),
                              new_tokens)
      found.append(one._replace(index=np.where(one.index < 0, -1, one.index + new_size),
                                origin=one.origin + size))
      parts.append(new_tokens)
      size, new_size = size + len(one.index), new_size + len(new_tokens)
    rest = len(tokens) - size  # end tokens
    if new_size + rest > length:
      raise ValueError(f"the translation of the text to forget has {new_size + rest} tokens, more "
                       f"than length {length}; raise it, or shorten the replacements.")
    join = lambda pieces, more: np.concatenate([*pieces, more]).astype(np.int32)
    return {
        "generic": join(parts, tokens[size:]),
        "generic_segment_ids": np.ones(new_size + rest, np.int32),
        "generic_index": join([x.index for x in found], new_size + np.arange(rest)),
        "generic_origin": join([x.origin for x in found], size + np.arange(rest)),
        "replaced": join([x.replaced for x in found], np.full(rest, -1))}

  def texts(self, record, tokenizer=None, *, targets=True):
    """Both texts."""
    del tokenizer
    return [x for name in _SIDES if record[name] for x in text.pair_texts(record[name], targets)]

  def check(self, records: Sequence[Mapping[str, Any]], where, cfg, tokenizer):
    """Nothing but what making rows finds."""
