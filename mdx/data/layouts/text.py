"""Texts, and records of which only answers are predicted, as rows of tokens.

Contents: FIELDS, Text, Answered, encode_pair, pair_texts, encode_chat, chat_texts, check_chat,
FILLS, FILLS_ROW, TOO_LONG. What follows the answer of a record that has one:

  pad           nothing; one end of text if `append_eos`
  eos           end-of-text tokens up to the row's end, targets like others (LLaDA)
  eos_together  the same, but all of them are masked or none is (Dream)
  eos_multiple  end-of-text tokens up to a multiple of `fill_multiple`, targets: whole blocks

Convention: these layouts have equal fields, so that their sources mix.

Reference: Nie et al. 2025, arXiv:2502.09992; Ye et al. 2025, arXiv:2508.15487 (Dream); Arriola
et al. 2025, arXiv:2503.09573 (blocks).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mdx import types
from mdx.data import buckets
from mdx.data import chat
from mdx.data import pack
from mdx.data import tokenizer as tokenizer_lib

FIELDS = {"tokens": types.Field("int32", pad="pad_id"), "loss_mask": types.Field("bool", pad=False),
          "segment_ids": types.Field("int32"), "positions": types.Field("int32")}
_TOGETHER = {"is_shared": types.Field("bool", pad=False)}  # tokens that are masked together
FILLS_ROW = ("eos", "eos_together")
FILLS = ("pad", *FILLS_ROW, "eos_multiple")
TOO_LONG = ("error", "skip", "cut")
Encoded = tuple[np.ndarray, np.ndarray]


def encode(record: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer) -> np.ndarray:
  """Token ids of {"text"} or {"tokens"}, int32 [n]; ValueError for ids of another vocabulary."""
  if "text" in record:
    return tokenizer.encode(record["text"])
  tokens = record["tokens"]
  if tokens.size and tokens.max() >= tokenizer.vocab_size:
    raise ValueError(f"token id {tokens.max()} is none of the {tokenizer.vocab_size} ids of "
                     f"tokenizer {tokenizer.name!r}; the ids were made with another vocabulary, so "
                     "use its tokenizer.")
  return tokens


def decode(value: str | np.ndarray, tokenizer: tokenizer_lib.Tokenizer | None) -> str:
  """A text, or the text of token ids; ValueError if there is no tokenizer to decode them."""
  if isinstance(value, str):
    return value
  if tokenizer is None:
    raise ValueError("the records are token ids already; give text, or the tokenizer that decodes "
                     "them.")
  return tokenizer.decode(value)


def check_end(cfg: Any, tokenizer: tokenizer_lib.Tokenizer, is_filled: bool = False) -> None:
  """Raises ValueError if an end token is wanted that the tokenizer does not have."""
  if tokenizer.eos_id < 0 and (cfg.append_eos or is_filled):
    raise ValueError(f"{tokenizer.name} has no end token; set data.append_eos=False and "
                     "data.fill=pad, or tokenizer.eos_id.")


def check_fits(num_tokens: int, cfg: Any) -> None:
  """Raises ValueError for a document that the packing neither splits nor cuts, and is too long."""
  if pack.needs_whole_documents(cfg.packing) and num_tokens > cfg.length:
    raise ValueError(f"{num_tokens} tokens, but packing={cfg.packing!r} needs whole documents and "
                     f"length is {cfg.length}; raise length, shorten the documents, or use "
                     "packing='concat' or 'crop'.")


def _fields(cfg: Any) -> dict[str, types.Field]:
  return FIELDS | (_TOGETHER if cfg.fill == "eos_together" else {})


@dataclasses.dataclass(frozen=True)
class Text(types.Layout):
  """Rows of {"text"} or {"tokens"}, all of whose tokens are targets."""

  fields: Mapping[str, types.Field] = dataclasses.field(default_factory=lambda: FIELDS)
  packings = tuple(pack.PACKINGS)
  reads = buckets.KEYS

  def under(self, cfg):
    """The layout, with marks of tokens that are masked together if other records have them."""
    return dataclasses.replace(self, fields=_fields(cfg))

  def row(self, record, cfg, tokenizer):
    """Tokens int32 [n], with an end token if `append_eos`."""
    check_end(cfg, tokenizer)
    tokens = encode(record, tokenizer)
    if not tokens.size:
      return None
    tokens = np.concatenate([tokens, np.full(int(cfg.append_eos), tokenizer.eos_id, np.int32)])
    check_fits(len(tokens), cfg)
    return {"tokens": tokens}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The text."""
    del targets
    return [decode(record["text"] if "text" in record else record["tokens"], tokenizer)]


