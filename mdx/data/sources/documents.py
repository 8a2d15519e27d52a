"""Documents: the records of a source as token ids, with what is a target and what is given.

Contents: Documents, fields, parts_row; LAYOUTS, FILLS, FILLS_ROW, TOO_LONG. What follows the
answer of a record that has one:

  pad           nothing; one end of text if `append_eos`
  eos           end-of-text tokens up to the row's end, targets like others (LLaDA)
  eos_together  the same, but all of them are masked or none is (Dream)
  eos_multiple  end-of-text tokens up to a multiple of `fill_multiple`, targets: whole blocks

Reference: Nie et al. 2025, arXiv:2502.09992; Ye et al. 2025, arXiv:2508.15487 (Dream); Arriola
et al. 2025, arXiv:2503.09573 (blocks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx.data import chat
from mdx.data import pack
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import dated_rows
from mdx.data.layouts import labelled_rows

FILLS_ROW = ("eos", "eos_together")
FILLS = ("pad", *FILLS_ROW, "eos_multiple")
TOO_LONG = ("error", "skip", "cut")


def fields(cfg: Any, has_answers: bool, layout: str = "") -> tuple[str, ...]:
  """What a row has beside tokens, under a `pipeline.Config`."""
  if cfg.labels is not None:
    return labelled_rows.FIELDS
  if layout:
    return LAYOUTS[layout]
  if not has_answers:
    return ()
  return ("is_given", "is_shared") if cfg.fill == "eos_together" else ("is_given",)


# What sources whose rows have a form of their own (`layout`) give beside tokens.
LAYOUTS = {"parts": ("is_given", "is_empty", "token_types", "labels"), "dated": dated_rows.FIELDS}


class Documents(Sequence):
  """Token ids of the records of one source; None for a record without tokens.

  Args:
    cfg: the `pipeline.Config`.
    source: of `mdx.data.sources.records`.
    split: "train" or "validation".
    tokenizer: makes ids of text.
    has_answers: whether records of this source, or of another in the mixture, have answers.
    layout: "", or of LAYOUTS: premises with candidates ("parts"), or documents with a date.
  """

  def __init__(self, cfg: Any, source: Any, split: str, tokenizer: tokenizer_lib.Tokenizer,
               has_answers: bool, layout: str = ""):
    self._records = source.records(split)
    self.where = _describe(source, split)
    self._cfg, self._tokenizer = cfg, tokenizer
    if cfg.labels is not None:
      self._encoder = labelled_rows.Encoder(tokenizer, cfg)
    elif tokenizer.eos_id < 0 and (cfg.append_eos or (has_answers and cfg.fill.startswith("eos"))):
      raise ValueError(f"{tokenizer.name} has no end token; set data.append_eos=False and "
                       "data.fill=pad, or tokenizer.eos_id.")
    self._eos = np.asarray([tokenizer.eos_id] if cfg.append_eos else [], np.int32)
    self._fields = fields(cfg, has_answers, layout)
    self._cache = {} if source.in_memory else None

  def __getstate__(self):
    return {**self.__dict__, "_cache": None if self._cache is None else {}}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> pack.Row | None:
    if self._cache is None:
      return self._read(index)
    if index not in self._cache:
      self._cache[index] = self._read(index)
    return self._cache[index]

  def check_template(self, num_records: int) -> None:
    """Renders the conversations among the first records; ValueError if that goes wrong."""
    found = [(i, record["messages"]) for i in range(num_records)
             if "messages" in (record := self._records[i])]
    if found:
      chat.check(self._tokenizer, [messages for _, messages in found],
                 [self._place(i) for i, _ in found])

  def check_labels(self) -> None:
    """Raises ValueError for the first label that is none, of all records."""
    for record in self._records:
      self._encoder.numbers(record)

  def _place(self, index: int) -> str:
    return f"record {index} of {self.where}"

  def _read(self, index: int) -> pack.Row | None:
    record, where = self._records[index], self._place(index)
    if self._cfg.labels is not None:
      return self._encoder(record)
    try:
      if "messages" in record:
        return self._answered(*chat.encode(self._tokenizer, record["messages"]))
      if "parts" in record:
        return parts_row(record, self._cfg, self._tokenizer)
      if "spans" in record:
        return dated_rows.row(record, self._cfg, self._tokenizer)
      if "prompt" in record:
        return self._answered(*self._pair(record))
      tokens = record["tokens"] if "tokens" in record else self._tokenizer.encode(record["text"])
    except ValueError as e:
      raise ValueError(f"{where}: {e}") from e
    if tokens.size and tokens.max() >= self._tokenizer.vocab_size:
      raise ValueError(f"{where} has token id {tokens.max()}, but tokenizer "
                       f"{self._tokenizer.name!r} has {self._tokenizer.vocab_size} ids; the ids "
                       "were made with another vocabulary, so use its tokenizer.")
    if not tokens.size:
      return None
    tokens = np.concatenate([tokens, self._eos])
    length, packing = self._cfg.length, self._cfg.packing
    if pack.needs_whole_documents(packing) and len(tokens) > length:
      raise ValueError(f"{where} has {len(tokens)} tokens, but packing={packing!r} needs "
                       f"whole documents and length is {length}; raise length, "
                       "shorten the documents, or use packing='concat' or 'crop'.")
    return {"tokens": tokens, **{k: np.zeros(len(tokens), bool) for k in self._fields}}

  def _pair(self, record) -> tuple[np.ndarray, np.ndarray]:
    """A prompt and its answer, of which only the answer is predicted; or a text with blanks."""
    prompt, answer = (self._tokenizer.encode(record[k]) for k in ("prompt", "answer"))
    is_given = np.ones(len(prompt), bool)
    if record.get("blank"):
      is_given = prompt != self._tokenizer.encode(record["blank"])[0]
      if len(prompt) != len(answer) or (prompt != answer)[is_given].any():
        raise ValueError(f"the answer {record['answer']!r:.60} does not fill the blanks of "
                         f"{record['prompt']!r:.60}.")
      prompt = prompt[:0]
    tokens = np.concatenate([prompt, answer])
    return tokens, np.pad(is_given, (0, len(tokens) - len(is_given)))

  def _answered(self, tokens: np.ndarray, is_given: np.ndarray) -> pack.Row | None:
    """Ends and fills a record of which only the answers are predicted."""
    cfg, eos_id = self._cfg, self._tokenizer.eos_id
    if not pack.needs_whole_documents(cfg.packing):
      raise ValueError(f"records with answers need packing='pad' or 'first_fit', not "
                       f"{cfg.packing!r}.")
    num_text = len(tokens)
    has_end = num_text and tokens[-1] == eos_id and not is_given[-1]
    wanted = num_text + (0 if has_end else len(self._eos))
    if wanted > cfg.length:
      if cfg.too_long == "skip":
        return None
      if cfg.too_long == "cut":
        raise ValueError("data.too_long 'cut' is for labelled records; an answer that is cut would "
                         "be another. Use 'error' or 'skip'.")
      raise ValueError(f"prompt and answer have {wanted} tokens, more than length {cfg.length}; "
                       "raise it, leave the record out, or set data.too_long='skip'.")
    if cfg.fill in FILLS_ROW:
      wanted = cfg.length
    elif cfg.fill == "eos_multiple":
      wanted = min(-(-wanted // cfg.fill_multiple) * cfg.fill_multiple, cfg.length)
    missing = (0, wanted - num_text)
    row = {"tokens": np.pad(tokens, missing, constant_values=eos_id),
           "is_given": np.pad(is_given, missing),
           "is_shared": np.arange(wanted) >= num_text - bool(has_end)}
    return {"tokens": row.pop("tokens"), **{k: row[k] for k in self._fields}}


def _describe(source, split: str) -> str:
  files = getattr(source, "path", None) or [getattr(source, "data_dir", "")]
  if split == "validation":
    files = getattr(source, "validation_path", None) or files
  return f"the {split} split of {type(source).__name__.lower()} source {', '.join(files)}".rstrip()


def parts_row(record: Mapping[str, Any], cfg: Any, tokenizer: tokenizer_lib.Tokenizer) -> pack.Row:
  """A premise and its candidates in one row.

  Every part begins with a special token and has a token type of its own. Of two parts the second
  begins where the first ends, and a third special token ends the row; the label stands at the
  first place. Several candidates have slots of one length each, and labels at their first
  places. A label is 1 (wrong) or 2 (right), and 0 elsewhere. What does not fit is cut.

  Args:
    record: {"parts", "labels"}, see `mdx.data.sources.records`.
    cfg: the `pipeline.Config`.
    tokenizer: makes ids of text.
  """
  length = cfg.length
  if cfg.packing != "pad":
    raise ValueError(f"premises with candidates need packing='pad', not {cfg.packing!r}.")
  if tokenizer.eos_id < 0:
    raise ValueError(f"{tokenizer.name} has no end token, which separates the parts; set "
                     "tokenizer.eos_id.")
  parts = [tokenizer.encode(p) if isinstance(p, str) else p for p in record["parts"]]
  is_pair = len(parts) == 2
  slot = (length - 1) // 2 if is_pair else length // len(parts)
  if slot < 2 or not is_pair and slot * len(parts) != length:
    raise ValueError(f"{len(parts)} parts do not have slots of one length in a row of {length} "
                     f"tokens; use a multiple of {len(parts)} as data.length.")
  if is_pair:  # the longer part is cut first
    room = length - 3
    keep = [max(room // 2, room - len(parts[1])), max(room // 2, room - len(parts[0]))]
    parts = [p[:k] for p, k in zip(parts, keep)]
  first = tokenizer.eos_id if tokenizer.bos_id in (None, -1) else tokenizer.bos_id
  rows = []
  for i, part in enumerate(parts):
    begin = first if i == 0 or not is_pair else tokenizer.eos_id
    ids = np.concatenate([[begin], part if is_pair else part[:slot - 1]])
    if is_pair and i:
      ids = np.concatenate([ids, [tokenizer.eos_id]])
    rows.append(np.asarray(ids, np.int32))
  sizes = [len(row) if is_pair else slot for row in rows]
  tokens = np.concatenate([np.pad(r, (0, n - len(r)), constant_values=tokenizer.pad_id)
                           for r, n in zip(rows, sizes)])
  starts, labels = np.cumsum([0, *sizes[:-1]]), np.zeros(len(tokens), np.int32)
  labels[[0] if is_pair else starts[1:]] = 1 + np.asarray(record["labels"], np.int32)
  is_empty = np.concatenate([np.arange(n) >= len(r) for r, n in zip(rows, sizes)])
  is_given = is_empty.copy()
  is_given[starts] = True
  if is_pair:
    is_given[-1] = True
  return {"tokens": tokens.astype(np.int32), "is_given": is_given, "is_empty": is_empty,
          "token_types": np.repeat(np.arange(len(rows), dtype=np.int32), sizes),
          "labels": labels}
