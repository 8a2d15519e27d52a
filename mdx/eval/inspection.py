"""Rows of a model looked at: logits and hidden states of every position, scores of every token.

Contents: make_read, run, score_tokens, most_probable.

Convention: the logits of position i are those of the token at i. A model that reads both sides sees
it unless it is masked; one that reads from left to right sees the tokens before it only. In
logits nothing is blocked; in log-probabilities the mask has none, where the model never writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import sharding
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.utils import processes

_ROUND = 16  # rows are padded to multiples of this length


def make_read(objective: types.Objective, *, mask_id: int, num_ids: int
              ) -> Callable[[types.Params, Mapping[str, jax.Array]], dict[str, jax.Array]]:
  """Returns (params, rows) -> what the model says of rows, to be jitted.

  The function takes tokens int32 [B, L] and segment_ids int32 [B, L], 0 on padding, and returns
  hidden float32 [B, L, D], logits and log_probs float32 [B, L, num_ids]. Models of noise are asked
  at the time whose share of masks the row has.

  Args:
    objective: of the model.
    mask_id: id of the mask.
    num_ids: of the vocabulary.

  Raises:
    ValueError: a model that writes no tokens.
  """
  reader = objective.reader()
  if reader is None:
    raise ValueError(f"a model trained with {type(objective).__name__} writes no tokens; use a "
                     "diffusion, mlm or ar checkpoint.")
  schedule = config_lib.build(schedule_lib.SCHEDULES, reader.noise, what="schedule") if (
      reader.noise) else None

  def read(params, rows):
    tokens, segments = rows["tokens"], rows["segment_ids"]
    is_masked, is_text = tokens == mask_id, segments > 0
    share = (is_masked & is_text).sum(axis=1) / jnp.maximum(is_text.sum(axis=1), 1)
    level = (schedule.time(share) if schedule else share).astype(jnp.float32)
    answer = reader.answer(params, types.Request(tokens=tokens, noise_level=level,
                                                 segment_ids=segments))
    logits = objective.network.head(params["model"], answer.hidden, "lm")[..., :num_ids]
    return {"hidden": answer.hidden.astype(jnp.float32), "logits": logits.astype(jnp.float32),
            "log_probs": jax.nn.log_softmax(answer.logits)[..., :num_ids]}

  return read


def run(read: Callable, params: types.Params, rows: Sequence[np.ndarray], *, max_length: int,
        pad_id: int, batch_size: int, mesh: jax.sharding.Mesh, round_to: int = _ROUND,
        counted: Sequence[np.ndarray] | None = None,
        told: Callable[[int], None] = lambda done: None) -> list[np.ndarray]:
  """Reads rows of any lengths; returns an array of each, in their order.

  Args:
    read: jitted (params, rows) -> [B, L, ...], of which each row has [L, ...]; with `counted`
      -> [B, ...].
    params: weights.
    rows: int32 [L] each.
    max_length: of the model's rows.
    pad_id: fills rows up.
    batch_size: rows of about one length read together.
    mesh: of the model.
    round_to: rows are padded to multiples of this length.
    counted: bool [L] each, given to `read` as rows["counted"] bool [B, L].
    told: is called with the number of rows that are read, after every batch.

  Raises:
    ValueError: a row that is empty or too long.
  """
  sizes = np.array([len(row) for row in rows], np.int64)
  for i, size in enumerate(sizes):
    if not 0 < size <= max_length:
      raise ValueError(f"row {i} has {size} tokens; expected 1 to {max_length}, the length of the "
                       "model's rows.")
  found: list[np.ndarray] = [np.zeros(0)] * len(rows)
  order = np.argsort(sizes, kind="stable")
  num_rows = sharding.padded_rows(min(len(rows), batch_size), batch_size, mesh)
  for first in range(0, len(rows), num_rows):
    chosen = order[first:first + num_rows]
    length = min(-(-int(sizes[chosen[-1]]) // round_to) * round_to, max_length)
    tokens = np.full((num_rows, length), pad_id, np.int32)
    segments = np.zeros((num_rows, length), np.int32)
    for row, i in enumerate(chosen):
      tokens[row, :sizes[i]], segments[row, :sizes[i]] = rows[i], 1
    arrays = {"tokens": tokens, "segment_ids": segments}
    if counted is not None:
      arrays["counted"] = np.zeros((num_rows, length), bool)
      for row, i in enumerate(chosen):
        arrays["counted"][row, :sizes[i]] = counted[i]
    values = processes.fetch(read(params, sharding.place_batch(arrays, mesh)))
    for row, i in enumerate(chosen):
      found[i] = np.array(values[row] if counted is not None else values[row, :sizes[i]])
    told(first + len(chosen))
  return found


def score_tokens(log_probs: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
                 rows: Sequence[np.ndarray], scored: Sequence[Sequence[int]], *,
                 mask_id: int | None) -> list[np.ndarray]:
  """Log-probabilities of the tokens of rows, float64 [L] each; nan for those that are not scored.

  Args:
    log_probs: rows -> log-probabilities [L, V] of each.
    rows: int32 [L] each.
    scored: positions of each row whose tokens are scored, ascending.
    mask_id: each token is masked in its turn; None: each is predicted from those before it.

  Reference: Salazar et al. 2020, arXiv:1910.14659 (pseudo-log-likelihood).
  """
  positions = [np.array(own, np.int64) for own in scored]
  copies = rows if mask_id is None else [
      copy for row, own in zip(rows, positions) for copy in _one_masked(row, own, mask_id)]
  read, found = iter(log_probs(copies)), []
  for row, own in zip(rows, positions):
    scores = np.full(len(row), np.nan)
    if mask_id is None:
      scores[own] = next(read)[own, row[own]]
    else:
      scores[own] = [next(read)[position, row[position]] for position in own]
    found.append(scores)
  return found


def _one_masked(row: np.ndarray, positions: np.ndarray, mask_id: int) -> list[np.ndarray]:
  """Copies of a row, in each of which one of the positions is masked."""
  copies = np.repeat(np.asarray(row, np.int32)[None], len(positions), axis=0)
  copies[np.arange(len(positions)), positions] = mask_id
  return list(copies)


def most_probable(log_probs: np.ndarray, top_k: int, *, blocked: int
                  ) -> list[list[tuple[int, float]]]:
  """(id, probability) of the most probable ids of each row of log_probs [N, V], but one id."""
  log_probs = np.where(np.arange(log_probs.shape[1]) == blocked, -np.inf, log_probs)
  best = np.argsort(-log_probs, axis=1, kind="stable")[:, :top_k]
  return [[(int(i), float(np.exp(row[i]))) for i in ids] for row, ids in zip(log_probs, best)]
