"""Measures of how well a model labels a held-out split.

Contents: make_scorer, predict, figures.

Convention: a split is read in order, one row a record; loss and measures come from one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.eval import likelihood
from mdx.eval import measures


def make_scorer(objective: Any) -> Callable[[types.Params, types.Batch], dict[str, jax.Array]]:
  """Builds (params, batch) -> {"scores", "nll": [B], "count": [B]}; jit it.

  Scores are float32 [B, labels]; of words, the number of the best label, int32 [B, L].
  """

  def row_scores(params, batch):
    scores, _, aux = objective.score(params, batch)
    if objective.kind == "words":
      scores = scores.argmax(axis=-1).astype(jnp.int32)
    return {"scores": scores, **{k: aux.rows[k] for k in ("nll", "count")}}

  return row_scores


def predict(scorer: Callable, params: types.Params, batches: Iterable[Mapping[str, np.ndarray]],
            records: Sequence[Mapping[str, Any]], objective: Any, *,
            mesh: jax.sharding.Mesh) -> tuple[measures.Predictions, dict[str, float]]:
  """Labels a split.

  Args:
    scorer: the jitted function of `make_scorer`.
    params: weights.
    batches: global host batches, in order; those of `pipeline.build`.
    records: what they were made of.
    objective: gives the labels.
    mesh: where batches are placed.

  Returns:
    The predictions, one a record, and the loss: nats_per_token (a label) and its error.

  Raises:
    ValueError: rows and records do not correspond.
  """
  results, batches = likelihood.run_batches(scorer, params, batches, mesh=mesh)
  is_place = _joined([batch["loss_mask"] for batch in batches])
  is_row = np.concatenate([batch["segment_ids"].any(axis=1) for batch in batches])
  scores, nll, count = (_joined([r[k] for r in results])[is_row]
                        for k in ("scores", "nll", "count"))
  if len(scores) != len(records):
    raise ValueError(f"{len(records)} records made {len(scores)} rows; each needs its own.")
  labels = tuple(objective.labels)
  loss = likelihood.summarize(nll, count, None)
  loss = {k: loss[k] for k in ("nats_per_token", "nats_per_token_stderr")}
  if objective.kind == "words":
    found = [_tags(record, row[place], labels)
             for record, row, place in zip(records, scores, is_place[is_row])]
    return measures.Predictions(labels, [list(r["tags"]) for r in records], tags=found), loss
  number = {label: i for i, label in enumerate(labels)}
  gold = np.array([number[r["label"]] if labels else float(r["label"]) for r in records])
  groups = [r["group"] for r in records] if "group" in records[0] else None
  scores = scores if labels else scores.reshape(-1)
  return measures.Predictions(labels, gold, scores=scores, groups=groups), loss


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Rows of all arrays [B, ...]; those of [B, L] are filled up to the longest with 0."""
  if arrays[0].ndim == 1:
    return np.concatenate(arrays)
  width = max(x.shape[1] for x in arrays)
  return np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in arrays])


def _tags(record, numbers, labels) -> list[str]:
  """Tags of the words of a record; words that were cut off have "O", or the first label."""
  tags = [labels[i] for i in numbers]
  return tags + ["O" if "O" in labels else labels[0]] * (len(record["words"]) - len(tags))


def figures(predictions: measures.Predictions, names: Sequence[str]) -> dict[str, float]:
  """The named measures of predictions."""
  return {name: measures.value(name, predictions) for name in names}
