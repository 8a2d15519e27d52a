"""Rollouts: sample, score, and hand a batch to the train step.

Contents: make_batch, reward_shapes, Rolled, Rollouts.

Convention: an iteration is one rollout of `num_prompts` prompts, `group_size` rows each,
and `epochs` updates on it. All of its draws are functions of (seed, iteration, refill, row), so an
iteration that was cut short is repeated exactly.

Dynamic sampling (Yu et al. 2025, arXiv:2503.14476): groups whose rewards do not vary teach nothing;
they are replaced by those that vary of a further decode of as many prompts, up to `max_refills`
times. Groups that are left then stay.

Trees: with `branch_steps` the rollouts of a prompt are continuations of one canvas, which they
reach together: the number of steps before it is uniform on 0 .. branch_steps - 1.

Groups whose share of right answers lies outside `pass_rate` are not trained on: they have weight 0
(Wang et al. 2025, arXiv:2509.06949).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx import metrics as metrics_lib
from mdx import sharding
from mdx import types
from mdx.eval import tasks as task_eval
from mdx.rl import episodes as episodes_lib
from mdx.rl import inference as inference_lib
from mdx.rl import rewards as rewards_lib
from mdx.samplers import trajectory
from mdx.utils import processes


def make_batch(record: trajectory.Trajectory, rows: Mapping[str, jax.Array],
               start: int) -> dict[str, jax.Array]:
  """The batch of an update, without rewards: the record and the prompts before `start`."""
  fields = {k: v for k, v in record._asdict().items() if v is not None}
  return fields | {
      "tokens": jnp.concatenate([rows["canvas"][:, :start], record.tokens], axis=1)} | {
          k: rows[k] for k in ("positions", "segment_ids", "is_action", "shared_steps")
          if k in rows}


def reward_shapes(batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the fields that a scored batch has beside those of `make_batch`."""
  rows = len(batch["tokens"])
  found = {"example_index": jax.ShapeDtypeStruct((rows,), jnp.int32),
           "reward": jax.ShapeDtypeStruct((rows,), jnp.float32)}
  if "prediction" in batch:
    found["step_reward"] = jax.ShapeDtypeStruct(batch["prediction"].shape[:2], jnp.float32)
  if "branches" in batch:
    found["branch_reward"] = jax.ShapeDtypeStruct(batch["branches"].shape[:3], jnp.float32)
  return found


class Rolled(NamedTuple):
  """One scored decode of the prompts of an iteration.

  Attributes:
    batch: of `make_batch`, with `step_reward` where it has predictions and `branch_reward` where
      it has several of every canvas; on the device.
    reward: float32 [N], the verifier's, of the final answers.
    best: float32 [N], the largest of any step's; None where only commits are recorded.
    length: int32 [N], tokens that the model wrote, up to its ends of text.
    nfe: int32 [N], network calls.
    correct: bool [N], whether the final answers are right.
    live: int32 [N], canvases whose predictions get different rewards; None where each has one.
    examples: int32 [N], problems of the rollouts.
  """
  batch: dict[str, jax.Array]
  reward: np.ndarray
  best: np.ndarray | None
  length: np.ndarray
  nfe: np.ndarray
  correct: np.ndarray
  live: np.ndarray | None = None
  examples: np.ndarray | None = None


