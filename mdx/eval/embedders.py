"""Embeddings of texts: how texts become rows, how rows are read, how states become one vector.

Contents: ATTENTIONS, TEXT, Settings, Row, rows_of, make_embed, finished.

Convention: one function of every option of arXiv:2412.12591: pooling x prompt x reading x layer. A
prompt is a template with "{text}" in it, or a text that stands before every text. Rows that are
longer than the model's lose the end of their text, never what stands behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import pooling as pooling_lib

TEXT = "{text}"  # in a prompt
# How the rows are read; "" as the model was trained. "echo" has the text twice and pools the second
# copy, each of whose positions has read all of the first (Springer et al. 2024, arXiv:2402.15449).
ATTENTIONS = {"": None, "causal": attention_lib.Causal(), "bidirectional": attention_lib.Full(),
              "echo": None}
KINDS = ("query", "document")  # of texts; a model may have a prompt for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Options of an embedding.

  Attributes:
    pooling: name of one of `networks.pooling.POOLINGS`, a call such as "suffix(num_tokens=3)", or a
      table of `name` and fields. "suffix" alone takes the tokens behind the text of the prompt.
    prompts: kind of text -> prompt, or several whose embeddings are averaged.
    default_kind: kind of texts that are given none; "" = no prompt.
    attention: one of ATTENTIONS.
    layer: block whose states are pooled, counted from 0, or from -1 at the end; the last one with
      the final norm.
    normalize: whether embeddings have length 1.
    dim: columns that are kept, before `normalize`; 0 = all (Matryoshka, arXiv:2205.13147).
    max_length: tokens of a row that are read, 0 = as many as the model takes.
    lower_case: whether texts and prompts are made lower case.
    include_prompt: whether the pooling counts the positions of a prompt before the text.
  """
  pooling: Any = "mean"
  prompts: Any = dataclasses.field(default_factory=dict)
  default_kind: str = ""
  attention: str = ""
  layer: int = -1
  normalize: bool = False
  dim: int = 0
  max_length: int = 0
  lower_case: bool = False
  include_prompt: bool = True

  def __post_init__(self):
    config_lib.check(self, "embedding", choices=dict(attention=ATTENTIONS),
                     at_least=dict(dim=0, max_length=0))
    if self.takes_suffix:
      return
    if self.pooling_value.reads_layers and self.layer != -1:
      raise ValueError(f"embedding.layer {self.layer} is one layer and the pooling averages "
                       "several; leave one of them out.")

  @classmethod
  def of(cls, fields: Mapping[str, Any]) -> Settings:
    """The settings of a table; ValueError for an unknown field or a wrong value."""
    return config_lib.construct(cls, fields, what="embedding")

  def check(self, network: types.Network, max_length: int) -> None:
    """Raises ValueError if a model cannot be read so."""
    if not -network.num_layers <= self.layer < network.num_layers:
      raise ValueError(f"embedding.layer {self.layer} is none of the {network.num_layers} layers; "
                       f"use {-network.num_layers} to {network.num_layers - 1}.")
    if self.max_length > max_length:
      raise ValueError(f"embedding.max_length {self.max_length} is more than the {max_length} of "
                       "the model; use at most that.")

  @property
  def takes_suffix(self) -> bool:
    """Whether the tokens behind the text of the prompt are pooled."""
    return self.pooling in ("suffix", {"name": "suffix"})

  @property
  def pooling_value(self) -> Any:
    """The pooling; that of rows whose suffix is marked is the mean."""
    return pooling_lib.build("mean" if self.takes_suffix else self.pooling)

  def prompts_of(self, kind: str) -> tuple[str, ...]:
    """The prompts of a kind of text, TEXT alone where there is none.

    Raises:
      ValueError: an unknown kind.
    """
    kind = kind or self.default_kind
    if kind and kind not in (*KINDS, *self.prompts):
      raise ValueError(f"there is no prompt for texts of the kind {kind!r}; choose from "
                       f"{', '.join(dict.fromkeys((*KINDS, *self.prompts)))}.")
    found = self.prompts.get(kind, "") if kind else ""
    found = (found,) if isinstance(found, str) else tuple(found)
    return tuple(one if TEXT in one else one + TEXT for one in found) or (TEXT,)


class Row(NamedTuple):
  """One text as the model reads it.

  Attributes:
    ids: int32 [L].
    counted: bool [L], positions that the pooling counts.
    is_cut: whether the end of the text is missing.
  """
  ids: np.ndarray
  counted: np.ndarray
  is_cut: bool


