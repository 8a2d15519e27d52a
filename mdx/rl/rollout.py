"""Rollouts: sample, score, and hand a batch to the train step.

Contents: make_batch, Rollouts.

Convention: an iteration is one rollout of `num_prompts` prompts, `group_size` rows each,
and `epochs` updates on it. All of its draws are functions of (seed, iteration, row), so an
iteration that was cut short is repeated exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import metrics as metrics_lib
from mdx import sharding
from mdx import types
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.samplers import trajectory
from mdx.utils import processes


def make_batch(record: trajectory.Trajectory, rows: Mapping[str, jax.Array],
               start: int) -> dict[str, jax.Array]:
  """The batch of an update, without rewards: the record and the prompts before `start`."""
  tokens = jnp.concatenate([rows["canvas"][:, :start], record.tokens], axis=1)
  fields = ("canvas", "prediction", "step_confidence", "step_log_prob", "nfe")
  return {"tokens": tokens} | {k: getattr(record, k) for k in fields} | {
      k: rows[k] for k in ("positions", "segment_ids") if k in rows}


class Rollouts:
  """Makes the batches of an RL run, for `train.loop.fit`."""

  def __init__(self, decoder: task_decoder.TaskDecoder, task: types.Task,
               examples: Sequence[dict[str, Any]], tokenizer: Any, *, num_prompts: int,
               group_size: int, batch_size: int, epochs: int, seed: int,
               writers: metrics_lib.Writers, score: Callable | None = None,
               choose: Callable[[types.Params, int], np.ndarray] | None = None,
               say: Callable[[str], None] = print):
    """Takes what an iteration needs.

    Args:
      decoder: of the training examples.
      task, examples, tokenizer: the verifier, the problems and the model's tokenizer.
      num_prompts: prompts of an iteration.
      group_size: rollouts of each.
      batch_size: rows decoded together; divides the rows of an iteration. It changes none.
      epochs: updates on each rollout.
      seed: of the run.
      writers: get the figures of every rollout.
      score: (params, batch, step) -> log-probabilities of an objective's own canvases.
      choose: (params, epoch) -> the examples an epoch goes through; None = all.
      say: prints a warning.
    """
    self._decoder, self._task, self._examples = decoder, task, examples
    self._tokenizer, self._writers, self._score, self._say = tokenizer, writers, score, say
    self._num_prompts, self._group, self._epochs = num_prompts, group_size, epochs
    self._size, self._seed, self._choose, self._chosen = batch_size, seed, choose, {}
    self._batch, self._scores, self._ended, self._silent = None, None, None, 0
    self._reward = float("nan")

  def latest(self) -> dict[str, float]:
    """What the console shows of the latest rollouts."""
    return {"reward": self._reward}

  def examples_of(self, params: types.Params, iteration: int) -> np.ndarray:
    """The examples of an iteration's rows, int32 [N], a group together."""
    found = []
    for place in range(iteration * self._num_prompts, (iteration + 1) * self._num_prompts):
      # Epochs differ in size where `choose` filters, so their order is walked through.
      epoch, rest = 0, place
      while rest >= len(order := self._order(params, epoch)):
        epoch, rest = epoch + 1, rest - len(order)
      found.append(order[rest])
    return np.repeat(np.array(found, np.int32), self._group)

  def _order(self, params, epoch):
    if epoch not in self._chosen:
      chosen = (np.arange(len(self._examples)) if self._choose is None
                else self._choose(params, epoch))
      draw = np.random.default_rng([self._seed, epoch])
      self._chosen[epoch] = chosen[draw.permutation(len(chosen))]
    return self._chosen[epoch]

  def __call__(self, state: Any, step: int) -> dict[str, jax.Array]:
    """The batch of an update: a new rollout where an iteration begins."""
    iteration, epoch = divmod(step, self._epochs)
    if epoch == 0:
      self._iterate(state, iteration, step)
    batch = self._batch
    if self._score is not None:
      batch = batch | {"old_log_prob": self._scores[epoch]}
    self._ended = time.monotonic()
    return batch

  def _iterate(self, state, iteration, step):
    jax.block_until_ready(state.params)
    began = time.monotonic()
    spent = {"update": began - self._ended if self._ended else 0.0}
    examples = self.examples_of(state.params, iteration)
    record, rows = self._decode(state.params, examples, iteration)
    predictions, nfe = processes.fetch((record.prediction, record.nfe))
    rolled = time.monotonic()
    mine = sharding.local_rows(self._decoder.mesh, len(examples))
    reward, _ = task_eval.score_steps(self._task, [self._examples[i] for i in examples[mine]],
                                      self._tokenizer, predictions[mine], nfe[mine])
    index = (iteration * len(examples) + np.arange(len(examples))[mine]) % 2 ** 31
    placed = sharding.place_batch({"reward": reward, "example_index": index.astype(np.int32)},
                                  self._decoder.mesh, num_rows=len(examples))
    self._batch = make_batch(record, rows, self._decoder.start) | placed
    if self._score is not None:
      self._scores = [self._score(state.params, self._batch, jnp.int32(step + i))
                      for i in range(self._epochs)]
      jax.block_until_ready(self._scores)
    spent |= {"rollout": rolled - began, "score": time.monotonic() - rolled}
    self._report(step, processes.fetch(placed["reward"]), nfe, spent)

  def _decode(self, params, examples, iteration):
    """The record and the rows of an iteration, decoded in parts."""
    parts = np.split(np.arange(len(examples)), len(examples) // self._size)
    decoded = [self._decoder(params, examples[i], iteration, row_index=i) for i in parts]
    return decoded[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *decoded)

  def _report(self, step, reward, nfe, spent):
    """Writes the figures of a rollout; warns where there is nothing to learn from."""
    final = np.take_along_axis(reward, np.maximum(nfe - 1, 0)[:, None], axis=1)[:, 0]
    groups = final.reshape(-1, self._group)
    self._reward = float(final.mean())
    dead = float((groups.max(axis=1) == groups.min(axis=1)).mean())
    # Named by the update that uses it, so that a restart at `step` writes it again.
    self._writers.write(step + 1, "rollout", {
        "reward": self._reward, "best_of_steps": float(reward.max(axis=1).mean()),
        "dead_groups": dead, "nfe": float(nfe.mean()), "num_rollouts": len(nfe),
        **{f"{k}_seconds": v for k, v in spent.items()}})
    self._silent = self._silent + 1 if reward.max() == reward.min() else 0
    if self._silent == 3:
      self._say(f"warning: in 3 rollouts the verifier gave every prediction the reward "
                f"{reward.max():g}: there is no signal to learn from. Check the task, or train "
                "the base model further.")
