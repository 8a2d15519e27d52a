"""Linear probes of a frozen encoder: what a few labels find in its hidden states.

Contents: Probe, ridge_scores, average_precision, probe_of, LinearProbe.

A text is the mean of its last hidden states (a signal, of those that its objective names), and its
label is found by ridge regression onto the one-hot labels of a few texts. A premise with candidates
(`sources.pairs`) is described by the state of its first position, and by the product and the
absolute difference of the means of the two parts; the same regression onto right or wrong ranks the
candidates of a question.

Convention: pools of texts are spread evenly over the splits of the source, or of the one that it
has to be probed with (`probed`); which of them have a label is drawn from (seed, draw). A pool is
cut or padded to the rows of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import sharding
from mdx import types
from mdx.data import pack
from mdx.data import pipeline
from mdx.data.sources import documents as documents_lib
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.utils import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
  """Fields of `config.eval.probe`.

  Attributes:
    num_labels: texts with a label (questions, of premises with candidates); 0: no probe.
    num_draws: draws of them, whose figures are averaged.
    pool: most texts of a split that are read.
    ridge: penalty, for features of unit variance and one unit of weight a label.
    seed: of the draws.
  """
  num_labels: int = 0
  num_draws: int = 20
  pool: int = 512
  ridge: float = 1.0
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "eval.probe", at_least=dict(num_labels=0, num_draws=1, pool=2),
                     between=dict(ridge="(0, inf)"))
    if self.num_labels > self.pool:
      raise ValueError(f"eval.probe.num_labels {self.num_labels} exceeds its pool {self.pool}.")


def ridge_scores(train: np.ndarray, targets: np.ndarray, test: np.ndarray,
                 penalty: float) -> np.ndarray:
  """Ridge regression with an intercept; features are scaled by those of `train`.

  Args:
    train: [n, D].
    targets: [n, K].
    test: [m, D].
    penalty: of the squared weights, against squared errors summed over n, for features divided
      by sqrt(D) after they have unit variance.

  Returns:
    float64 [m, K].
  """
  train, test = train.astype(np.float64), test.astype(np.float64)
  mean, scale = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-6) * np.sqrt(train.shape[1])
  train, test = (train - mean) / scale, (test - mean) / scale
  middle = targets.mean(axis=0)
  kernel = train @ train.T + penalty * np.eye(len(train))
  return test @ train.T @ np.linalg.solve(kernel, targets - middle) + middle


def average_precision(scores: np.ndarray, is_right: np.ndarray) -> np.ndarray:
  """Average precision of the candidates of each question, float64 [N].

  Args:
    scores: [N, k]; ties count against the right ones.
    is_right: bool [N, k], at least one a question.
  """
  order = np.lexsort((is_right, -scores), axis=1)
  ranked = np.take_along_axis(is_right, order, axis=1)
  precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
  return (precision * ranked).sum(axis=1) / ranked.sum(axis=1)


def probe_of(config: Mapping[str, Any]) -> Probe:
  """`config.eval.probe`; ValueError for values without meaning."""
  return config_lib.construct(Probe, config["eval"]["probe"], what="eval.probe")


class LinearProbe(types.Evaluator):
  """A probe of the encoder of an objective, on the data of a run.

  Rows are read as `Objective.states` says: tokens with full attention, and without corruption.
  """
  has_curve = True
  from_start = True

  def __init__(self, parts: Any):
    """Reads the pools of texts.

    Args:
      parts: of the run, with `eval.probe`.

    Raises:
      ValueError: the records have no labels.
    """
    config, tokenizer = parts.config, parts.tokenizer
    self._probe = probe_of(config)
    self._mesh, self._batch_size = parts.mesh, config["batch_size"]
    data = pipeline.read_config(config["data"])
    (source, layout, _), *others = data.parts()
    if others:
      raise ValueError("eval.probe reads data.source; leave out data.mixture.")
    source, self._is_pairs = source.probed(), source.has_questions
    read = self._questions if self._is_pairs else self._texts
    self._pools = {split: read(data, source, layout, tokenizer, split) for split in pipeline.SPLITS}
    self._features = jax.jit(_pair_features(parts.objective) if self._is_pairs else
                             _text_features(parts.objective))

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for fields of `eval.probe` without meaning."""
    del objective
    probe_of(config)

  def _texts(self, data, source, layout, tokenizer, split):
    """Rows and labels of texts spread evenly over the split."""
    records = source.records(split)
    index = np.unique(np.linspace(0, len(records) - 1, self._probe.pool).astype(int))
    if "label" not in records[int(index[0])]:
      raise ValueError(f"eval.probe needs records with labels, which the source "
                       f"{source.title} has not as it is set; use grammar, "
                       "structure, dated, news, or text with section_marks.")
    cut = dataclasses.replace(data, packing="crop", append_eos=False, isolate_documents=True)
    form = pipeline.form(cut, [layout], tokenizer)
    documents = documents_lib.Documents(cut, source, split, tokenizer, layout, form)
    rows = [pack.finish_row(pack.row_of(documents[int(i)], form), form) for i in index]
    return rows, np.array([records[int(i)]["label"] for i in index])

  def _questions(self, data, source, layout, tokenizer, split):
    """Rows of a question and one candidate each, and which are right, bool [N, k]."""
    form = pipeline.form(dataclasses.replace(data, isolate_documents=True), [layout], tokenizer)
    rows, labels = [], []
    for question in source.questions(split, self._probe.pool):
      premise, *candidates = question["parts"]
      for candidate, is_right in zip(candidates, question["labels"]):
        pair = {"parts": [premise, candidate], "labels": [is_right]}
        document = form.complete(layout.row(pair, data, tokenizer))
        rows.append(pack.finish_row(pack.row_of(document, form), form))
      labels.append(question["labels"])
    return rows, np.array(labels)

  def __call__(self, params, frozen, *, quick):
    """probe_accuracy of texts, or probe_map (mean average precision) of questions."""
    del frozen, quick
    (train, train_labels), (test, test_labels) = (
        (self._encode(params, rows), labels) for rows, labels in self._pools.values())
    found = []
    for draw in range(self._probe.num_draws):
      chosen = np.random.default_rng([self._probe.seed, draw]).permutation(len(train_labels))
      chosen = chosen[:self._probe.num_labels]
      if self._is_pairs:
        targets, size = train_labels[chosen].reshape(-1, 1), train_labels.shape[1]
        rows = train.reshape(len(train_labels), size, -1)[chosen].reshape(targets.size, -1)
        scores = ridge_scores(rows, targets.astype(np.float64), test, self._probe.ridge)
        found.append(average_precision(scores.reshape(test_labels.shape), test_labels).mean())
      else:
        targets = np.eye(int(max(train_labels.max(), test_labels.max())) + 1)[train_labels[chosen]]
        scores = ridge_scores(train[chosen], targets, test, self._probe.ridge)
        found.append((scores.argmax(axis=1) == test_labels).mean())
    return {"probe_map" if self._is_pairs else "probe_accuracy": float(np.mean(found))}

  def _encode(self, params, rows) -> np.ndarray:
    size, features = self._batch_size, []
    for first in range(0, len(rows), size):
      some = rows[first:first + size]
      some = some + [some[-1]] * (size - len(some))
      batch = {k: np.stack([row[k] for row in some]) for k in some[0]}
      batch = sharding.place_batch(batch, self._mesh)
      features.append(processes.fetch(self._features(params, batch)))
    return np.concatenate(features)[:len(rows)]


def _hidden(objective, params, batch):
  hidden = objective.states(params, batch)
  if hidden is None:
    hidden = reading.encode(objective.network, params["model"], batch,
                            attention=attention_lib.Full())
  return hidden.astype(jnp.float32)


def _mean(hidden, chosen):
  weight = chosen[..., None].astype(jnp.float32)
  return (hidden * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)


def _text_features(objective) -> Callable:
  return lambda params, batch: _mean(_hidden(objective, params, batch), batch["loss_mask"])


def _pair_features(objective) -> Callable:
  def features(params, batch):
    hidden = _hidden(objective, params, batch)
    first, second = (_mean(hidden, batch["loss_mask"] & (batch["token_types"] == i))
                     for i in (0, 1))
    return jnp.concatenate([hidden[:, 0], first * second, jnp.abs(first - second)], axis=-1)

  return features
