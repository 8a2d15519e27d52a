"""Two answers to one prompt, of which the first is preferred.

Contents: Preferences.

Convention: a row has `tokens`, the prompt and the chosen answer, and `other`, the prompt and the
rejected one, each ended and filled as `data.fill` and `data.append_eos` say.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mdx import types
from mdx.data import buckets
from mdx.data.layouts import text

_PLAIN = text.Answered(text.encode_pair, text.pair_texts)
_CHAT = text.Answered(text.encode_chat, text.chat_texts, text.check_chat)


class Preferences(types.Layout):
  """Rows of {"prompt": text or messages, "chosen": text, "rejected": text}."""

  fields = text.FIELDS | {"other": types.Field("int32", pad="pad_id"),
                          "other_loss_mask": types.Field("bool", pad=False),
                          "other_segment_ids": types.Field("int32")}
  packings = ("pad",)
  reads = buckets.KEYS
  marks = ("is_given",)

  def row(self, record, cfg, tokenizer):
    """tokens int32 [n], is_given bool [n], and the fields of the other answer [m]."""
    cfg = dataclasses.replace(cfg, fill="pad") if cfg.fill == "eos_together" else cfg
    sides = []
    for answer in (record["chosen"], record["rejected"]):
      layout, one = _answered(record["prompt"], answer)
      if (found := layout.row(one, cfg, tokenizer)) is None:
        return None
      sides.append((found["tokens"], _before_last(found["is_given"])))
    (tokens, is_given), (other, other_given) = sides
    if np.array_equal(tokens, other):
      raise ValueError("the chosen and the rejected answer are the same tokens; leave the pair "
                       "out.")
    return {"tokens": tokens, "is_given": is_given, "other": other,
            "other_loss_mask": ~other_given, "other_segment_ids": np.ones(len(other), np.int32)}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The answers, or the prompt and the answers."""
    del tokenizer
    answers = [record["chosen"], record["rejected"]]
    if targets:
      return answers
    prompt = record["prompt"]
    return [*([prompt] if isinstance(prompt, str) else [m["content"] or "" for m in prompt]),
            *answers]

  def check(self, records, where, cfg, tokenizer):
    """Renders the first conversations."""
    given = [i for i in range(len(records)) if not isinstance(records[i]["prompt"], str)]
    _CHAT.check([_answered(records[i]["prompt"], records[i]["chosen"])[1] for i in given],
                lambda i: where(given[i]), cfg, tokenizer)


def _answered(prompt: Any, answer: str) -> tuple[text.Answered, dict[str, Any]]:
  """The layout and the record of a prompt with one answer."""
  if isinstance(prompt, str):
    return _PLAIN, {"prompt": prompt, "answer": answer, "blank": ""}
  return _CHAT, {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def _before_last(is_given: np.ndarray) -> np.ndarray:
  """Marks with all but the last run of targets given: earlier answers belong to the prompt."""
  targets = np.flatnonzero(~is_given)
  breaks = np.flatnonzero(np.diff(targets) > 1)
  first = targets[breaks[-1] + 1] if breaks.size else targets[:1]
  return is_given | (np.arange(len(is_given)) < first)