def encode_pair(record: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer) -> Encoded:
  """Tokens of a prompt and its answer, which alone is no `is_given`; or of a text with blanks."""
  prompt, answer = (tokenizer.encode(record[k]) for k in ("prompt", "answer"))
  is_given = np.ones(len(prompt), bool)
  if record["blank"]:
    is_given = prompt != tokenizer.encode(record["blank"])[0]
    if len(prompt) != len(answer) or (prompt != answer)[is_given].any():
      raise ValueError(f"the answer {record['answer']!r:.60} does not fill the blanks of "
                       f"{record['prompt']!r:.60}.")
    prompt = prompt[:0]
  tokens = np.concatenate([prompt, answer])
  return tokens, np.pad(is_given, (0, len(tokens) - len(is_given)))


def pair_texts(record: Mapping[str, Any], targets: bool) -> list[str]:
  """The answer, or prompt and answer."""
  return [record["answer"]] if targets else [record["prompt"], record["answer"]]


def encode_chat(record: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer) -> Encoded:
  """Tokens of a conversation; those of the answers are no `is_given`."""
  return chat.encode(tokenizer, record["messages"])


def chat_texts(record: Mapping[str, Any], targets: bool) -> list[str]:
  """The answers as one text, or all contents."""
  if not targets:
    return [m["content"] or "" for m in record["messages"]]
  return ["\n".join(m["content"] or "" for m in record["messages"] if m["role"] == "assistant")]


def check_chat(records, where, tokenizer) -> None:
  """Renders conversations in a process with bounds; ValueError if that goes wrong."""
  chat.check(tokenizer, [record["messages"] for record in records],
             [where(i) for i in range(len(records))])


@dataclasses.dataclass(frozen=True)
class Answered(types.Layout):
  """Rows of which only the answers are predicted.

  Attributes:
    encode: (record, tokenizer) -> tokens int32 [n], is_given bool [n].
    written: (record, targets) -> the texts of a record.
    check_records: (records, where, tokenizer) -> None; raises ValueError.
    fields: of a row.
  """

  encode: Callable[..., Encoded]
  written: Callable[..., list[str]]
  check_records: Callable[..., None] = lambda *_: None
  fields: Mapping[str, types.Field] = dataclasses.field(default_factory=lambda: FIELDS)
  packings = ("first_fit", "pad")
  reads = buckets.KEYS
  marks = ("is_given",)

  def under(self, cfg):
    """The layout; with `fill` "eos_together" it marks what is masked together."""
    return dataclasses.replace(self, fields=_fields(cfg))

  def row(self, record, cfg, tokenizer):
    """Tokens int32 [n], ended and filled as the config says; is_given, is_shared bool [n]."""
    check_end(cfg, tokenizer, is_filled=cfg.fill != "pad")
    tokens, is_given = self.encode(record, tokenizer)
    num_text, eos_id = len(tokens), tokenizer.eos_id
    has_end = num_text and tokens[-1] == eos_id and not is_given[-1]
    wanted = num_text + int(cfg.append_eos and not has_end)
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
    return {"tokens": np.pad(tokens, missing, constant_values=eos_id),
            "is_given": np.pad(is_given, missing),
            "is_shared": np.arange(wanted) >= num_text - bool(has_end)}

  def texts(self, record, tokenizer=None, *, targets=True):
    """The answers, or all that is written."""
    del tokenizer
    return self.written(record, targets)

  def check(self, records, where, cfg, tokenizer):
    """Renders the first conversations."""
    del cfg
    self.check_records([records[i] for i in range(min(len(records), pack.NUM_CHECKED))], where,
                       tokenizer)
