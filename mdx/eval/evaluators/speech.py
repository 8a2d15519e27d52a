"""Measures of models of signals: what an objective reports, transcripts, and probes of frames.

Contents: Metrics, Transcripts, Probe, probe_of, FrameProbe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import sharding
from mdx import types
from mdx.data import pipeline
from mdx.eval import error_rates
from mdx.eval.evaluators import linear_probe
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import rng


def _batches(parts: Any, split: str, data: Mapping[str, Any] | None = None):
  """Batches of a split in order, and the number of real rows of each."""
  data = data or parts.config["data"]
  left = len(pipeline.labelled_records(data, split))
  size = parts.config["batch_size"]
  for batch in pipeline.build(data, parts.tokenizer, split=split, batch_size=size, seed=0,
                              shuffle=False, repeat=False, drop_remainder=False):
    index = np.arange(size, dtype=np.int32)
    yield sharding.place_batch(batch | {"example_index": index}, parts.mesh), min(left, size)
    left -= size


class Metrics(types.Evaluator):
  """The figures of an objective (`Aux.metrics`) on the validation split, `held_out_` before them.

  Draws of masks are fixed; there is no noise in the network.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, objective = parts, parts.objective

    def metrics(params, frozen, batch, number):
      context = types.context(parts.config["steps"], frozen, objective.init_state())
      key = rng.stream(rng.root(parts.config["seed"]), "held out", number)
      batch = objective.look(frozen, batch, context)
      batch, _ = objective.prepare(params, batch, key, context)
      return objective(params, batch, context)[1].metrics

    self._metrics = jax.jit(metrics)

  def __call__(self, params, frozen, *, quick):
    """Sums over the weights of all batches, or of the first `eval.num_batches`."""
    sums: dict[str, np.ndarray] = {}
    limit = self._parts.config["eval"]["num_batches"] if quick else 0
    for i, (batch, _) in enumerate(_batches(self._parts, "validation")):
      if limit and i >= limit:
        break
      for name, pair in processes.fetch(self._metrics(params, frozen, batch, i)).items():
        sums[name] = sums.get(name, np.zeros(2)) + np.array(pair, np.float64)
    return {f"held_out_{name}": float(total / max(weight, 1e-9))
            for name, (total, weight) in sums.items()}

  def text(self, results):
    """The final figures for the console."""
    return "\n".join(f"{name.replace('_', ' '):<32}{value:.4f}" for name, value in results.items()
                     if name.startswith("held_out_"))


