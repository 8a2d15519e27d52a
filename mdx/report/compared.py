"""Figures of several runs beside one another: differences with errors, and which run is better.

Contents: rows, headline.

Convention: results of RL are told apart as base and trained model, whatever the method is called.
Errors of two runs are taken as independent: on the same held-out problems this overstates them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdx.report import words


class _Figure(NamedTuple):
  """One figure of all runs, None where a run has none."""
  key: str
  name: str
  values: list[Any]
  errors: list[float | None]


def _of_table(results: Mapping[str, Any]) -> dict[str, tuple[Any, float | None]]:
  """The table of an RL run as figures "model, remasking, steps: accuracy"."""
  found, table = {}, results.get("table")
  if not isinstance(table, list):
    return {}
  for row in table:
    model = row["model"] if row["model"] == "base" else "trained"
    found[f"{model}, {words.name_of(row['remasking'])}, {row['nfe']} steps.accuracy"] = (
        row["accuracy"], row["stderr"])
  return found


def _figures(results: Sequence[Mapping[str, Any]]) -> list[_Figure]:
  tables = [_of_table(one) | words.figures(one) for one in results]
  found = []
  for key in dict.fromkeys(key for one in tables for key in one):
    cells = [one.get(key, (None, None)) for one in tables]
    found.append(_Figure(key, words.name_of(key), [c[0] for c in cells], [c[1] for c in cells]))
  return found


def _direction(key: str) -> int:
  """1 if larger is better, -1 if smaller is, 0 if neither."""
  last = key.rpartition(".")[2].removeprefix("test_")
  return 1 if last in words.LARGER_IS_BETTER else -1 if last in words.SMALLER_IS_BETTER else 0


def _difference(figure: _Figure, left: int, right: int) -> tuple[float, float | None]:
  """The second run's value minus the first's, and its standard error if both are known."""
  errors = figure.errors[left], figure.errors[right]
  return figure.values[right] - figure.values[left], (
      None if None in errors else math.hypot(*errors))


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _better(figure: _Figure) -> int | None:
  """The run that is ahead of the next one by two standard errors; None: no run is, or no errors."""
  direction = _direction(figure.key)
  if not direction or not all(map(_is_number, figure.values)) or None in figure.errors:
    return None
  order = sorted(range(len(figure.values)), key=lambda i: -direction * figure.values[i])
  ahead, error = _difference(figure, order[1], order[0])
  return order[0] if error is not None and abs(ahead) > 2 * error else None


def _say_difference(figure: _Figure, left: int, right: int) -> str:
  if not all(map(_is_number, figure.values)):
    return ""
  value, error = _difference(figure, left, right)
  sign = "+" if value >= 0 else "\u2212"
  return sign + words.quantity(figure.key, abs(value), error)


def _pair(figure: _Figure) -> tuple[int, int]:
  """The runs whose difference is said: the two, or of more the worst and the best."""
  if len(figure.values) == 2 or not all(map(_is_number, figure.values)):
    return 0, 1
  order = sorted(range(len(figure.values)), key=lambda i: figure.values[i])
  return order[0], order[-1]


def rows(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> tuple[list[list[str]], int]:
  """Returns [figure, a cell a run, difference, better run] and how many figures are all equal.

  The difference is that of the last run from the first; of more than two, of the largest from the
  smallest.

  Args:
    names: of the runs.
    results: contents of their `results.json`.
  """
  found, same = [], 0
  for figure in _figures(results):
    if all(value == figure.values[0] for value in figure.values):
      same += 1
      continue
    better = _better(figure)
    cells = ["" if value is None else words.quantity(figure.key, value, error)
             for value, error in zip(figure.values, figure.errors)]
    found.append([figure.name, *cells, _say_difference(figure, *_pair(figure)),
                  "" if better is None else names[better]])
  return found, same


def headline(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
  """The title and sentence of a comparison: how often which run is better.

  Args:
    names: of the runs.
    results: contents of their `results.json`.
  """
  judged = [figure for figure in _figures(results) if _direction(figure.key)
            and None not in figure.errors and len({*figure.values}) > 1]
  wins = [_better(figure) for figure in judged]
  counts = {name: wins.count(i) for i, name in enumerate(names)}
  best = max(counts, key=counts.get)
  if not judged or not counts[best]:
    return f"{len(names)} runs: no figure with an error tells them apart", ""
  said = ", ".join(f"{name} in {count}" for name, count in counts.items())
  return (f"{best} is better in {counts[best]} of {len(judged)} figures",
          f"Figures with a standard error that differ: {len(judged)}. Better by two standard "
          f"errors: {said}; none in {wins.count(None)}.")
