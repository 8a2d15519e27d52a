"""Labelled records as rows of tokens.

Contents: Labelled.

Convention: a row is [begin] text [end] or [begin] text [end] text [end], where begin is bos_id
([CLS]; none if the tokenizer has none) and end is eos_id ([SEP]); token types are 0, and 1 from
the second text on. The label of texts stands at the first position, those of words at the first
token of each word; everywhere else `is_given` is True. `labels` are float32: numbers of labels,
or scores.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import types
from mdx.data import buckets
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import text


class Labelled(types.Layout):
  """Rows of {"texts", "label"} or {"words", "tags"}."""

  fields = text.FIELDS | {"labels": types.Field("float32", pad=0.0),
                          "token_types": types.Field("int32")}
  packings = ("pad",)
  marks = ("is_given",)
  reads = ("labels", *buckets.KEYS)

  def under(self, cfg):
    """The layout; every record has a row, so that its number stays."""
    if cfg.labels is None:
      raise ValueError("its records are labelled; train it with an objective for labels "
                       "(configs/finetune.py).")
    if cfg.too_long == "skip":
      raise ValueError("each labelled record must have a row; set data.too_long='cut' or 'error', "
                       "not 'skip'.")
    if cfg.on_error == "skip":
      raise ValueError("each labelled record must have a row; set data.on_error='stop', and "
                       "correct the record.")
    return self

  def row(self, record, cfg, tokenizer):
    """Tokens int32 [n], labels float32 [n], is_given bool [n], token_types int32 [n].

    Raises:
      ValueError: see `_numbers`; no end token; a text that is too long, or that the tokenizer
        cannot write.
    """
    numbers = _numbers(record, cfg.labels)
    tokens, positions, token_types = _Encoder(tokenizer, cfg)(record)
    is_given, labels = np.ones(len(tokens), bool), np.zeros(len(tokens), np.float32)
    is_given[positions] = False
    labels[positions] = numbers[:len(positions)]
    return {"tokens": np.asarray(tokens, np.int32), "is_given": is_given, "labels": labels,
            "token_types": np.asarray(token_types, np.int32)}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The texts, or the words, as one text."""
    del tokenizer, targets
    return ["\n".join([" ".join(record["words"])] if "words" in record else record["texts"])]

  def check(self, records, where, cfg, tokenizer):
    """Raises ValueError for the first label that is none, of all records."""
    del tokenizer
    for i, record in enumerate(records):
      try:
        _numbers(record, cfg.labels)
      except ValueError as e:
        raise ValueError(f"{where(i)}: {e}") from None


def _numbers(record: Mapping[str, Any], labels: Sequence[str]) -> list[float]:
  """The label of the texts, or those of the words, as numbers.

  Raises:
    ValueError: a label outside the set, or a score that is no number; a word's with its line.
  """
  given = record["tags"] if "words" in record else [record["label"]]
  if not labels:
    try:
      scores = [float(x) for x in given]
    except ValueError:
      scores = [np.nan]
    if not np.isfinite(scores).all():
      raise ValueError(f"the score {given[0]!r:.40} is no number; use an objective for labels, or "
                       "correct it.")
    return scores
  known = _by_label(tuple(labels))
  for i, label in enumerate(given):
    if label not in known:
      shown = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
      where = f" of the word {record['words'][i]!r:.40}" if "words" in record else ""
      raise ValueError(f"the label {label!r:.40}{where} is none of the {len(known)} of this task "
                       f"({shown}); correct it, or name all in objective.labels.")
  return [known[label] for label in given]


@functools.lru_cache(maxsize=8)
def _by_label(labels: tuple[str, ...]) -> dict[str, int]:
  return {label: i for i, label in enumerate(labels)}


class _Encoder:
  """Makes tokens, the positions of the labels, and token types of records.

  Raises: ValueError if the tokenizer has no end token.
  """

  def __init__(self, tokenizer: tokenizer_lib.Tokenizer, cfg: Any):
    if tokenizer.eos_id < 0:
      raise ValueError(f"{tokenizer.name} has no end token to put after a text; set "
                       "config.tokenizer.eos_id.")
    self._tokenizer, self._cfg = tokenizer, cfg
    self._begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]

  def __call__(self, record):
    return (self._of_words(record["words"]) if "words" in record
            else self._of_texts(record["texts"]))

  def _fit(self, wanted: int) -> bool:
    """Whether so many tokens fit; ValueError if they do not and may not be cut."""
    if wanted > self._cfg.length and self._cfg.too_long != "cut":
      raise ValueError(f"{wanted} tokens are more than data.length {self._cfg.length}; raise it, "
                       "or set data.too_long='cut'.")
    return wanted <= self._cfg.length

  def _of_texts(self, texts):
    end = [self._tokenizer.eos_id]
    parts = [list(self._tokenizer.encode(x)) for x in texts]
    between = end * (self._cfg.separators if len(parts) > 1 else 0)
    around = len(self._begin) + len(between) + 1
    if not self._fit(around + sum(map(len, parts))):
      if self._cfg.length <= around:
        raise ValueError(f"data.length {self._cfg.length} has no room for a text; raise it.")
      while sum(map(len, parts)) > self._cfg.length - around:
        max(parts, key=len).pop()  # the longer text is cut first
    first = self._begin + parts[0] + between
    second = (parts[1] if len(parts) > 1 else []) + end
    token_types = [0] * len(first) + [int(len(parts) > 1)] * len(second)
    return first + second, [0], token_types

  def _of_words(self, words):
    tokens, firsts = list(self._begin), []
    for i, word in enumerate(words):
      ids, inside = self._word(word, is_first=i == 0)
      firsts.append(len(tokens) + inside)
      tokens += ids
    if not self._fit(len(tokens) + 1):
      tokens = tokens[:self._cfg.length - 1]
      firsts = [i for i in firsts if i < len(tokens)]
    return tokens + [self._tokenizer.eos_id], firsts, [0] * (len(tokens) + 1)

  def _word(self, word: str, is_first: bool) -> tuple[list[int], int]:
    """Ids of a word as it stands in a text, and which of them is the first of the word itself."""
    bare = list(self._tokenizer.encode(word))
    if not bare:  # such as a control character: it keeps its position
      return [self._tokenizer.mask_id], 0
    if is_first:
      return bare, 0
    try:
      spaced = list(self._tokenizer.encode(" " + word))
    except ValueError:  # a vocabulary without spaces
      return bare, 0
    skipped = len(spaced) - len(bare)
    return spaced, skipped if skipped > 0 and spaced[skipped:] == bare else 0
