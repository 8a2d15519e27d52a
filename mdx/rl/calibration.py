"""Rewards of answers of the base model, which those of rollouts are calibrated by.

Contents: Calibration.

Convention: K answers are drawn for a problem when the first of its rollouts needs them, by the
decoding rule of the rollouts. Their draws depend on (seed, problem, answer) alone, so that a run
which is resumed has the same; the file in the workdir only saves their time.

Reference: Balashankar et al. 2024, arXiv:2412.19792 (InfAlign).
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mdx import types
from mdx.rl import episodes as episodes_lib
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers


class Calibration:
  """Rewards of K answers of the base model to each problem, kept in `workdir/calibration.json`."""

  def __init__(self, decoder: Callable, params: types.Params, task: types.Task,
               examples: Sequence[dict[str, Any]], tokenizer: Any, *, num_samples: int,
               batch_size: int, workdir: pathlib.Path,
               place: Callable[[types.Params], types.Params] = lambda params: params):
    """Reads what the workdir has.

    Args:
      decoder: `eval.task_decoder.TaskDecoder` of the examples, or `rl.episodes.Episodes`.
      params: of the base model.
      task, examples, tokenizer: the verifier, the problems and the model's tokenizer.
      num_samples: K.
      batch_size: answers decoded together.
      workdir: of the run.
      place: weights -> those that the decoder takes.
    """
    self._place = place
    self._decoder, self._params, self._task = decoder, params, task
    self._examples, self._tokenizer = examples, tokenizer
    self._number, self._size, self._file = num_samples, batch_size, workdir / "calibration.json"
    found = readers.read_object(self._file, "rewards")["rewards"] if self._file.exists() else {}
    self._rewards = {int(example): np.array(values, np.float32)
                     for example, values in found.items()}

  def __call__(self, examples: np.ndarray) -> np.ndarray:
    """Returns the rewards of problems int32 [P], float32 [P, K], the least first."""
    missing = np.array([i for i in dict.fromkeys(examples.tolist()) if i not in self._rewards],
                       np.int32)
    if len(missing):
      drawn = self._drawn(np.repeat(missing, self._number)).reshape(len(missing), self._number)
      self._rewards |= dict(zip(missing.tolist(), np.sort(drawn, axis=1)))
      if jax.process_index() == 0:
        files.write_json(self._file, {"rewards": {
            str(i): values.tolist() for i, values in sorted(self._rewards.items())}})
    return np.stack([self._rewards[i] for i in examples.tolist()])

  def _drawn(self, problems: np.ndarray) -> np.ndarray:
    """Rewards of an answer to each of the problems, K consecutive ones of each, float32 [N]."""
    found, total, params = [], len(problems), self._place(self._params)
    for first in range(0, total, self._size):
      at = np.minimum(np.arange(first, first + self._size), total - 1)
      chosen = problems[at]
      record, rows = self._decoder(params, chosen, 0,
                                   row_index=chosen * self._number + at % self._number)
      tokens = processes.fetch(record.tokens)
      texts = episodes_lib.texts_of(self._decoder, tokens, rows, self._tokenizer)
      found.append(self._task.score([self._examples[i] for i in chosen], texts)["reward"])
    return np.concatenate(found)[:total].astype(np.float32)
