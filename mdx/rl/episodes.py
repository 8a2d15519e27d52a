"""Episodes: decodes of several turns, between which an environment answers.

Contents: Episodes, texts_of.

Convention: an episode is one row of fixed width: the prompt, padded on the left, and then for each
turn G tokens that are decoded and (but for the last turn) R tokens of room for the reply. Tokens
after a turn's end of text and unused room are padding (segment 0), which nothing sees; the last
turn of a row keeps its tail, as a row of one turn does. Draws are functions of (seed, iteration,
turn, row). Replies are made by every process for all rows, so `reply` must be a function of its
arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mdx import sharding
from mdx import types
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.samplers import trajectory
from mdx.utils import processes


class Episodes:
  """Decodes examples of an environment; called as `eval.task_decoder.TaskDecoder` is."""

  def __init__(self, decoder: task_decoder.TaskDecoder, prompts: task_eval.Prompts, sampler: Any,
               environment: types.Environment, examples: Sequence[dict[str, Any]], tokenizer: Any,
               *, max_turns: int, max_reply_length: int):
    """Takes what an episode needs.

    Args:
      decoder: of single turns, with records of commits.
      prompts: the encoded examples.
      sampler: the decoding rule; a turn has its `gen_length` tokens.
      environment: answers between turns.
      examples: of the prompts.
      tokenizer: the model's.
      max_turns: most turns of an episode.
      max_reply_length: tokens of a reply that are read; the rest is cut.
    """
    self._decoder, self._prompts, self._environment = decoder, prompts, environment
    self._examples, self._tokenizer, self._sampler = examples, tokenizer, sampler
    self._turns, self._room, self.start = max_turns, max_reply_length, prompts.start
    self.run = decoder.run

  @property
  def answer_length(self) -> int:
    """Positions of a row after its prompt."""
    return self._turns * (self._sampler.gen_length + self._room) - self._room

  def __call__(self, params: types.Params, examples: np.ndarray, iteration: int, *,
               row_index: np.ndarray | None = None) -> tuple[trajectory.Trajectory, dict[str, Any]]:
    """Returns a record of level "commits" over all turns, and the rows, with `is_action` [N, S]."""
    length, pad = self._sampler.gen_length, self._tokenizer.pad_id
    index = np.arange(len(examples)) if row_index is None else row_index
    shape = (len(examples), self.start + self.answer_length)
    tokens = np.full(shape, pad, np.int32)
    is_real, is_action = np.zeros(shape, bool), np.zeros(shape, bool)
    tokens[:, :self.start] = self._prompts.tokens[examples]
    is_real[:, :self.start] = (
        np.arange(self.start) >= self.start - self._prompts.lengths[examples][:, None])
    answer = shape[0], self.answer_length
    fields = {"step": np.full(answer, -1, np.int32), "confidence": np.zeros(answer, np.float32),
              "log_prob": np.zeros(answer, np.float32), "is_free": np.zeros(answer, bool)}
    nfe, goes_on = np.zeros(len(examples), np.int32), np.ones(len(examples), bool)
    for turn in range(self._turns):
      first = self.start + turn * (length + self._room)
      turn_columns = slice(first, first + length)
      tokens[goes_on, turn_columns], is_real[goes_on, turn_columns] = self._sampler.mask_id, True
      rows = _rows(tokens, is_real, first + length) | {"row_index": index.astype(np.int32)}
      rows = sharding.place_batch(rows, self._decoder.mesh)
      record = processes.fetch(
          self._decoder.decode(params, rows, iteration, start=first, turn=turn))
      tokens[:, turn_columns] = np.where(goes_on[:, None], record.tokens, tokens[:, turn_columns])
      is_eos = self._tokenizer.ends(record.tokens)
      written = goes_on[:, None] & (np.cumsum(is_eos, axis=1) - is_eos == 0)
      is_action[:, turn_columns] = written & record.is_free
      for name, values in fields.items():
        values[:, first - self.start:first - self.start + length] = getattr(record, name)
      nfe += record.nfe
      if turn + 1 == self._turns:
        break
      rows_on = np.flatnonzero(goes_on)
      replies = self._environment.reply(
          [self._examples[examples[i]] for i in rows_on],
          self.texts(tokens[rows_on, self.start:], is_real[rows_on]))
      for i, reply in zip(rows_on, replies, strict=True):
        if reply is None:
          goes_on[i] = False
          continue
        ids = self._tokenizer.encode(reply)[:self._room]
        turn = slice(first + length, first + length + len(ids))
        tokens[i, turn], is_real[i, turn] = ids, True
        tail = first + np.flatnonzero(~written[i])
        tokens[i, tail], is_real[i, tail] = pad, False
        fields["is_free"][i, tail - self.start] = False
      if not goes_on.any():
        break
    rows = _rows(tokens, is_real, shape[1]) | {"is_action": is_action,
                                               "row_index": index.astype(np.int32)}
    placed = sharding.place_batch(
        rows | fields | {"nfe": nfe, "tokens": tokens[:, self.start:]}, self._decoder.mesh)
    take = lambda names: {k: placed[k] for k in names}
    return trajectory.Trajectory(**take(("tokens", "nfe", *fields))), take(rows)

  def texts(self, tokens: np.ndarray, is_real: np.ndarray) -> list[str]:
    """Transcripts: turns up to their ends of text, and replies, of rows.

    Args:
      tokens: int32 [n, A], what follows the prompts.
      is_real: bool or int [n, S], 0 on padding.
    """
    length, found = self._sampler.gen_length, [""] * len(tokens)
    real = np.asarray(is_real)[:, self.start:] > 0
    for first in range(0, self.answer_length, length + self._room):
      turn, room = slice(first, first + length), slice(first + length, first + length + self._room)
      for i, text in enumerate(task_eval.completions(tokens[:, turn], self._tokenizer)):
        if real[i, first]:
          found[i] += text + self._tokenizer.decode(tokens[i, room][real[i, room]])
    return found


def texts_of(decoder: task_decoder.TaskDecoder | Episodes, tokens: np.ndarray,
             rows: Mapping[str, jax.Array], tokenizer: Any, chosen: Any = slice(None)) -> list[str]:
  """Texts that are scored of what a decoder made: answers, or transcripts of several turns.

  Args:
    decoder: gave the rest.
    tokens: int32 [N, A], of its record, on the host.
    rows: its rows, on the device.
    tokenizer: the model's.
    chosen: index of the rows that are wanted.
  """
  if isinstance(decoder, Episodes):
    is_real = np.asarray(processes.fetch(rows["segment_ids"]))
    return decoder.texts(tokens[chosen], is_real[chosen])
  return task_eval.completions(tokens[chosen], tokenizer)


def _rows(tokens, is_real, size):
  """The first `size` columns as rows to decode; positions count the tokens that are real."""
  real = is_real[:, :size]
  positions = np.where(real, np.cumsum(real, axis=1) - 1, 0)
  # A copy, for a device may read the array that the next turn is written to.
  return {"canvas": tokens[:, :size].copy(), "positions": positions.astype(np.int32),
          "segment_ids": real.astype(np.int32)}
