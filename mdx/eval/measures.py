"""Measures of labelled predictions, as functions of sums over units.

Contents: Predictions, Measure, MEASURES, check, value.

Convention: a unit is what is drawn anew in a bootstrap: a text, a tagged sentence, or a question
with all its candidates. A measure gives each unit some statistics and is a function of their sums,
so that a resample is a weighted sum and costs one matrix product. Larger is better for all.
Entities are found by seqeval in its strict mode, scheme IOB2.

References: Tjong Kim Sang & De Meulder 2003, W03-0419 (entity F1); Gorodkin 2004 (the correlation
coefficient of several classes); Voorhees 1999 (reciprocal ranks).
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mdx.utils import files
from mdx.utils import readers


class Predictions(NamedTuple):
  """Predictions of a model for the records of a split, in their order.

  Attributes:
    labels: the labels by number; () for scores.
    gold: of texts the number of the label, or the score: [N]. Of words a list of tags each.
    scores: float [N, labels] or [N]. Of words None.
    tags: of words, the predicted tags; otherwise None.
    groups: what the rows of one question share, or None.
  """
  labels: tuple[str, ...]
  gold: Any
  scores: Any = None
  tags: Any = None
  groups: Any = None

  def save(self, path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes one JSON object a record, with the texts or words of the records."""
    with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
      for i, gold in enumerate(self.gold):
        if self.tags is not None:
          row = {"gold": gold, "predicted": self.tags[i]}
        else:
          row = {"gold": self.labels[int(gold)] if self.labels else float(gold),
                 "scores": np.asarray(self.scores[i], np.float64).tolist()}
          if self.groups is not None:
            row["group"] = self.groups[i]
        row |= {k: records[i][k] for k in ("texts", "words") if k in records[i]}
        f.write(json.dumps(row) + "\n")


def load(path: pathlib.Path, labels: Sequence[str]) -> Predictions:
  """Reads what `Predictions.save` wrote."""
  rows = [row for _, row in readers.json_rows(str(path))]
  labels = tuple(labels)
  if "predicted" in rows[0]:
    return Predictions(labels, [r["gold"] for r in rows], tags=[r["predicted"] for r in rows])
  number = {label: i for i, label in enumerate(labels)}
  gold = np.array([number[r["gold"]] if labels else r["gold"] for r in rows])
  groups = [r["group"] for r in rows] if "group" in rows[0] else None
  return Predictions(labels, gold, scores=np.array([r["scores"] for r in rows]), groups=groups)


class Measure(NamedTuple):
  """One measure.

  Attributes:
    kind: "text" (classes), "number", "words" or "group": what it is of.
    units: predictions -> float64 [units, K].
    value: sums float64 [..., K] -> [...].
  """
  kind: str
  units: Callable[[Predictions], np.ndarray]
  value: Callable[[np.ndarray], np.ndarray]


def _ratio(a, b):
  return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=np.asarray(b) > 0)


def _share(sums):
  """Of the second statistic, the first."""
  return _ratio(sums[..., 0], sums[..., 1])


def _correct(p):
  right = np.argmax(p.scores, axis=1) == p.gold
  return np.stack([right, np.ones(len(right))], axis=1).astype(np.float64)


def _confusion(p):
  """Per text: right predictions, predictions and gold labels, of every class."""
  one_hot = np.eye(len(p.labels))
  gold, predicted = one_hot[np.asarray(p.gold, int)], one_hot[np.argmax(p.scores, axis=1)]
  return np.concatenate([gold * predicted, predicted, gold], axis=1)


def _split_confusion(sums):
  return np.split(sums, 3, axis=-1)


def _macro_f1(sums):
  right, predicted, gold = _split_confusion(sums)
  seen = predicted + gold > 0
  f1 = _ratio(2 * right, predicted + gold)
  return _ratio((f1 * seen).sum(axis=-1), seen.sum(axis=-1))


def _positive_f1(sums):
  """F1 of the last label."""
  right, predicted, gold = (x[..., -1] for x in _split_confusion(sums))
  return _ratio(2 * right, predicted + gold)


def _mcc(sums):
  right, predicted, gold = _split_confusion(sums)
  total, correct = gold.sum(axis=-1), right.sum(axis=-1)
  covariance = correct * total - (predicted * gold).sum(axis=-1)
  spread = np.sqrt(np.maximum((total ** 2 - (predicted ** 2).sum(axis=-1))
                              * (total ** 2 - (gold ** 2).sum(axis=-1)), 0))
  return _ratio(covariance, spread)


def _moments(x, y):
  x, y = x - x.mean(), y - y.mean()  # against cancellation; no correlation changes
  return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def _of_moments(sums):
  n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
  spread = np.sqrt(np.maximum((n * xx - x * x) * (n * yy - y * y), 0))
  return _ratio(n * xy - x * y, spread)


