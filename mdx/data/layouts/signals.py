"""Rows of float vectors: frames of sound, patches of images.

Contents: Signal.

Convention: a record is {"x": float32 [n, channels]}, with "label": int where there is one. A
row's `label` is -1 where there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mdx import types
from mdx.data import pack


@dataclasses.dataclass(frozen=True)
class Signal(types.Layout):
  """Rows of one array each, cut to the length under packing "crop".

  Attributes:
    name: of the field with the vectors, float32 [length, channels].
    mask: of the field that says which of them are real, bool [length].
    takes: layouts of records that are the same arrays.
  """

  name: str
  mask: str
  takes: tuple[str, ...] = ()
  packings = ("pad", "crop")
  reads = ("channels",)

  @property
  def fields(self) -> Mapping[str, types.Field]:
    """Of a row."""
    return {self.name: types.Field("float32", ("length", "channels")),
            self.mask: types.Field("bool", pad=False), "loss_mask": types.Field("bool", pad=False),
            "segment_ids": types.Field("int32"), "positions": types.Field("int32"),
            "label": types.Field("int32", (), -1)}

  def under(self, cfg):
    """The layout; rows have `data.channels`."""
    if not cfg.channels:
      raise ValueError(f"{self.name} have data.channels values each; set it to that of the arrays.")
    return self

  def row(self, record, cfg, tokenizer):
    """The vectors float32 [n, channels], which are real bool [n], label int32 []."""
    del tokenizer
    x = record["x"]
    if x.shape[1] != cfg.channels:
      raise ValueError(f"{x.shape[1]} channels, but data.channels is {cfg.channels}; set it to "
                       f"{x.shape[1]}.")
    if pack.needs_whole_documents(cfg.packing) and len(x) > cfg.length:
      raise ValueError(f"{len(x)} {self.name}, more than data.length {cfg.length}; raise it, or "
                       "set data.packing='crop'.")
    if not len(x):
      return None
    return {self.name: x, self.mask: np.ones(len(x), bool),
            "label": np.int32(record.get("label", -1))}
