"""A premise and its candidates in one row.

Contents: Parts.
"""

from __future__ import annotations

import numpy as np

from mdx import types
from mdx.data.layouts import text


class Parts(types.Layout):
  """Rows of {"parts": [premise, candidate, ...], "labels": [bool, ...]}; see `sources.pairs`."""

  fields = text.FIELDS | {"token_types": types.Field("int32"), "labels": types.Field("int32")}
  packings = ("pad",)
  marks = ("is_given", "is_empty")

  def row(self, record, cfg, tokenizer):
    """Parts that begin with a special token each and have a token type of their own.

    Of two parts the second begins where the first ends, and a third special token ends the row;
    the label stands at the first position. Several candidates have slots of one length each, and
    labels at their first positions. A label is 1 (wrong) or 2 (right), and 0 elsewhere. What does
    not fit is cut.
    """
    length = cfg.length
    if tokenizer.eos_id < 0:
      raise ValueError(f"{tokenizer.name} has no end token, which separates the parts; set "
                       "tokenizer.eos_id.")
    parts = [tokenizer.encode(p) if isinstance(p, str) else p for p in record["parts"]]
    is_pair = len(parts) == 2
    slot = (length - 1) // 2 if is_pair else length // len(parts)
    if slot < 2 or not is_pair and slot * len(parts) != length:
      raise ValueError(f"{len(parts)} parts do not have slots of one length in a row of {length} "
                       f"tokens; use a multiple of {len(parts)} as data.length.")
    if is_pair:  # the longer part is cut first
      room = length - 3
      keep = [max(room // 2, room - len(parts[1])), max(room // 2, room - len(parts[0]))]
      parts = [p[:k] for p, k in zip(parts, keep)]
    first = tokenizer.eos_id if tokenizer.bos_id in (None, -1) else tokenizer.bos_id
    rows = []
    for i, part in enumerate(parts):
      begin = first if i == 0 or not is_pair else tokenizer.eos_id
      ids = np.concatenate([[begin], part if is_pair else part[:slot - 1]])
      if is_pair and i:
        ids = np.concatenate([ids, [tokenizer.eos_id]])
      rows.append(np.asarray(ids, np.int32))
    sizes = [len(row) if is_pair else slot for row in rows]
    tokens = np.concatenate([np.pad(r, (0, n - len(r)), constant_values=tokenizer.pad_id)
                             for r, n in zip(rows, sizes)])
    starts, labels = np.cumsum([0, *sizes[:-1]]), np.zeros(len(tokens), np.int32)
    labels[[0] if is_pair else starts[1:]] = 1 + np.asarray(record["labels"], np.int32)
    is_empty = np.concatenate([np.arange(n) >= len(r) for r, n in zip(rows, sizes)])
    is_given = is_empty.copy()
    is_given[starts] = True
    if is_pair:
      is_given[-1] = True
    return {"tokens": tokens.astype(np.int32), "is_given": is_given, "is_empty": is_empty,
            "token_types": np.repeat(np.arange(len(rows), dtype=np.int32), sizes),
            "labels": labels}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The parts."""
    del targets
    return [text.decode(part, tokenizer) for part in record["parts"]]
