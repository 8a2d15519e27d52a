"""Packing: documents of any length to rows of one length.

Contents: Form, PACKINGS (name -> function from a MapDataset of documents to an IterDataset of
rows), row_of, finish_row, stack_rows. A packed row has the fields of its documents and
segment_ids, positions int32 [length]; segment_ids count the documents of a row from 1 and are 0 on
padding, positions restart in every document.

  concat     documents end to end, cut at row ends; a cut document's rest begins the next
             row, as a segment of its own with positions from 0
  first_fit  whole documents, several a row, first of 64 open rows that has room
  pad        one whole document a row
  crop       one document a row, cut to the length

Convention: every packer emits the last, partly filled row; nothing is dropped here.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from mdx import types

Row = dict[str, np.ndarray]
NUM_CHECKED = 1000  # records of a source that are read before training
_MADE = ("segment_ids", "positions", "loss_mask")  # by packing
_OPEN_ROWS = 64  # more waste less; a resume packs again at most this many rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
  """Form of the rows of a data config.

  Attributes:
    fields: name -> Field of a row; no names are left in them but the shape's "length".
    marks: bool fields of a document that are not in a row; see `types.Layout`.
    length: positions of a row.
    isolate_documents: whether the documents of a row are separate segments.
  """

  fields: Mapping[str, types.Field]
  marks: tuple[str, ...] = ()
  length: int
  isolate_documents: bool = True

  @functools.cached_property
  def first(self) -> str:
    """Name of the field whose length is a document's."""
    return next(iter(self.fields))

  @functools.cached_property
  def document(self) -> dict[str, types.Field]:
    """Fields of a document."""
    return {k: v for k, v in self.fields.items() if k not in _MADE} | dict.fromkeys(
        self.marks, types.Field("bool", pad=False))

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a field of a row."""
    return tuple(self.length if n == "length" else n for n in self.fields[name].shape)

  def complete(self, document: Row) -> Row:
    """A document with its fields alone, and padding for those that it lacks."""
    num = len(document[self.first])
    return {name: document[name] if name in document else np.full(
        [num if n == "length" else n for n in field.shape], field.pad, field.dtype)
            for name, field in self.document.items()}


def needs_whole_documents(packing: str) -> bool:
  """Whether a document longer than the row is an error under this packing."""
  return packing in ("first_fit", "pad")


def _concat(documents, form, read_options, seed):
  del seed
  return _ConcatDataset(grain.experimental.ConcatThenSplitIterDataset(
      documents.to_iter_dataset(read_options), length_struct={form.first: form.length})).map(
          functools.partial(_rename, form=form))


def _first_fit(documents, form, read_options, seed):
  return grain.experimental.FirstFitPackIterDataset(
      documents.to_iter_dataset(read_options),
      length_struct=dict.fromkeys(form.document, form.length),
      num_packing_bins=_OPEN_ROWS, shuffle_bins=seed is not None, seed=seed or 0).map(
          functools.partial(_rename, form=form))


def _one_per_row(documents, form, read_options, seed):
  del seed
  return documents.map(functools.partial(row_of, form=form)).to_iter_dataset(read_options)


# Each takes (documents, form, read_options, seed); a seed of None keeps the order.
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


def _rename(packed: Row, form: Form) -> Row:
  return {**{k: packed[k] for k in form.document if k in packed},
          "segment_ids": packed[f"{form.first}_segment_ids"],
          "positions": packed[f"{form.first}_positions"]}


def row_of(document: Row, form: Form) -> Row:
  """A document as one row, cut to the length or padded."""
  length, num = form.length, len(document[form.first])
  if num > length:
    # One text for all documents, so that Python shows it once.
    warnings.warn(f"documents of more than {length} {form.first} are cut; raise data.length, or "
                  "use a packing that keeps all of them.", stacklevel=2)
  fit = lambda x, pad=0: np.pad(
      x[:length], [(0, max(length - len(x), 0))] + [(0, 0)] * (x.ndim - 1), constant_values=pad)
  num = min(num, length)
  return {**{name: fit(document[name], field.pad) if "length" in field.shape else document[name]
             for name, field in form.document.items()},
          "segment_ids": fit(np.ones(num, np.int32)),
          "positions": fit(np.arange(num, dtype=np.int32))}


def finish_row(row: Row, form: Form) -> Row:
  """Adds loss_mask and writes padding into the first field.

  Args:
    row: as a packer emits it; positions that are `is_given` (bool [length], optional) are no
      targets, those that are `is_empty` (likewise) are padding inside of a document.
    form: of the rows; where documents are not isolated, the row is one segment with positions
      0 .. length - 1.

  Returns:
    The fields of the form.
  """
  segment_ids, positions = row["segment_ids"], row["positions"]
  if "is_empty" in row:
    segment_ids = np.where(row["is_empty"], 0, segment_ids)
  is_real = segment_ids > 0
  if not form.isolate_documents:
    segment_ids = is_real.astype(np.int32)
    positions = np.arange(len(is_real), dtype=np.int32)
  x = row[form.first]
  found = row | {
      form.first: np.where(is_real.reshape(-1, *[1] * (x.ndim - 1)), x,
                           np.asarray(form.fields[form.first].pad, x.dtype)),
      "segment_ids": segment_ids, "positions": positions,
      "loss_mask": is_real & ~row.get("is_given", np.zeros_like(is_real))}
  return {name: np.asarray(found[name], field.dtype) for name, field in form.fields.items()}


def stack_rows(rows: Sequence[Row], *, batch_size: int, form: Form) -> Row:
  """Stacks rows and fills up to batch_size with rows of padding only."""
  batch = {}
  for name, field in form.fields.items():
    stacked = np.stack([row[name] for row in rows])
    missing = [(0, batch_size - len(rows))] + [(0, 0)] * (stacked.ndim - 1)
    batch[name] = np.pad(stacked, missing, constant_values=field.pad)
  return batch
