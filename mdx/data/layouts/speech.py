"""Rows of frames of sound, with their labels and transcripts.

Contents: Speech.

Convention: a record is {"x": float32 [n, channels]} with "label": int, "text": the transcript, and
"frame_labels": int [n], where there are some. A row's `label` and `frame_labels` are -1 where there
is none, and its `transcript` is padded with the tokenizer's padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mdx import types
from mdx.data.layouts import signals


@dataclasses.dataclass(frozen=True)
class Speech(signals.Signal):
  """Frames of one recording a row, cut to the length under packing "crop".

  Attributes (more in `signals.Signal`):
    has_transcript: whether rows have one.
  """

  name: str = "frames"
  mask: str = "frame_mask"
  takes: tuple[str, ...] = ("frames",)
  has_transcript: bool = False
  reads = ("channels", "transcript_length")

  @property
  def fields(self) -> Mapping[str, types.Field]:
    """Of a row."""
    return {**super().fields, "frame_labels": types.Field("int32", pad=-1)} | (
        {"transcript": types.Field("int32", ("transcript_length",), "pad_id")}
        if self.has_transcript else {})

  def under(self, cfg):
    """The layout; rows have `data.channels`, and a transcript with `data.transcript_length`."""
    return dataclasses.replace(super().under(cfg), has_transcript=cfg.transcript_length > 0)

  def row(self, record, cfg, tokenizer):
    """The document of a recording."""
    found, size = super().row(record, cfg, tokenizer), cfg.transcript_length
    if found is None:
      return None
    if "frame_labels" in record:
      found["frame_labels"] = np.asarray(record["frame_labels"], np.int32)
    if size:
      ids = tokenizer.encode(record.get("text", ""))
      if len(ids) > size:
        raise ValueError(f"a transcript of {len(ids)} tokens, more than data.transcript_length "
                         f"{size}; raise it.")
      found["transcript"] = np.pad(np.asarray(ids, np.int32), (0, size - len(ids)),
                                   constant_values=tokenizer.pad_id)
    return found

  def texts(self, record, tokenizer=None, *, targets=True):
    """The transcript."""
    del tokenizer, targets
    return [record["text"]] if record.get("text") else []
