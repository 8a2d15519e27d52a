"""Two views of one record, for losses that compare them.

Contents: Views.

Convention: a row has `tokens` and `other`, each [begin] text [end], where begin is bos_id (none if
the tokenizer has none) and end is eos_id, if `append_eos`; both begin at position 0. A record with
one text gives two equal views, which dropout or masks make different.
"""

from __future__ import annotations

import numpy as np

from mdx import types
from mdx.data.layouts import text


class Views(types.Layout):
  """Rows of {"texts": [one, other]}, or of a text twice."""

  fields = text.FIELDS | {"other": types.Field("int32", pad="pad_id"),
                          "other_segment_ids": types.Field("int32")}
  packings = ("pad", "crop")
  marks = ("is_given",)
  takes = ("text",)

  def row(self, record, cfg, tokenizer):
    """tokens int32 [n], other and other_segment_ids int32 [m], is_given bool [n]."""
    text.check_end(cfg, tokenizer)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [tokenizer.eos_id] if cfg.append_eos else []
    if cfg.length <= len(begin) + len(end):
      raise ValueError(f"data.length {cfg.length} has no room for a text; raise it.")
    views = []
    for one in [{"text": x} for x in record["texts"]] if "texts" in record else [record]:
      ids = text.encode(one, tokenizer)
      if not ids.size:
        return None
      text.check_fits(len(begin) + len(ids) + len(end), cfg)
      ids = ids[:cfg.length - len(begin) - len(end)]
      views.append(np.concatenate([begin, ids, end]).astype(np.int32))
    tokens, other = views[0], views[-1]
    is_given = np.zeros(len(tokens), bool)
    is_given[:len(begin)] = is_given[len(tokens) - len(end):] = True
    return {"tokens": tokens, "is_given": is_given, "other": other,
            "other_segment_ids": np.ones(len(other), np.int32)}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The texts."""
    return (list(record["texts"]) if "texts" in record
            else text.Text().texts(record, tokenizer, targets=targets))
