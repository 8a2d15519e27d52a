"""Dated documents as rows of tokens.

Contents: FIELDS, row.

Convention: the day of a document, as `mdx.utils.dates` counts, stands at the first place of
`labels`, and `spans` are coded as in `mdx.corruption.temporal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdx.corruption import temporal
from mdx.data import pack
from mdx.data import tokenizer as tokenizer_lib

FIELDS = ("is_given", "spans", "labels")


def row(document: Mapping[str, Any], cfg: Any, tokenizer: tokenizer_lib.Tokenizer) -> pack.Row:
  """[begin] text [end], of which begin and end are no targets.

  A token belongs to a span if it has a character of it. What does not fit is cut, with all of a
  span that would be. Without a begin token it is the end token.

  Args:
    document: of `mdx.data.sources.dated`.
    cfg: the `pipeline.Config`.
    tokenizer: makes the ids.

  Raises:
    ValueError: no packing of a document a row, or no end token, which the first place needs.
  """
  if cfg.packing not in ("pad", "crop"):
    raise ValueError(f"dated documents have a row each; set packing='pad' or 'crop', not "
                     f"{cfg.packing!r}.")
  if tokenizer.eos_id < 0:
    raise ValueError(f"{tokenizer.name} has no end token, which a dated document begins or ends "
                     "with; set tokenizer.eos_id.")
  tokens, offsets = tokenizer.encode(document["text"]), tokenizer.offsets(document["text"])
  end = [tokenizer.eos_id] if cfg.append_eos else []
  room = cfg.length - 1 - len(end)
  if len(tokens) > room and cfg.packing == "pad":
    raise ValueError(f"a text has {len(tokens)} tokens, of which {room} fit into data.length "
                     f"{cfg.length}; raise it, cut it (data.source.document_chars), or set "
                     "packing='crop'.")
  marks = np.zeros(len(tokens), np.int32)
  for start, stop, kind in document["spans"]:
    inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
    if inside.size and inside[-1] < room and not marks[inside].any():
      marks[inside] = temporal.code(kind, False)
      marks[inside[0]] = temporal.code(kind, True)
  begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
  tokens = np.concatenate([[begin], tokens[:room], end]).astype(np.int32)
  is_given = np.zeros(len(tokens), bool)
  is_given[[0, *([-1] if end else [])]] = True
  labels = np.zeros(len(tokens), np.int32)
  labels[0] = document["day"]
  spans = np.pad(marks[:room], (1, len(end)))
  return {"tokens": tokens, "is_given": is_given, "spans": spans, "labels": labels}