class Rollouts:
  """Makes the batches of an RL run, for `train.loop.fit`."""

  def __init__(self, decoder: Callable, task: types.Task,
               examples: Sequence[dict[str, Any]], tokenizer: Any, *, mesh: jax.sharding.Mesh,
               num_prompts: int, group_size: int, batch_size: int, epochs: int, seed: int,
               writers: metrics_lib.Writers, rewards: Sequence[str] = ("identity",),
               calibration: Callable[[np.ndarray], np.ndarray] | None = None,
               phi: inference_lib.Inference | None = None,
               max_refills: int = 0, pass_rate: Sequence[float] = (), branch_steps: int = 0,
               place: Callable[[types.Params], types.Params] = lambda params: params,
               score: Callable | None = None,
               choose: Callable[[types.Params, int], np.ndarray] | None = None,
               say: Callable[[str], None] = print):
    """Takes what an iteration needs.

    Args:
      decoder: `eval.task_decoder.TaskDecoder` of the training examples, or `rl.episodes.Episodes`.
      task, examples, tokenizer: the verifier, the problems and the model's tokenizer.
      mesh: of the updates, where batches are put.
      num_prompts: prompts of an iteration.
      group_size: rollouts of each.
      batch_size: rows decoded together; divides the rows of an iteration. The rows do not depend on
        it.
      epochs: updates on each rollout.
      seed: of the run.
      writers: get the figures of every rollout.
      rewards: names of transforms in `rl.rewards.REWARDS`, applied in their order.
      calibration: problems int32 [P] -> rewards float32 [P, K] of answers of the base model; None:
        rollouts are calibrated among their group.
      phi: transform of calibrated rewards, of the reward "inference".
      max_refills: most further decodes of an iteration that replace groups without variance.
      pass_rate: least and greatest share of right answers of a group that is trained on; (): any.
      branch_steps: bound of the steps that the rollouts of a prompt take together; 0 = no trees.
      place: weights -> those that the decoder takes, once an iteration.
      score: (params, batch, step) -> fields of a batch that are computed before its updates, such
        as log-probabilities of an objective's own canvases.
      choose: (params, epoch) -> the examples an epoch goes through; None = all.
      say: prints a warning.
    """
    self._decoder, self._task, self._examples, self._mesh = decoder, task, examples, mesh
    self._tokenizer, self._writers, self._score, self._say = tokenizer, writers, score, say
    self._num_prompts, self._group, self._epochs = num_prompts, group_size, epochs
    self._size, self._seed, self._choose, self._chosen = batch_size, seed, choose, {}
    self._rewards, self._max_refills, self._pass_rate = rewards, max_refills, pass_rate
    self._branch_steps, self._calibration, self._phi = branch_steps, calibration, phi
    self._batch, self._scores, self._ended, self._silent = None, None, None, 0
    self._reward = float("nan")
    self._replaced, self._place = jax.jit(_replace_rows), place

  def latest(self) -> dict[str, float]:
    """The latest rollouts' figures for the console."""
    return {"reward": self._reward}

  def examples_of(self, params: types.Params, iteration: int, refill: int = 0) -> np.ndarray:
    """The examples of an iteration's rows, int32 [N], a group together.

    Examples of a refill are drawn anew from the examples of the iteration's epoch.
    """
    found, first = [], iteration * self._num_prompts
    for number in range(first, first + self._num_prompts):
      # Epochs differ in size where `choose` filters, so their order is walked through.
      epoch, rest = 0, number
      while rest >= len(order := self._order(params, epoch)):
        epoch, rest = epoch + 1, rest - len(order)
      found.append(order[rest])
    if refill:
      draw = np.random.default_rng([self._seed, iteration, refill, 2])
      found = np.resize(order[draw.permutation(len(order))], self._num_prompts)
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
      batch = batch | self._scores[epoch]
    self._ended = time.monotonic()
    return batch

  def _iterate(self, state, iteration, step):
    jax.block_until_ready(state.params)
    began = time.monotonic()
    spent = {"update": began - self._ended if self._ended else 0.0}
    kept, rolled = self._rolled(state.params, iteration, spent)
    began = time.monotonic()
    mine = sharding.local_rows(self._mesh, num_rows := len(kept.reward))
    grouped = lambda x: x.reshape(-1, self._group)
    baseline = None if self._calibration is None else self._calibration(
        grouped(kept.examples)[:, 0])
    reward = rewards_lib.transform(self._rewards, grouped(kept.reward), rewards_lib.Facts(
        grouped(kept.length),
        episodes_lib.most_written(self._decoder, kept.batch["is_free"].shape[1]), baseline,
        self._phi)).reshape(-1)
    index = (iteration * num_rows + np.arange(num_rows)) % 2 ** 31
    more = {"reward": reward, "example_index": index.astype(np.int32)}
    if self._pass_rate:
      more["is_kept"] = np.repeat(self._passes(kept), self._group)
    self._batch = kept.batch | sharding.place_batch(
        {k: v[mine] for k, v in more.items()}, self._mesh, num_rows=num_rows)
    if self._score is not None:
      self._scores = [self._score(state.params, self._batch, jnp.int32(step + i))
                      for i in range(self._epochs)]
      jax.block_until_ready(self._scores)
    spent["score"] += time.monotonic() - began
    self._report(step, kept, rolled, spent)

  def _rolled(self, params, iteration, spent) -> tuple[Rolled, list[Rolled]]:
    """Returns the rollouts of an iteration, and the decodes that they are of."""
    began = time.monotonic()
    examples = self.examples_of(params, iteration)  # which may decode, with weights of its own
    weights = self._place(params)
    spent["rollout"] = time.monotonic() - began
    kept = self._roll(weights, examples, iteration, 0, spent)
    rolled = [kept]
    while len(rolled) <= self._max_refills and not (varies := self._teaches(kept)).all():
      examples = self.examples_of(params, iteration, len(rolled))
      rolled.append(more := self._roll(weights, examples, iteration, len(rolled), spent))
      kept = self._refilled(kept, more, varies)
    return kept, rolled

  def _roll(self, params, examples, iteration, refill, spent) -> Rolled:
    """Decodes and scores examples of an iteration, or of one of its refills."""
    began = time.monotonic()
    parts = np.split(np.arange(len(examples)), len(examples) // self._size)
    shared = self._shared_steps(iteration, refill)
    tree = lambda i: {} if shared is None else {"shared_steps": shared[i],
                                                "group_size": self._group}
    decoded = [self._decoder(params, examples[i], iteration,
                             row_index=refill * len(examples) + i, **tree(i)) for i in parts]
    record, rows = decoded[0] if len(parts) == 1 else jax.tree.map(
        lambda *x: jnp.concatenate(x), *decoded)
    batch = make_batch(record, rows, self._decoder.start)
    host = processes.fetch({k: getattr(record, k) for k in
                            ("tokens", "nfe", "prediction", "branches")})
    is_action = np.asarray(processes.fetch(rows["is_action"])) if "is_action" in rows else None
    spent["rollout"] += time.monotonic() - began
    began = time.monotonic()
    mine = sharding.local_rows(self._mesh, len(examples))
    chosen = [self._examples[i] for i in examples[mine]]
    best = live = None
    if host["prediction"] is None:
      texts = episodes_lib.texts_of(self._decoder, host["tokens"], rows, self._tokenizer, mine)
      found = self._task.score(chosen, texts)
      scored = {"reward": np.asarray(found["reward"], np.float32),
                "correct": np.asarray(found["correct"], bool)}
    else:
      predictions = host["prediction"][mine][:, :, None]
      if host["branches"] is not None:
        predictions = np.concatenate([predictions, host["branches"][mine]], axis=2)
      rewards, correct = task_eval.score_steps(self._task, chosen, self._tokenizer, predictions,
                                         host["nfe"][mine])
      steps, last = rewards[:, :, 0], np.maximum(host["nfe"][mine] - 1, 0)[:, None]
      scored = {"step_reward": steps, "reward": np.take_along_axis(steps, last, axis=1)[:, 0],
                "correct": np.take_along_axis(correct[:, :, 0], last, axis=1)[:, 0]}
      if host["branches"] is not None:
        scored["branch_reward"] = rewards[:, :, 1:]
    placed = sharding.place_batch(scored, self._mesh, num_rows=len(examples))
    reward, correct = (np.asarray(processes.fetch(placed.pop(k))) for k in ("reward", "correct"))
    if placed:
      fetched = {k: np.asarray(v) for k, v in processes.fetch(placed).items()}
      best = fetched["step_reward"].max(axis=1)
      if "branch_reward" in fetched:
        differs = fetched["branch_reward"] != fetched["step_reward"][:, :, None]
        live = differs.any(axis=2).sum(axis=1)
    if is_action is None:
      ended = self._tokenizer.ends(host["tokens"])
      length = np.where(ended.any(axis=1), ended.argmax(axis=1), ended.shape[1])
    else:
      length = is_action.sum(axis=1)
    spent["score"] = spent.get("score", 0.0) + time.monotonic() - began
    return Rolled(batch | placed, reward, best, length.astype(np.int32), host["nfe"], correct, live,
                  examples)

  def _shared_steps(self, iteration: int, refill: int) -> np.ndarray | None:
    """First steps that the rollouts of each prompt take together, int32 [N]; None of no trees."""
    if not self._branch_steps:
      return None
    draw = np.random.default_rng([self._seed, iteration, refill, 4])
    return np.repeat(draw.integers(self._branch_steps, size=self._num_prompts, dtype=np.int32),
                     self._group)

  def _varies(self, rolled: Rolled) -> np.ndarray:
    """Groups whose rewards differ, bool [P]."""
    groups = rolled.reward.reshape(-1, self._group)
    return groups.max(axis=1) > groups.min(axis=1)

  def _passes(self, rolled: Rolled) -> np.ndarray:
    """Groups whose share of right answers is one to train on, bool [P]."""
    low, high = self._pass_rate or (0.0, 1.0)
    share = rolled.correct.reshape(-1, self._group).mean(axis=1)
    return (share >= low) & (share <= high)

  def _teaches(self, rolled: Rolled) -> np.ndarray:
    """Groups that there is something to learn from, bool [P]."""
    return self._varies(rolled) & self._passes(rolled)

  def _refilled(self, kept: Rolled, more: Rolled, varies: np.ndarray) -> Rolled:
    """`kept` with groups that do not vary replaced by those of `more` that do."""
    free, found = np.flatnonzero(~varies), np.flatnonzero(self._teaches(more))
    count = min(len(free), len(found))
    source = np.full(len(varies), -1)
    source[free[:count]] = found[:count]
    rows = source[:, None] * self._group + np.arange(self._group)
    rows = np.where(source[:, None] < 0, -1, rows).reshape(-1)
    pick = lambda old, new: None if old is None else np.where(rows < 0, old, new[rows])
    host = [pick(old, new) for old, new in zip(kept[1:], more[1:])]
    return Rolled(self._replaced(kept.batch, more.batch, rows), *host)

  def _report(self, step, kept, rolled, spent):
    """Writes the figures of an iteration; warns where there is nothing to learn from."""
    first, nfe = rolled[0], np.concatenate([x.nfe for x in rolled])
    self._reward = float(first.reward.mean())
    figures = {"reward": self._reward}
    if first.best is not None:
      figures["best_of_steps"] = float(first.best.mean())
    if self._group > 1:
      figures["dead_groups"] = float(1 - self._varies(first).mean())
    if first.live is not None:
      figures["dead_canvases"] = float(1 - first.live.sum() / first.nfe.sum())
    figures |= {"nfe": float(nfe.mean()), "num_rollouts": len(nfe),
                **{f"{k}_seconds": v for k, v in spent.items()}}
    if self._max_refills:
      figures |= {"refills": len(rolled) - 1,
                  "dead_groups_left": float(1 - self._teaches(kept).mean())}
    if self._pass_rate:
      figures["kept_groups"] = float(self._passes(kept).mean())
    # Named by the update that uses it, so that a restart at `step` writes it again.
    self._writers.write(step + 1, "rollout", figures)
    seen = first.reward if first.best is None else np.concatenate([first.reward, first.best])
    is_silent = seen.max() == seen.min() and (first.live is None or not first.live.any())
    self._silent = self._silent + 1 if is_silent else 0
    if self._silent == 3:
      self._say(f"warning: in 3 rollouts the verifier gave every prediction the reward "
                f"{seen.max():g}: there is no signal to learn from. Check the task, or train "
                "the base model further.")


def _replace_rows(old, new, rows):
  """Fields of a batch with row i replaced by row `rows[i]` of another, where that is not -1."""
  one = lambda a, b: jnp.where((rows < 0).reshape((-1,) + (1,) * (a.ndim - 1)), a,
                               b[jnp.maximum(rows, 0)])
  return jax.tree.map(one, old, new)