def _numbers(p):
  return np.asarray(p.scores, np.float64).reshape(-1), np.asarray(p.gold, np.float64)


def _pearson(p):
  return _moments(*_numbers(p))


def _ranks(p):
  """Ranks among all units, which a resample keeps."""
  return _moments(*map(stats.rankdata, _numbers(p)))


def _entities(p):
  """Per sentence: right entities, predicted ones, and those there are."""
  try:
    from seqeval import scheme  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise ValueError("entities are scored by seqeval, which is not installed; install "
                     "-e '.[finetune]'.") from None
  find = lambda tags: [{e.to_tuple()[1:] for e in found}
                       for found in scheme.Entities(tags, scheme.IOB2).entities]
  pairs = zip(find(p.gold), find(p.tags))
  return np.array([(len(a & b), len(b), len(a)) for a, b in pairs], np.float64)


def _f1(sums):
  right, predicted, gold = np.moveaxis(sums, -1, 0)
  return _ratio(2 * right, predicted + gold)


def _words(p):
  return np.array([(sum(a == b for a, b in zip(gold, tags)), len(gold))
                   for gold, tags in zip(p.gold, p.tags)], np.float64)


def _questions(p, score):
  """(score of the ranking, 1) of every question that has a right and a wrong candidate.

  A wrong candidate with the score of a right one stands before it.
  """
  rows = {}
  for i, group in enumerate(p.groups):
    rows.setdefault(group, []).append(i)
  is_right = np.asarray(p.gold, int) == len(p.labels) - 1
  log_odds = p.scores[:, -1] - np.logaddexp.reduce(p.scores[:, :-1], axis=1)
  found = []
  for members in rows.values():
    right = is_right[members]
    if right.any() and not right.all():
      order = np.lexsort((right, -log_odds[members]))
      found.append((score(right[order]), 1.0))
  if not found:
    raise ValueError("no question has both a right and a wrong candidate, so there is nothing to "
                     "rank.")
  return np.array(found)


def _average_precision(right):
  places = np.flatnonzero(right)
  return float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))


def _both(p):
  return np.concatenate([_pearson(p), _ranks(p)], axis=1)


def _mean_of_both(sums):
  return (_of_moments(sums[..., :6]) + _of_moments(sums[..., 6:])) / 2


def _ranking(score):
  return Measure("group", functools.partial(_questions, score=score), _share)


MEASURES = {
    "accuracy": Measure("text", _correct, _share),
    "macro_f1": Measure("text", _confusion, _macro_f1),
    "f1": Measure("text", _confusion, _positive_f1),  # of the last label
    "mcc": Measure("text", _confusion, _mcc),
    "pearson": Measure("number", _pearson, _of_moments),
    "spearman": Measure("number", _ranks, _of_moments),
    "pearson_spearman": Measure("number", _both, _mean_of_both),
    "entity_f1": Measure("words", _entities, _f1),
    "word_accuracy": Measure("words", _words, _share),
    "map": _ranking(_average_precision),
    "mrr": _ranking(lambda right: 1.0 / (1 + int(np.argmax(right)))),
    "p_at_1": _ranking(lambda right: float(right[0])),
}
_KINDS = {"text": ("text", "number", "group"), "words": ("words",)}


def check(cfg: Mapping[str, Any], kind: str) -> None:
  """Raises ValueError unless `cfg["measures"]` are names of measures for a kind of label."""
  names = list(cfg.get("measures") or ())
  fitting = [name for name, m in MEASURES.items() if m.kind in _KINDS[kind]]
  if not names or any(name not in fitting for name in names):
    wrong = next((name for name in names if name not in fitting), "empty")
    raise ValueError(f"eval.measures has {wrong!r}; for labels of {kind} choose from "
                     f"{', '.join(fitting)}.")


def units(name: str, predictions: Predictions) -> np.ndarray:
  """Statistics of the units, float64 [units, K].

  Raises:
    ValueError: the measure is of another kind of prediction.
  """
  measure = MEASURES[name]
  has = {"text": bool(predictions.labels) and predictions.tags is None,
         "number": not predictions.labels, "words": predictions.tags is not None,
         "group": predictions.groups is not None}
  if not has[measure.kind]:
    raise ValueError(f"the measure {name!r} is of {measure.kind}, which these predictions are not "
                     "(a ranking needs data.source.group); use another in eval.measures.")
  return measure.units(predictions)


def value(name: str, predictions: Predictions) -> float:
  """A measure of predictions."""
  return float(MEASURES[name].value(units(name, predictions).sum(axis=0)))
