"""Episodes: decodes of several turns, between which an environment answers.

Contents: Turn, Episodes, check_window, texts_of, most_written.

Convention: an episode is one row of fixed width: the prompt, padded on the left, and then for each
turn G tokens that are decoded and (but for the last turn) R tokens of room for the reply. Tokens
after a turn's end of text and unused room are padding (segment 0), which nothing sees: a reader
steps over it (`objectives.reading.previous_positions`). The last turn of a row keeps its tail, as a
row of one turn does, unless a stop ended it. Draws are functions of (seed, iteration,
turn, row). Replies are made by every process for all rows, so `reply` must be a function of its
arguments. A reply is text: ids of special tokens never come from it, and none of its tokens is one
that the model wrote (`is_action`), so it has no weight in a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdx import sharding
from mdx import types
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.samplers import trajectory
from mdx.utils import processes


class Turn(NamedTuple):
  """A part of a transcript.

  Attributes:
    role: "assistant", a turn of the model, or "tool", a reply of the environment.
    content: its text.
  """
  role: str
  content: str


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
    self._stops = environment.stops if isinstance(environment, types.Stopped) else ()
    self.run = decoder.run

  @property
  def answer_length(self) -> int:
    """Positions of a row after its prompt."""
    return self._turns * (self._sampler.gen_length + self._room) - self._room

  @property
  def most_written(self) -> int:
    """Most tokens of a row that the model writes."""
    return self._turns * self._sampler.gen_length

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
      is_stopped = self._cut(record.tokens, written)
      is_action[:, turn_columns] = written & record.is_free
      for name, values in fields.items():
        values[:, first - self.start:first - self.start + length] = getattr(record, name)
      nfe += record.nfe
      for i in np.flatnonzero(is_stopped):
        self._drop(i, first + np.flatnonzero(~written[i]), tokens, is_real, fields["is_free"])
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
        ids = self._encoded(reply)[:self._room]
        turn = slice(first + length, first + length + len(ids))
        tokens[i, turn], is_real[i, turn] = ids, True
        self._drop(i, first + np.flatnonzero(~written[i]), tokens, is_real, fields["is_free"])
      if not goes_on.any():
        break
    rows = _rows(tokens, is_real, shape[1]) | {"is_action": is_action,
                                               "row_index": index.astype(np.int32)}
    placed = sharding.place_batch(
        rows | fields | {"nfe": nfe, "tokens": tokens[:, self.start:]}, self._decoder.home)
    take = lambda names: {k: placed[k] for k in names}
    return trajectory.Trajectory(**take(("tokens", "nfe", *fields))), take(rows)

  def texts(self, tokens: np.ndarray, is_real: np.ndarray) -> list[str]:
    """Transcripts: turns up to their ends of text, and replies, of rows.

    Args:
      tokens: int32 [n, A], what follows the prompts.
      is_real: bool or int [n, S], 0 on padding.
    """
    return ["".join(turn.content for turn in row) for row in self.turns(tokens, is_real)]

  def turns(self, tokens: np.ndarray, is_real: np.ndarray) -> list[list[Turn]]:
    """Turns and replies of rows, in their order; arguments as of `texts`."""
    length = self._sampler.gen_length
    found: list[list[Turn]] = [[] for _ in tokens]
    real = np.asarray(is_real)[:, self.start:] > 0
    for first in range(0, self.answer_length, length + self._room):
      turn, room = slice(first, first + length), slice(first + length, first + length + self._room)
      for i, text in enumerate(task_eval.completions(tokens[:, turn], self._tokenizer)):
        if real[i, first]:
          found[i].append(Turn("assistant", text))
        if real[i, room].any():
          found[i].append(Turn("tool", self._tokenizer.decode(tokens[i, room][real[i, room]])))
    return found

  def _cut(self, tokens: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Cuts `written` bool [N, G] of turns int32 [N, G] behind stops; which rows had one, bool [N].
    """
    is_stopped = np.zeros(len(tokens), bool)
    for i in np.flatnonzero(written.any(axis=1)) if self._stops else ():
      own = tokens[i, written[i]]
      has = lambda size, own=own: any(
          stop in self._tokenizer.decode(own[:size]) for stop in self._stops)
      if not has(len(own)):
        continue
      low, high = 0, len(own)  # without a stop, with one
      while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has(middle) else (middle, high)
      written[i, high:], is_stopped[i] = False, True
    return is_stopped

  def _drop(self, row: int, columns: np.ndarray, tokens: np.ndarray, is_real: np.ndarray,
            is_free: np.ndarray) -> None:
    """Makes columns of a row padding."""
    tokens[row, columns], is_real[row, columns] = self._tokenizer.pad_id, False
    is_free[row, columns - self.start] = False

  def _encoded(self, reply: str) -> np.ndarray:
    """Ids of a reply, int32 [n]; ValueError of the environment for text that cannot be written."""
    try:
      ids = self._tokenizer.encode(reply)
    except ValueError as error:
      raise ValueError(f"the model's tokenizer cannot write the reply {reply!r:.60} of "
                       f"{type(self._environment).__name__} ({error}) Use texts in its symbols, or "
                       "a tokenizer of bytes.") from None
    return ids[~np.isin(ids, list(self._tokenizer.special_ids))]


def check_window(prompts: task_eval.Prompts, sampler: Any, task: types.Task, *, max_turns: int,
                 max_reply_length: int, max_length: int) -> None:
  """Raises ValueError for a task without replies, or episodes that are longer than the model."""
  if not isinstance(task, types.Environment) or task.blank:
    raise ValueError(f"max_turns {max_turns} needs a task that replies to answers, which "
                     f"{type(task).__name__} does not; use 1.")
  width = prompts.start + max_turns * (sampler.gen_length + max_reply_length) - max_reply_length
  if width > max_length:
    raise ValueError(f"{max_turns} turns of {sampler.gen_length} tokens with replies of "
                     f"{max_reply_length} between them, behind prompts of {prompts.start}, make "
                     f"{width} positions, more than the model's {max_length}; lower max_turns, "
                     "max_reply_length or sampler.gen_length.")


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


def most_written(decoder: task_decoder.TaskDecoder | Episodes, length: int) -> int:
  """Most tokens that the model writes in a row, of rows with `length` positions after the prompt.
  """
  return decoder.most_written if isinstance(decoder, Episodes) else length


def _rows(tokens, is_real, size):
  """The first `size` columns as rows to decode; positions count the tokens that are real."""
  real = is_real[:, :size]
  positions = np.where(real, np.cumsum(real, axis=1) - 1, 0)
  # A copy, for a device may read the array that the next turn is written to.
  return {"canvas": tokens[:, :size].copy(), "positions": positions.astype(np.int32),
          "segment_ids": real.astype(np.int32)}
