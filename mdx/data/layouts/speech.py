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
from mdx.data import pack


@dataclasses.dataclass(frozen=True)
class Speech(types.Layout):
  """Frames of one recording a row, cut to the length under packing "crop".

  Attributes:
    has_transcript: whether rows have one.
  """

  has_transcript: bool = False
  packings = ("pad", "crop")
  takes = ("frames",)
  reads = ("channels", "transcript_length")

  @property
  def fields(self) -> Mapping[str, types.Field]:
    """Of a row."""
    return {"frames": types.Field("float32", ("length", "channels")),
            "frame_mask": types.Field("bool", pad=False),
            "loss_mask": types.Field("bool", pad=False), "segment_ids": types.Field("int32"),
            "positions": types.Field("int32"), "label": types.Field("int32", (), -1),
            "frame_labels": types.Field("int32", pad=-1)} | (
                {"transcript": types.Field("int32", ("transcript_length",), "pad_id")}
                if self.has_transcript else {})

  def under(self, cfg):
    """The layout; rows have `data.channels`, and a transcript with `data.transcript_length`."""
    if not cfg.channels:
      raise ValueError("frames have data.channels values each; set it to that of the arrays.")
    return dataclasses.replace(self, has_transcript=cfg.transcript_length > 0)

  def row(self, record, cfg, tokenizer):
    """The document of a recording."""
    x, size = record["x"], cfg.transcript_length
    if x.shape[1] != cfg.channels:
      raise ValueError(f"{x.shape[1]} channels, but data.channels is {cfg.channels}; set it to "
                       f"{x.shape[1]}.")
    if pack.needs_whole_documents(cfg.packing) and len(x) > cfg.length:
      raise ValueError(f"{len(x)} frames, more than data.length {cfg.length}; raise it, or set "
                       "data.packing='crop'.")
    if not len(x):
      return None
    found = {"frames": x, "frame_mask": np.ones(len(x), bool),
             "label": np.int32(record.get("label", -1))}
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
