"""Measured rules of decoding at several values of one field each (`samplers.settings`).

Contents: table_text, front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
