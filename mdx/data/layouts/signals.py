"""Rows of float vectors: frames of sound, patches of images.

Contents: Signal, Captioned.

Convention: a record is {"x": float32 [n, channels]}, with "label": int where there is one. A
row's `label` is -1 where there is none. Patches of an image stand row by row from the top left; a
model learns an embedding for each of these positions.
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


@dataclasses.dataclass(frozen=True)
class Captioned(types.Layout):
  """Rows of another layout of text beside an image: records have "x" float32 [P, C], too.

  The text is padded to the length; the image has `data.num_patches` patches in every row.

  Attributes:
    inner: layout of the text, such as a prompt and its answer.
  """

  inner: types.Layout
  packings = ("pad",)
  reads = ("channels", "num_patches")

  @property
  def marks(self) -> tuple[str, ...]:
    """Marks of the text."""
    return self.inner.marks

  @property
  def fields(self) -> Mapping[str, types.Field]:
    """Of a row; the text's first."""
    return {**self.inner.fields, "patches": types.Field("float32", ("num_patches", "channels"))}

  def under(self, cfg):
    """The layout; rows have `data.num_patches` patches of `data.channels` values."""
    if not cfg.channels or not cfg.num_patches:
      raise ValueError("rows of images with a text need data.num_patches and data.channels; set "
                       "them to the patches of an image and the values of a patch.")
    return dataclasses.replace(self, inner=self.inner.under(cfg))

  def row(self, record, cfg, tokenizer):
    """The document of the text, with patches float32 [P, C]."""
    x = record["x"]
    if x.shape != (cfg.num_patches, cfg.channels):
      raise ValueError(f"{x.shape[0]} patches of {x.shape[1]} values, but data.num_patches is "
                       f"{cfg.num_patches} and data.channels {cfg.channels}; set them to these.")
    found = self.inner.row(record, cfg, tokenizer)
    return None if found is None else {**found, "patches": x}

  def texts(self, record, tokenizer=None, *, targets=True):
    """Texts of the record, without its image."""
    return self.inner.texts(record, tokenizer, targets=targets)
