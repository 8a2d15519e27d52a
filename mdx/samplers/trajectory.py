"""The record of a decode, in one schema that RL losses and viewers read.

Contents: RECORDS, Trajectory, Recorder, canvas_before, frames.

Convention: G is the number of recorded positions (the last G of each row), T the bound of
the steps; entries of steps that a row did not take are zero. Four sizes: "commits"
keeps what each final token was written with, O(G) a row, and "entropy" the entropy of the
distribution that it was drawn from too; "canvas" adds to "commits" the canvas before every step and
the confidence of the masked positions looked at; "full" looks at all masked positions, and keeps
what was predicted there. A full record may have m predictions of
every canvas, the sampler's own and m - 1 further draws: 4 (m - 1) T G bytes a row more.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib
from mdx.utils import rng

RECORDS = ("none", "commits", "entropy", "canvas", "full")


class Trajectory(NamedTuple):
  """A decoded batch, step by step.

  Attributes:
    tokens: int32 [B, G], the final tokens.
    step: int32 [B, G], the step after which each has stood; -1 where given.
    confidence: float32 [B, G], with which it was written; 0 if not drawn (filled
      after an end of text, or given).
    log_prob: float32 [B, G], its log-probability under the distribution it was drawn from (tempered
      and filtered; at temperature 0 the untempered one).
    nfe: int32 [B], steps of the row.
    is_free: bool [B, G], positions that were decoded, not given.
    block: int32 [B, G], number of the block that each position was decoded in; any where given.
    entropy: float32 [B, G], in nats, of the distribution that it was drawn from; 0 if not drawn; or
      None.
    canvas: int32 [B, T, G] before each step, or None.
    step_confidence: float32 [B, T, G] of the tokens proposed at masked positions that were
      looked at, and of those that replace one; 0 elsewhere; or None.
    prediction: int32 [B, T, G], the full clean prediction: what was drawn where the
      canvas is masked, the canvas elsewhere; or None.
    step_log_prob: float32 [B, T, G], likewise of `prediction`; or None.
    step_time: float32 [B, T], the time that the network was told at each step; or None.
    action: int32 [B, T, G], what a learned rule drew at each step, at any level; 0 where it drew
      nothing; None of a rule without actions.
    action_log_prob: float32 [B, T, G], its log-probability, likewise.
    row_draws: what a learned rule drew for each row before its first step, by name, [B] each; None
      of a rule without actions.
    branches: int32 [B, T, m - 1, G], further predictions of the same canvases, independent of
      `prediction` and of one another; None where m is 1.
  """
  tokens: jax.Array
  step: jax.Array
  confidence: jax.Array
  log_prob: jax.Array
  nfe: jax.Array
  is_free: jax.Array
  block: jax.Array | None = None
  entropy: jax.Array | None = None
  canvas: jax.Array | None = None
  step_confidence: jax.Array | None = None
  prediction: jax.Array | None = None
  step_log_prob: jax.Array | None = None
  step_time: jax.Array | None = None
  action: jax.Array | None = None
  action_log_prob: jax.Array | None = None
  row_draws: Mapping[str, jax.Array] | None = None
  branches: jax.Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorder:
  """Fills a Trajectory while the loop runs.

  Attributes:
    level: one of RECORDS, not "none".
    start: first recorded position of a row.
    max_steps: T.
    mask_id: id of the mask token.
    acts: whether the rule has actions.
    num_predictions: m, of each canvas of a full record.
  """
  level: str
  start: int
  max_steps: int
  mask_id: int
  acts: bool = False
  num_predictions: int = 1

  def init(self, canvas: jax.Array) -> Trajectory:
    """An empty record of canvases int32 [B, S]."""
    rows, length = canvas.shape[0], canvas.shape[1] - self.start
    one = lambda dtype, fill=0: jnp.full((rows, length), fill, dtype)
    each = lambda dtype: jnp.zeros((rows, self.max_steps, length), dtype)
    record = Trajectory(one(jnp.int32), one(jnp.int32, -1), one(jnp.float32), one(jnp.float32),
                        jnp.zeros(rows, jnp.int32), canvas[:, self.start:] == self.mask_id,
                        one(jnp.int32))
    if self.level == "entropy":
      record = record._replace(entropy=one(jnp.float32))
    if self.acts:
      record = record._replace(action=each(jnp.int32), action_log_prob=each(jnp.float32))
    if self.level in ("canvas", "full"):
      record = record._replace(canvas=each(jnp.int32), step_confidence=each(jnp.float32))
    if self.level == "full":
      record = record._replace(prediction=each(jnp.int32), step_log_prob=each(jnp.float32),
                               step_time=jnp.zeros((rows, self.max_steps), jnp.float32))
    if self.num_predictions > 1:
      shape = (rows, self.max_steps, self.num_predictions - 1, length)
      record = record._replace(branches=jnp.zeros(shape, jnp.int32))
    return record

  def add(self, record: Trajectory, before: decoder.State, after: decoder.State,
          step: decoder.Step, active: jax.Array, keys: jax.Array | None = None,
          time: jax.Array | None = None) -> Trajectory:
    """Adds one step of the active rows.

    Args:
      record: of the steps before.
      before, after: states of the rows.
      step: of the rule.
      active: bool [B].
      keys: typed keys [B] of (seed, row, step), for further predictions.
      time: float32 [B], the time that the model was told; full records keep it.
    """
    length, rows = before["canvas"].shape[1], jnp.arange(len(active))
    shown, new = before["canvas"][:, self.start:], after["canvas"][:, self.start:]
    # Positions before `start` are fixed, so they are never among those looked at.
    index = jnp.where(step.index < length, step.index - self.start, length - self.start)
    stands = active[:, None] & (new != shown) & (new != self.mask_id)
    write = lambda old, values: decoder.put(jnp.where(stands, 0.0, old), index,
                                            step.is_written & active[:, None], values)
    record = record._replace(step=jnp.where(stands, before["nfe"][:, None], record.step),
                             confidence=write(record.confidence, step.confidence),
                             log_prob=write(record.log_prob, step.log_prob))
    if record.entropy is not None:
      record = record._replace(entropy=write(
          record.entropy, logits_lib.entropy(_drawn_from(step, "entropies"))))
    number = jnp.where(active, before["nfe"], self.max_steps)
    store = lambda old, values: old.at[rows, number].set(values, mode="drop")
    exists = step.index < length
    is_masked = exists & (decoder.at(before["canvas"], step.index) == self.mask_id)
    spread = lambda base, values, where=is_masked: decoder.put(base, index, where, values)
    zeros = jnp.zeros(shown.shape, jnp.float32)
    if self.acts:
      fill = lambda values: spread(jnp.zeros(shown.shape, values.dtype), values, exists)
      record = record._replace(
          action=store(record.action, fill(step.action)),
          action_log_prob=store(record.action_log_prob, fill(step.action_log_prob)))
    if record.canvas is None:
      return record
    record = record._replace(
        canvas=store(record.canvas, shown),
        step_confidence=store(record.step_confidence,
                              spread(zeros, step.confidence, is_masked | step.is_written)))
    if record.prediction is None:
      return record
    record = record._replace(
        prediction=store(record.prediction, spread(shown, step.tokens)),
        step_log_prob=store(record.step_log_prob, spread(zeros, step.log_prob)),
        step_time=store(record.step_time, time))
    if record.branches is None:
      return record
    drawn_from = _drawn_from(step, "further predictions")
    positions = decoder.at(before["positions"], step.index)

    def branch(number):
      own = jax.vmap(lambda key: rng.stream(key, "branch", number))(keys)
      return spread(shown, logits_lib.draw(own, positions, drawn_from))

    # One after another: all at once would hold the noise of m - 1 draws over the vocabulary.
    found = jax.lax.map(branch, jnp.arange(self.num_predictions - 1))
    return record._replace(branches=store(record.branches, found.swapaxes(0, 1)))


def _drawn_from(step, what):
  if step.drawn_from is None:
    raise ValueError(f"{what} need the logits that tokens are drawn from, which this "
                     "sampler's steps do not give; use one that does, such as confidence.")
  return step.drawn_from


def canvas_before(record: Trajectory, step: jax.Array, mask_id: int) -> jax.Array:
  """The canvas before a step, int32 [B, G], of a sampler that never revises.

  Args:
    record: any level.
    step: int32 [] or [B].
    mask_id: id of the mask token.
  """
  step = jnp.broadcast_to(step, record.nfe.shape)[:, None]
  return jnp.where(record.is_free & (record.step >= step), mask_id, record.tokens)


def frames(record: Trajectory, row: int, mask_id: int) -> tuple[np.ndarray, np.ndarray]:
  """One row as a viewer shows it, on the host.

  Args:
    record: with canvases.
    row: number of the row.
    mask_id: id of the mask token.

  Returns:
    int32 [F, G], the canvas before each of the row's steps and at the end, and float32
    [F, G], the confidence each shown token was written with, NaN where none was.
  """
  known = lambda x: np.where(np.asarray(x) != 0, x, np.nan).astype(np.float32)
  steps, final = int(record.nfe[row]), np.asarray(record.tokens[row])
  canvas = np.concatenate([record.canvas[row][:steps], final[None]]).astype(np.int32)
  confidence = np.full(canvas.shape, np.nan, np.float32)
  for step in range(steps):
    confidence[step + 1] = np.where(canvas[step + 1] == canvas[step], confidence[step],
                                    known(record.step_confidence[row][step]))
  # The record knows which final tokens were drawn, not filled.
  number = np.asarray(record.step[row])
  stands = (number >= 0) & (number < np.arange(len(canvas))[:, None])
  confidence = np.where(stands, known(record.confidence[row]), confidence)
  confidence[canvas == mask_id] = np.nan
  return canvas, confidence