class Transcripts(types.Evaluator):
  """Error rates of the transcripts of the validation split, by the best path of each recording."""
  has_curve = True

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts = parts
    self._best = jax.jit(parts.objective.best)

  def __call__(self, params, frozen, *, quick):
    """word_error_rate, char_error_rate and probe_accuracy, the share of whole transcripts.

    At the end of a run `transcripts.jsonl` has every one beside its reference.
    """
    del frozen
    parts, found = self._parts, []
    for batch, number in _batches(parts, "validation"):
      ids, is_real = processes.fetch(self._best(params, batch))
      found += [parts.tokenizer.decode(row) for row in parts.objective.labels_of(
          ids[:number], is_real[:number])]
    wanted = [one["text"] for one in pipeline.labelled_records(parts.config["data"], "validation")]
    if not quick and jax.process_index() == 0:
      files.write_text(parts.workdir / "transcripts.jsonl", "".join(
          json.dumps({"reference": a, "transcript": b}, ensure_ascii=False) + "\n"
          for a, b in zip(wanted, found)))
    return {"word_error_rate": error_rates.error_rate([x.split() for x in found],
                                                      [x.split() for x in wanted]),
            "char_error_rate": error_rates.error_rate(found, wanted),
            "probe_accuracy": float(np.mean([a == b for a, b in zip(found, wanted)]))}

  def text(self, results):
    """The final figures for the console."""
    return (f"word error rate     {results['word_error_rate']:.3f}\n"
            f"char error rate     {results['char_error_rate']:.3f}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
  """Fields of `config.eval.frame_probe`.

  Attributes:
    num_recordings: recordings with labels of frames.
    num_draws: draws of them, whose figures are averaged.
    pool: training recordings that they are drawn from, the first ones.
    ridge: penalty, as of `eval.probe`.
    source: `data.source` of the pool; {} = that of training.
  """
  num_recordings: int = 15
  num_draws: int = 5
  pool: int = 64
  ridge: float = 1.0
  source: Any = None

  def __post_init__(self):
    config_lib.check(self, "eval.frame_probe",
                     at_least=dict(num_recordings=1, num_draws=1, pool=1),
                     between=dict(ridge="(0, inf)"))
    if self.num_recordings > self.pool:
      raise ValueError(f"eval.frame_probe.num_recordings {self.num_recordings} exceeds its pool "
                       f"{self.pool}.")


def probe_of(config: Mapping[str, Any]) -> Probe:
  """`config.eval.frame_probe`; ValueError for values without meaning."""
  return config_lib.construct(Probe, config["eval"].get("frame_probe", {}), what="eval.frame_probe")


class FrameProbe(types.Evaluator):
  """Accuracy of ridge regression from uncorrupted states to the labels of their frames.

  The labels are those of a few training recordings; all validation recordings are tested.
  """
  has_curve = True

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._probe = parts, probe_of(parts.config)
    objective = parts.objective

    def states(params, batch):
      inputs = objective.inputs(params, batch)
      found = objective.network.encode(params["model"], inputs, attention=objective.visibility,
                                       keep_layers=True)
      length = batch["frame_labels"].shape[1]
      stride = -(-length // inputs.segment_ids.shape[1])
      return found.layers, jnp.where(inputs.segment_ids > 0, batch["frame_labels"][:, ::stride], -1)

    self._states = jax.jit(states)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for fields of `eval.frame_probe` without meaning."""
    del objective
    probe_of(config)

  def __call__(self, params, frozen, *, quick):
    """probe_accuracy of the last block and frame_probe_best, the largest of all blocks."""
    del frozen, quick
    probe, data = self._probe, self._parts.config["data"]
    pool = {**data, "source": probe.source} if probe.source else data
    train = self._read(params, "train", pool, probe.pool)
    test = self._read(params, "validation", data, 0)
    size = 1 + max(labels.max() for _, labels in (*train, *test))
    found = []
    for draw in range(probe.num_draws):
      chosen = np.random.default_rng([0, draw]).permutation(len(train))[:probe.num_recordings]
      x, labels = _joined([train[i] for i in chosen])
      y, wanted = _joined(test)
      found.append([(linear_probe.ridge_scores(a, np.eye(size)[labels], b, probe.ridge).argmax(
          axis=1) == wanted).mean() for a, b in zip(x, y)])
    means = np.mean(found, axis=0)
    return {"probe_accuracy": float(means[-1]), "frame_probe_best": float(means.max())}

  def _read(self, params, split, data, limit) -> list[tuple[np.ndarray, np.ndarray]]:
    """States [layers, n, D] and labels [n] of the labelled positions of each recording."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for batch, number in _batches(self._parts, split, data):
      layers, labels = processes.fetch(self._states(params, batch))
      for i in range(number):
        is_labelled = labels[i] >= 0
        found.append((layers[:, i, is_labelled], labels[i][is_labelled]))
      if limit and len(found) >= limit:
        return found[:limit]
    if not any(len(labels) for _, labels in found):
      raise ValueError("evaluator frame_probe needs records with frame_labels, which the source "
                       "has not; use phones, or leave it out.")
    return found

  def text(self, results):
    """The final figures for the console."""
    return (f"probe of frames     {results['probe_accuracy']:.4f} (best block "
            f"{results['frame_probe_best']:.4f})")


def _joined(records):
  layers, labels = zip(*records)
  return np.concatenate(layers, axis=1), np.concatenate(labels)
