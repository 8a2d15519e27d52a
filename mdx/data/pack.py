"""Packing: documents of any length to rows of one length.

Contents: PACKINGS (name -> function from a MapDataset of {"tokens"} to an IterDataset
of rows), row_of, finish_row, stack_rows. A row is {"tokens", "segment_ids", "positions"}, int32
[length] each; segment_ids count the documents of a row from 1 and are 0 on padding,
positions restart in every document.

  concat     documents end to end, cut at row ends; a cut document's rest begins the next
             row, as a segment of its own with positions from 0
  first_fit  whole documents, several a row, first of 64 open rows that has room
  pad        one whole document a row
  crop       one document a row, cut to the length

Convention: every packer emits the last, partly filled row; nothing is dropped here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

Row = dict[str, np.ndarray]
_OPEN_ROWS = 64  # more waste less; a resume packs again at most this many rows


def needs_whole_documents(packing: str) -> bool:
  """Whether a document longer than the row is an error under this packing."""
  return packing in ("first_fit", "pad")


def _concat(documents, length, read_options, seed, fields=()):
  del seed, fields  # documents that may be cut have no answers
  return _ConcatDataset(grain.experimental.ConcatThenSplitIterDataset(
      documents.to_iter_dataset(read_options), length_struct={"tokens": length})).map(_rename)


def _first_fit(documents, length, read_options, seed, fields=()):
  return grain.experimental.FirstFitPackIterDataset(
      documents.to_iter_dataset(read_options),
      length_struct=dict.fromkeys(("tokens", *fields), length),
      num_packing_bins=_OPEN_ROWS, shuffle_bins=seed is not None, seed=seed or 0).map(
          functools.partial(_rename, fields=fields))


def _one_per_row(documents, length, read_options, seed, fields=()):
  del seed, fields
  rows = documents.map(functools.partial(row_of, length=length))
  return rows.to_iter_dataset(read_options)


# Each takes (documents, length, read_options, seed, fields); a seed of None keeps the order,
# `fields` are those of a document beside its tokens.
PACKINGS = {"concat": _concat, "first_fit": _first_fit, "pad": _one_per_row, "crop": _one_per_row}


class _ConcatDataset(grain.IterDataset):
  """ConcatThenSplitIterDataset whose state survives JSON.

  Orbax keeps iterator states as JSON, which turns the packer's tuples into lists; its
  set_state then takes the marker (-1, -1), "nothing left over", for a slice and loses
  documents (grain 0.2.18).
  """

  def __iter__(self):
    return _ConcatIterator(iter(self._parent))


class _ConcatIterator(grain.DatasetIterator):

  def __next__(self):
    return next(self._parent)

  def get_state(self):
    return self._parent.get_state()

  def set_state(self, state: dict[str, Any]):
    slices = {k: tuple(v) for k, v in state["remainder_slices"].items()}
    self._parent.set_state({**state, "remainder_slices": slices})


def _rename(packed: Row, fields: Sequence[str] = ()) -> Row:
  return {"tokens": packed["tokens"], "segment_ids": packed["tokens_segment_ids"],
          "positions": packed["tokens_positions"], **{k: packed[k] for k in fields}}


def row_of(document: Row, length: int) -> Row:
  """A document {"tokens", ...} as one row, cut to the length or padded."""
  tokens = document["tokens"]
  if len(tokens) > length:
    # One text for all documents, so that Python shows it once.
    warnings.warn(f"documents of more than {length} tokens are cut; packing='concat' keeps "
                  "all of their tokens.", stacklevel=2)
    tokens = tokens[:length]
  padding = (0, length - len(tokens))
  return {"tokens": np.pad(tokens, padding),
          "segment_ids": np.pad(np.ones(len(tokens), np.int32), padding),
          "positions": np.pad(np.arange(len(tokens), dtype=np.int32), padding),
          **{k: np.pad(v[:length], padding) for k, v in document.items() if k != "tokens"}}


def finish_row(row: Row, *, pad_id: int, isolate_documents: bool) -> Row:
  """Adds loss_mask and writes pad_id on padding.

  Args:
    row: as a packer emits it; where `is_given` (bool [length], optional) it has no targets,
      tokens that are `is_shared` (likewise) are masked together, and places that are `is_empty`
      are padding inside of a text. `labels`, `spans` and `token_types` are
      numbers.
    pad_id: token of padding.
    isolate_documents: if False, the row is one segment with positions 0..length-1.

  Returns:
    tokens, segment_ids, positions: int32 [length]; loss_mask bool [length]; and, if given,
    is_shared, token_types, labels and spans.
  """
  segment_ids, positions = row["segment_ids"], row["positions"]
  if "is_empty" in row:
    segment_ids = np.where(row["is_empty"], 0, segment_ids)
  is_text = segment_ids > 0
  if not isolate_documents:
    segment_ids = is_text.astype(np.int32)
    positions = np.arange(len(is_text), dtype=np.int32)
  is_target = is_text & ~row.get("is_given", np.zeros_like(is_text))
  return {"tokens": np.where(is_text, row["tokens"], np.int32(pad_id)), "loss_mask": is_target,
          "segment_ids": segment_ids, "positions": positions,
          **{k: row[k] for k in ("is_shared", "token_types", "labels", "spans")
             if k in row}}


def stack_rows(rows: Sequence[Row], *, batch_size: int, pad_id: int) -> Row:
  """Stacks rows and fills up to batch_size with rows of padding only."""
  batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
  fill = {"tokens": pad_id}
  missing = ((0, batch_size - len(rows)), (0, 0))
  return {k: np.pad(v, missing, constant_values=fill.get(k, 0)) for k, v in batch.items()}
