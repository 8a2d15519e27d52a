"""Rules of decoding at several values of one field each, to be compared on one figure.

Contents: Cell, cells, table_text, front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdx.utils import files


class Cell(NamedTuple):
  """A rule at one value of its knob.

  Attributes:
    rule: its name in the config.
    knob, value: the field that varies.
    fields: of a sampler, `name` among them.
  """
  rule: str
  knob: str
  value: Any
  fields: dict[str, Any]


def cells(rules: Mapping[str, Mapping[str, Any]], where: str = "config.rules") -> list[Cell]:
  """The cells of a table of rules.

  Args:
    rules: name -> fields of a sampler, one of which has several values; `name` among the fields is
      the sampler's where it is another.
    where: name of the table, for messages.

  Raises:
    ValueError: a rule without a field of several values, or with more than one.
  """
  if not rules:
    raise ValueError(f"{where} is empty; give at least one, such as "
                     "dict(confidence=dict(steps=(2, 4, 8))).")
  found = []
  for name, given in rules.items():
    files.check_name(name, "rule")
    knobs = [k for k, v in given.items() if isinstance(v, (tuple, list))]
    if len(knobs) != 1 or not given[knobs[0]]:
      raise ValueError(f"{where}.{name} needs one field with several values, such as steps or "
                       f"threshold, got {len(knobs)}.")
    fields = {"name": name} | dict(given)
    found += [Cell(name, knobs[0], value, fields | {knobs[0]: value})
              for value in fields[knobs[0]]]
  return found


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """Measured cells as a table of plain text, a rule after another.

  Args:
    rows: with rule, knob, value, nfe, accuracy, stderr, over_denoising, num_examples.
  """
  lines = [f"{'rule':<18}{'knob':>18}{'calls':>8}{'right, %':>10}{'error':>7}{'over-denoised':>15}"]
  for row in rows:
    over = "" if row["over_denoising"] is None else f"{100 * row['over_denoising']:.1f}"
    lines.append(f"{row['rule']:<18}{row['knob'] + ' ' + str(row['value']):>18}{row['nfe']:8.2f}"
                 f"{100 * row['accuracy']:10.1f}{100 * row['stderr']:7.1f}{over:>15}")
  return "\n".join(lines) + f"\n{rows[0]['num_examples']} held-out problems"


def front(rows: Sequence[Mapping[str, Any]], rule: str, nfe: float) -> float:
  """Accuracy of a rule at a mean number of network calls.

  Linear between its cells, each of which counts with the best accuracy of those that need no more
  calls; 0 at no call, and constant after the last cell.

  Args:
    rows: measured cells, with rule, nfe and accuracy.
    rule: one of theirs.
    nfe: network calls of a problem.

  Raises:
    ValueError: no cell is of that rule.
  """
  own = sorted((row["nfe"], row["accuracy"]) for row in rows if row["rule"] == rule)
  if not own:
    raise ValueError(f"there is no rule {rule!r}; choose from "
                     f"{', '.join(dict.fromkeys(row['rule'] for row in rows))}.")
  before = (0.0, 0.0)
  for calls, accuracy in own:
    at = (calls, max(before[1], accuracy))
    if calls >= nfe:
      share = (nfe - before[0]) / (calls - before[0]) if calls > before[0] else 1.0
      return before[1] + share * (at[1] - before[1])
    before = at
  return before[1]
