"""A source text and the target text that is to be written of it.

Contents: Sequences.

Convention: `tokens` are the target's, all of which are predicted; the source stands in fields of
its own, of the same length. Neither is ended: a model predicts how long a target is.
"""

from __future__ import annotations

import numpy as np

from mdx import types
from mdx.data.layouts import text


class Sequences(types.Layout):
  """Rows of {"source": text, "target": text}."""

  fields = text.FIELDS | {"source": types.Field("int32", pad="pad_id"),
                          "source_segment_ids": types.Field("int32")}
  packings = ("pad",)

  def under(self, cfg):
    """The layout; ValueError where texts would be ended."""
    if cfg.append_eos:
      raise ValueError("rows of a source and a target have no end tokens, for the length of a "
                       "target is predicted; set data.append_eos=False.")
    return self

  def row(self, record, cfg, tokenizer):
    """tokens int32 [n] and source int32 [m], each at most `data.length` long."""
    target, source = (tokenizer.encode(record[name]) for name in ("target", "source"))
    for name, ids in (("target", target), ("source", source)):
      if not ids.size:
        raise ValueError(f"the {name} has no tokens; leave the record out.")
    if (longest := max(len(target), len(source))) > cfg.length:
      if cfg.too_long == "skip":
        return None
      raise ValueError(f"source and target have {len(source)} and {len(target)} tokens, more than "
                       f"data.length {cfg.length}; use {longest}, or set data.too_long='skip'.")
    return {"tokens": target, "source": source,
            "source_segment_ids": np.ones(len(source), np.int32)}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The target, or both texts."""
    del tokenizer
    return [record["target"]] if targets else [record["source"], record["target"]]