def rows_of(texts: Sequence[str], prompt: str, settings: Settings, tokenizer: Any, *,
            begin: Sequence[int], end: Sequence[int], max_length: int) -> list[Row]:
  """The rows of texts.

  Args:
    texts: what is embedded.
    prompt: with TEXT in it.
    settings: how.
    tokenizer: makes the ids.
    begin, end: ids around a row.
    max_length: of the model's rows.

  Raises:
    ValueError: something that is no text, a row without tokens, a prompt that fills the row, or a
      character that the tokenizer lacks.
  """
  lower = str.lower if settings.lower_case else str
  before, _, after = prompt.partition(TEXT)
  before, after = lower(before), lower(after)
  encode = lambda text: tokenizer.encode(text) if text else np.zeros(0, np.int32)
  special = settings.pooling_value.ids if hasattr(settings.pooling_value, "ids") else ()
  if any(not 0 <= i < tokenizer.vocab_size for i in special):
    raise ValueError(f"pooling special has the id {max(special)}; ids of this model lie in "
                     f"[0, {tokenizer.vocab_size}).")
  head, tail = encode(before), encode(after)
  if settings.takes_suffix and not len(tail):
    raise ValueError("pooling suffix reads the tokens of a prompt behind the text; give a prompt "
                     "such as '{text} In short:', or suffix(num_tokens=...).")
  copies = 2 if settings.attention == "echo" else 1
  limit = min(settings.max_length or max_length, max_length) - len(begin) - len(end) - len(special)
  limit //= copies
  if limit <= len(head) + len(tail):
    raise ValueError(f"a row has {max(limit, 0)} tokens for a text and its prompt of "
                     f"{len(head) + len(tail)}; use a shorter prompt, or a larger max_length.")
  around = lambda ids: np.concatenate([begin, ids, special, end]).astype(np.int32)
  rows = []
  for i, text in enumerate(texts):
    if not isinstance(text, str):
      raise ValueError(f"text {i} is {text!r:.60}; expected a text.")
    text = lower(text)
    body = encode(before + text + after)
    is_cut = len(body) > limit
    if is_cut:
      body = np.concatenate([head, encode(text)[:limit - len(head) - len(tail)], tail])
    first = len(begin)
    if copies == 2:
      again = encode(" " + before + text + after) if not is_cut else body
      again = again[:limit + 1] if len(body) + len(again) <= 2 * limit else body
      first, body = first + len(body), np.concatenate([body, again])
    ids = around(body)
    counted = np.ones(len(ids), bool)
    if copies == 2:  # the second copy and nothing around it
      counted[:first], counted[len(begin) + len(body) + len(special):] = False, False
    elif before and not settings.include_prompt:
      counted[:first + len(head)] = False
    if settings.takes_suffix:
      last = len(begin) + len(body)
      counted[:] = False
      counted[last - len(tail):last] = True
    if not counted.any():
      raise ValueError(f"text {i} is empty: nothing of it is read; leave it out.")
    rows.append(Row(ids, counted, is_cut))
  return rows


def make_embed(objective: types.Objective, settings: Settings
               ) -> Callable[[types.Params, Mapping[str, jax.Array]], jax.Array]:
  """Returns (params, rows) -> embeddings float32 [B, E], to be jitted.

  Rows have tokens int32 [B, L], segment_ids int32 [B, L], 0 on padding, and counted bool [B, L].
  Models of noise are read at time 0, where nothing is masked.
  """
  how, network = objective.embedder(), objective.network
  if how.is_bound:
    if settings.attention or settings.layer != -1 or settings.pooling != "mean":
      raise ValueError(f"objective {type(objective).__name__} reads a text in its own way; "
                       "leave out embedding.attention, layer and pooling.")
    return how.vectors
  attention = ATTENTIONS[settings.attention] or how.attention
  pooling = settings.pooling_value
  is_last = settings.layer in (-1, network.num_layers - 1)

  def embed(params, rows):
    tokens = rows["tokens"]
    time = jnp.zeros(len(tokens), jnp.float32) if network.reads_time else None
    inputs = types.Inputs(tokens, segment_ids=rows["segment_ids"])
    hidden = network.encode(params["model"], inputs, attention=attention, time=time,
                            keep_layers=pooling.reads_layers or not is_last)
    states = hidden.last
    if pooling.reads_layers:
      states = jnp.concatenate([hidden.layers[:-1], hidden.last[None]])
    elif not is_last:
      states = hidden.layers[settings.layer]
    pooled = pooling(states, rows["counted"], tokens=tokens,
                     params=params[how.pooling_part] if how.pooling_part else None)
    return how.project(params, pooled) if how.project else pooled

  return embed


def finished(embeddings: np.ndarray, settings: Settings) -> np.ndarray:
  """Embeddings [N, E] cut to `dim` columns and normalised as the settings have it, float32."""
  if settings.dim:
    embeddings = np.asarray(pooling_lib.truncate(embeddings, settings.dim))
  if settings.normalize:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / np.where(lengths > 0, lengths, 1)
  return np.ascontiguousarray(embeddings, np.float32)
