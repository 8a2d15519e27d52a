"""Labelled records as rows of tokens.

Contents: FIELDS, Encoder.

Convention: a row is [begin] text [end] or [begin] text [end] text [end], where begin is bos_id
([CLS]; none if the tokenizer has none) and end is eos_id ([SEP]); token types are 0, and 1 from
the second text on. The label of texts stands at the first place, those of words at the first
token of each word; everywhere else `is_given` is True. `labels` are float32: numbers of labels,
or scores.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdx.data import pack
from mdx.data import tokenizer as tokenizer_lib

FIELDS = ("is_given", "labels", "token_types")


class Encoder:
  """Makes rows of labelled records.

  Args:
    tokenizer: makes the ids.
    cfg: the `pipeline.Config`: `labels`, `length`, `too_long`, `separators`.

  Raises:
    ValueError: a tokenizer without an end token.
  """

  def __init__(self, tokenizer: tokenizer_lib.Tokenizer, cfg: Any):
    if tokenizer.eos_id < 0:
      raise ValueError(f"{tokenizer.name} has no end token to put after a text; set "
                       "config.tokenizer.eos_id.")
    self._tokenizer, self._cfg = tokenizer, cfg
    self._numbers = {label: i for i, label in enumerate(cfg.labels)}
    self._begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]

  def numbers(self, record: Mapping[str, Any]) -> list[float]:
    """The label of the texts, or those of the words, as numbers.

    Raises:
      ValueError: a label outside the set, or a score that is no number; with file and line.
    """
    given = record["tags"] if "words" in record else [record["label"]]
    places = record.get("places") or [record["where"]] * len(given)
    if not self._numbers:
      try:
        scores = [float(x) for x in given]
      except ValueError:
        scores = [np.nan]
      if not np.isfinite(scores).all():
        raise ValueError(f"{places[0]}: the score {given[0]!r:.40} is no number; use an objective "
                         "for labels, or correct it.")
      return scores
    for label, where in zip(given, places):
      if label not in self._numbers:
        shown = ", ".join(list(self._numbers)[:12]) + (", ..." if len(self._numbers) > 12 else "")
        raise ValueError(f"{where}: the label {label!r:.40} is none of the {len(self._numbers)} of "
                         f"this task ({shown}); correct it, or name all in objective.labels.")
    return [self._numbers[label] for label in given]

  def __call__(self, record: Mapping[str, Any]) -> pack.Row:
    """Tokens int32 [n], labels float32 [n], is_given bool [n], token_types int32 [n].

    Raises:
      ValueError: see `numbers`; a text that is too long, or that the tokenizer cannot write.
    """
    numbers = self.numbers(record)
    try:
      if "words" in record:
        tokens, places, types = self._of_words(record["words"])
      else:
        tokens, types = self._of_texts(record["texts"])
        places = [0]
    except ValueError as e:
      raise ValueError(f"{record['where']}: {e}") from e
    row = {"tokens": np.asarray(tokens, np.int32), "is_given": np.ones(len(tokens), bool),
           "labels": np.zeros(len(tokens), np.float32),
           "token_types": np.asarray(types, np.int32)}
    row["is_given"][places] = False
    row["labels"][places] = numbers[:len(places)]
    return row

  def _fit(self, wanted: int) -> bool:
    """Whether so many tokens fit; ValueError if they do not and may not be cut."""
    if wanted > self._cfg.length and self._cfg.too_long != "cut":
      raise ValueError(f"{wanted} tokens are more than data.length {self._cfg.length}; raise it, "
                       "or set data.too_long='cut'.")
    return wanted <= self._cfg.length

  def _of_texts(self, texts):
    end = [self._tokenizer.eos_id]
    parts = [list(self._tokenizer.encode(text)) for text in texts]
    between = end * (self._cfg.separators if len(parts) > 1 else 0)
    around = len(self._begin) + len(between) + 1
    if not self._fit(around + sum(map(len, parts))):
      if self._cfg.length <= around:
        raise ValueError(f"data.length {self._cfg.length} has no room for a text; raise it.")
      while sum(map(len, parts)) > self._cfg.length - around:
        max(parts, key=len).pop()  # the longer text is cut first
    first = self._begin + parts[0] + between
    second = (parts[1] if len(parts) > 1 else []) + end
    types = [0] * len(first) + [int(len(parts) > 1)] * len(second)
    return first + second, types

  def _of_words(self, words):
    tokens, places = list(self._begin), []
    for i, word in enumerate(words):
      ids, inside = self._word(word, is_first=i == 0)
      places.append(len(tokens) + inside)
      tokens += ids
    if not self._fit(len(tokens) + 1):
      tokens = tokens[:self._cfg.length - 1]
      places = [place for place in places if place < len(tokens)]
    return tokens + [self._tokenizer.eos_id], places, [0] * (len(tokens) + 1)

  def _word(self, word: str, is_first: bool) -> tuple[list[int], int]:
    """Ids of a word as it stands in a text, and which of them is the first of the word itself."""
    bare = list(self._tokenizer.encode(word))
    if not bare:  # such as a control character: it keeps its place
      return [self._tokenizer.mask_id], 0
    if is_first:
      return bare, 0
    try:
      spaced = list(self._tokenizer.encode(" " + word))
    except ValueError:  # a vocabulary without spaces
      return bare, 0
    skipped = len(spaced) - len(bare)
    return spaced, skipped if skipped > 0 and spaced[skipped:] == bare else 0
