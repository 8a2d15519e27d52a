"""Tasks decoded by a model: rollouts of RL, and evaluation on a task.

Contents: TaskDecoder, check_prompts.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from mdx import sharding
from mdx import types
from mdx.eval import tasks as task_eval
from mdx.samplers import loop
from mdx.samplers import trajectory
from mdx.utils import processes
from mdx.utils import rng


class TaskDecoder:
  """Decodes the prompts of a task with one compiled program."""

  def __init__(self, objective: types.Objective, sampler: Any, prompts: task_eval.Prompts,
               mesh: jax.sharding.Mesh, *, name: str, seed: int, record: str, group_size: int = 1,
               num_predictions: int = 1, home: jax.sharding.Mesh | None = None):
    """Compiles nothing yet.

    Args:
      objective: the model; its parameters come with each call.
      sampler: the decoding rule.
      prompts: the encoded examples.
      mesh: that decodes; the weights of a call are on it.
      name: of the use, part of the key of every draw.
      seed: of the run.
      record: one of `samplers.trajectory.RECORDS`: "full" for the predictions of every step, which
        allows no cache; "commits" for final answers.
      group_size: rows that follow the same component of a sampler's mixture.
      num_predictions: of every canvas, that record "full" keeps.
      home: mesh of the same devices that records and rows are handed out on; None: `mesh`.
    """
    self._sampler, self._prompts, self.mesh, self.home = sampler, prompts, mesh, home or mesh
    self._to_home = None if home is None else processes.Jitted(
        lambda record: record, out_shardings=NamedSharding(home, P(sharding.BATCH_AXES)))
    self._key = rng.stream(rng.root(seed), name)
    self.start = prompts.start

    self._programs = {}

    def program(start):
      if start not in self._programs:
        self._programs[start] = processes.Jitted(lambda params, key, rows: loop.decode_rows(
            objective, sampler, params, key, rows, start=start, record=record,
            group_size=group_size, num_predictions=num_predictions))
      return self._programs[start]

    self._program, self.run = program, program(self.start)  # (params, key, rows) -> loop.Decoded

  def __call__(self, params: types.Params, examples: np.ndarray, iteration: int, *,
               row_index: np.ndarray | None = None, shared_steps: np.ndarray | None = None,
               group_size: int = 1
               ) -> tuple[trajectory.Trajectory, dict[str, jax.Array]]:
    """Decodes examples; returns the record and the rows, on the device.

    Args:
      params: weights, on `mesh`.
      examples: int32 [N].
      iteration: of the run, part of the key of every draw.
      row_index: int32 [N], likewise of each row; None = its number among these.
      shared_steps: int32 [N], first steps that the rows of a group take together; None = none.
      group_size: consecutive row indices of a group.
    """
    rows = self._prompts.canvas(examples, self._sampler.gen_length, self._sampler.mask_id)
    index = np.arange(len(examples)) if row_index is None else row_index
    rows["row_index"] = index.astype(np.int32)
    if shared_steps is not None:
      rows |= {"shared_steps": shared_steps.astype(np.int32),
               "leader": (index // group_size * group_size).astype(np.int32)}
    placed = sharding.place_batch(rows, self.mesh)
    record = self.decode(params, placed, iteration, start=self.start)
    return record, placed if self.home is self.mesh else sharding.place_batch(rows, self.home)

  def decode(self, params: types.Params, rows: dict[str, jax.Array], iteration: int, *, start: int,
             turn: int = 0) -> trajectory.Trajectory:
    """Returns the record of rows on the device, from index `start` on.

    Args:
      params: weights, on `mesh`.
      rows: on `mesh`: `canvas`, `row_index`, and `positions` and `segment_ids` where rows are
        padded.
      iteration: as of a call.
      start: first index that is decoded; each has a program of its own.
      turn: of an episode, part of the key of every draw.
    """
    key = jax.random.fold_in(self._key, iteration)
    key = rng.stream(key, "turn", turn) if turn else key
    program = self._program(start)
    if self._to_home is None:
      return program(params, key, rows).trajectory
    key = jax.device_put(key, NamedSharding(self.mesh, P()))
    with jax.set_mesh(self.mesh):
      record = program(params, key, rows).trajectory
    return self._to_home(record)


def check_prompts(prompts: task_eval.Prompts, sampler: Any, max_length: int) -> None:
  """Raises ValueError for prompts that, with their answers, do not fit the sampler or model."""
  width = prompts.tokens.shape[1]
  if prompts.blank_id >= 0 and width != sampler.gen_length:
    raise ValueError(f"the texts to fill in have {width} tokens, sampler.gen_length is "
                     f"{sampler.gen_length}; make it the same.")
  if prompts.start + sampler.gen_length > max_length:
    raise ValueError(f"prompts of {prompts.start} tokens and answers of {sampler.gen_length} "
                     f"exceed the model's {max_length}; shorten sampler.gen_length.")
