"""Every metric of one run or of several, drawn as small pictures.

Contents: draw.
"""

from __future__ import annotations

import io
from typing import Any, Mapping, Sequence

_MOST_POINTS = 400  # of a line; more are thinned out
_KINDS = {"train": "training", "rollout": "rollouts", "eval": "held-out"}
_FIRST = ("loss", "reward", "nats_per_token", "tokens_per_second")  # behind what is held out


def _series(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
  """Points of a metric in the order of steps; a step that was run again counts once."""
  points = {x["step"]: x[name] for x in lines
            if x["kind"] == kind and isinstance(x.get(name), (int, float))}
  steps = sorted(points)
  steps = steps[::-(-len(steps) // _MOST_POINTS) or 1]
  return [(step, points[step]) for step in steps]


def _is_hidden(name: str) -> bool:
  """Errors are drawn with their figure, and sizes say nothing."""
  return name.endswith("_stderr") or name.startswith("num_")


def _names(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
  """(kind, name) of every metric: held-out ones, the first ones, and others that change."""
  found: dict[tuple[str, str], None] = {}
  for lines in runs.values():
    for line in lines:
      for name, value in line.items():
        if name not in ("step", "kind") and not _is_hidden(name) and isinstance(
            value, (int, float)):
          found.setdefault((line["kind"], name))
  kinds = {kind: i for i, kind in enumerate(("eval", "train", "rollout"))}

  def place(key):
    kind, name = key
    return (kind != "eval", _FIRST.index(name) if name in _FIRST else len(_FIRST),
            kinds.get(kind, len(kinds)))

  def says_something(lines, key):
    points = _series(lines, *key)
    return len(points) > 1 and (key[0] == "eval" or len({value for _, value in points}) > 1)

  return [key for key in sorted(found, key=place)
          if any(says_something(lines, key) for lines in runs.values())]


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, bytes]]:
  """Draws every metric over the steps.

  Args:
    runs: name of a run -> contents of its `metrics.jsonl`; lines of one picture are told apart
      by colour and named where there are several runs.

  Returns:
    (caption, SVG) of each metric.
  """
  from matplotlib import figure as figure_lib  # pylint: disable=g-import-not-at-top
  pictures = []
  for kind, name in _names(runs):
    figure = figure_lib.Figure(figsize=(4.2, 2.6))  # a layout engine would draw everything twice
    axis = figure.subplots(gridspec_kw=dict(left=0.15, right=0.97, bottom=0.19, top=0.95))
    for run, lines in runs.items():
      points = _series(lines, kind, name)
      error = dict(_series(lines, kind, f"{name}_stderr"))
      if not points:
        continue
      steps, values = zip(*points)
      drawn, = axis.plot(steps, values, lw=1.2, marker="o" if len(points) < 15 else "", ms=3,
                         label=run)
      if error:
        spread = [2 * error.get(step, 0.0) for step in steps]
        axis.fill_between(steps, [v - s for v, s in zip(values, spread)],
                          [v + s for v, s in zip(values, spread)], alpha=0.2, lw=0,
                          color=drawn.get_color())
    axis.set_xlabel("step")  # the caption says what the other axis is
    axis.grid(alpha=0.3)
    if len(runs) > 1:
      axis.legend(fontsize="x-small")
    with io.BytesIO() as file:
      figure.savefig(file, format="svg", metadata={"Date": None})
      pictures.append((f"{name.replace('_', ' ')} ({_KINDS.get(kind, kind)})", file.getvalue()))
  return pictures
