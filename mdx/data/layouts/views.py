"""Two views of one record, or two and a hard negative, for losses that compare them.

Contents: Views.

Convention: a row has `tokens` and `other`, and of triplets `negative`, each [begin] text [end],
where begin is bos_id (none if the tokenizer has none) and end is eos_id, if `append_eos`; all begin
at position 0. A record with one text gives two equal views, which dropout or masks make different.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mdx import types
from mdx.data import buckets
from mdx.data.layouts import text


@dataclasses.dataclass(frozen=True)
class Views(types.Layout):
  """Rows of {"texts": [one, other]}, or of a text twice.

  Attributes:
    others: names of the fields of the second and further texts.
    takes: as of `types.Layout`.
  """

  others: tuple[str, ...] = ("other",)
  takes: tuple[str, ...] = ("text",)
  packings = ("pad", "crop")
  reads = buckets.KEYS
  marks = ("is_given",)

  @property
  def fields(self) -> Mapping[str, types.Field]:
    """Tokens of each text, and where each has some."""
    return text.FIELDS | {field: one for name in self.others for field, one in (
        (name, types.Field("int32", pad="pad_id")),
        (f"{name}_segment_ids", types.Field("int32")))}

  def row(self, record, cfg, tokenizer):
    """tokens int32 [n], is_given bool [n]; the other texts and their segment_ids int32 [m]."""
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
    if len(views) > 2 and any(np.array_equal(views[1], other) for other in views[2:]):
      raise ValueError("the positive and the negative text are the same tokens; leave the record "
                       "out.")
    tokens, others = views[0], views[1:] or views
    is_given = np.zeros(len(tokens), bool)
    is_given[:len(begin)] = is_given[len(tokens) - len(end):] = True
    return {"tokens": tokens, "is_given": is_given} | {
        field: value for name, other in zip(self.others, others) for field, value in (
            (name, other), (f"{name}_segment_ids", np.ones(len(other), np.int32)))}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The texts."""
    return (list(record["texts"]) if "texts" in record
            else text.Text().texts(record, tokenizer, targets=targets))
