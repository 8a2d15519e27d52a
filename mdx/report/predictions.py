"""Predictions of labels as tables: confusion matrix, and the examples that are most wrong.

Contents: FILES, read, confusion, examples.

Convention: rows are those of `eval.measures.Predictions.save`: "gold" and "scores" of texts,
"gold" and "predicted" of words; "texts" or "words" where they were kept.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from mdx.utils import readers

FILES = {"test": "test_predictions.jsonl", "validation": "validation_predictions.jsonl"}
_MOST = 20  # labels of a matrix; of more the pairs that are confused most are listed
_SHOWN, _CHARS = 10, 300  # examples, and characters of one

Row = Mapping[str, Any]
Table = tuple[list[str], list[list[Any]]]  # head, rows


def read(path: pathlib.Path) -> list[Row]:
  """Rows of a file of predictions; [] where there is none."""
  return [row for _, row in readers.json_rows(str(path))] if path.is_file() else []


def _pairs(row: Row, labels: Sequence[str]) -> list[tuple[str, str]]:
  """(gold, predicted) of a row, of every word where it has words."""
  if "predicted" in row:
    return list(zip(row["gold"], row["predicted"]))
  return [(row["gold"], labels[int(np.argmax(row["scores"]))])]


def confusion(rows: Sequence[Row], labels: Sequence[str]) -> Table:
  """The confusion matrix, a row for each gold label and a column for each predicted one.

  Of more than 20 labels it is a list of the pairs that are confused most. Scores have none.
  """
  if not labels or not rows:
    return [], []
  counts = collections.Counter(pair for row in rows for pair in _pairs(row, labels))
  if len(labels) > _MOST:
    wrong = [(*pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]]
    return ["label", "predicted", "count"], [list(one) for one in wrong[:_MOST]]
  return ["label \\ predicted", *labels], [
      [gold, *(counts[gold, predicted] for predicted in labels)] for gold in labels]


def examples(rows: Sequence[Row], labels: Sequence[str]) -> Table:
  """The predictions that are most wrong, the worst first.

  Of labels those with the largest probability of a wrong label, of scores those with the largest
  error, of words the sentences with most wrong tags.
  """
  found = []
  for row in rows:
    text = " | ".join(row.get("texts", ())) or " ".join(row.get("words", ()))
    text = text if len(text) <= _CHARS else text[:_CHARS - 3] + "..."
    if "predicted" in row:
      words = row.get("words", [str(i) for i in range(len(row["gold"]))])
      wrong = [f"{word}: {gold}, not {tag}" for word, gold, tag in zip(
          words, row["gold"], row["predicted"]) if gold != tag]
      found.append((len(wrong), [text, "; ".join(wrong)[:_CHARS]]))
    elif labels:
      probabilities = special.softmax(np.asarray(row["scores"], np.float64))
      (gold, predicted), best = _pairs(row, labels)[0], float(probabilities.max())
      found.append((best * (gold != predicted), [text, gold, predicted, best]))
    else:
      error = abs(row["scores"] - row["gold"])
      found.append((error, [text, row["gold"], row["scores"]]))
  worst = sorted((x for x in found if x[0] > 0), key=lambda x: -x[0])[:_SHOWN]
  words = bool(rows) and "predicted" in rows[0]
  head = ["text", "wrong tags"] if words else ["text", "label", "predicted", "probability"] if (
      labels) else ["text", "score", "predicted"]
  return head, [cells for _, cells in worst]
