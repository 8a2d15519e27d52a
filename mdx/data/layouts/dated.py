"""Dated documents as rows of tokens.

Contents: Dated.

Convention: the day of a document, as `mdx.utils.dates` counts, stands at the first position
of `labels`, and `spans` are coded as in `mdx.corruption.temporal`.
"""

from __future__ import annotations

import numpy as np

from mdx import types
from mdx.corruption import temporal
from mdx.data import buckets
from mdx.data.layouts import text


class Dated(types.Layout):
  """Rows of a text, its spans and the day of its date."""

  fields = text.FIELDS | {"spans": types.Field("int32"), "labels": types.Field("int32")}
  packings = ("pad", "crop")
  reads = buckets.KEYS
  marks = ("is_given",)

  def row(self, record, cfg, tokenizer):
    """[begin] text [end], of which begin and end are no targets.

    A token belongs to a span if it has a character of it. What does not fit is cut, with all of a
    span that would be. Without a begin token it is the end token.

    Args:
      record: of `mdx.data.sources.dated`.
      cfg: the `pipeline.Config`.
      tokenizer: makes the ids.

    Raises:
      ValueError: no end token, which the first position needs; a text that does not fit.
    """
    if tokenizer.eos_id < 0:
      raise ValueError(f"{tokenizer.name} has no end token, which a dated document begins or ends "
                       "with; set tokenizer.eos_id.")
    tokens, offsets = tokenizer.encode(record["text"]), tokenizer.offsets(record["text"])
    end = [tokenizer.eos_id] if cfg.append_eos else []
    room = cfg.length - 1 - len(end)
    if len(tokens) > room and cfg.packing == "pad":
      raise ValueError(f"a text has {len(tokens)} tokens, of which {room} fit into data.length "
                       f"{cfg.length}; raise it, cut it (data.source.document_chars), or set "
                       "packing='crop'.")
    marks = np.zeros(len(tokens), np.int32)
    for start, stop, kind in record["spans"]:
      inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
      if inside.size and inside[-1] < room and not marks[inside].any():
        marks[inside] = temporal.code(kind, False)
        marks[inside[0]] = temporal.code(kind, True)
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    tokens = np.concatenate([[begin], tokens[:room], end]).astype(np.int32)
    is_given = np.zeros(len(tokens), bool)
    is_given[[0, *([-1] if end else [])]] = True
    labels = np.zeros(len(tokens), np.int32)
    labels[0] = record["day"]
    spans = np.pad(marks[:room], (1, len(end)))
    return {"tokens": tokens, "is_given": is_given, "spans": spans, "labels": labels}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The text."""
    del tokenizer, targets
    return [record["text"]]
