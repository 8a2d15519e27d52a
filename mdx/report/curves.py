"""Every metric of one run or of several, and accuracy against steps, drawn as small pictures.

Contents: draw, accuracy.
"""

from __future__ import annotations

import statistics
from typing import Any, Mapping, Sequence

from mdx.report import theme
from mdx.report import words

_MOST_POINTS = 400  # of a line; more are thinned out
_SMOOTHED = 60  # points from which a line is also drawn as a moving mean
_LEAST = 0.02  # share that some model must reach for a picture of its own
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


def _varies(points: Sequence[tuple[float, float]]) -> bool:
  """Whether a line has two points at least and is not flat, rounding apart."""
  values = [value for _, value in points]
  return len(values) > 1 and max(values) - min(values) > 1e-5 * max(map(abs, values))


def _names(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
  """(kind, name) of every metric that changes: held-out ones, the first ones, and others."""
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

  return [key for key in sorted(found, key=place)
          if any(_varies(_series(lines, *key)) for lines in runs.values())]


def _smooth(values: Sequence[float], half: int) -> list[float]:
  """Means over windows of 2 half + 1 points that are centred, and shorter at the ends."""
  return [statistics.fmean(values[max(i - half, 0):i + half + 1]) for i in range(len(values))]


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, bytes]]:
  """Draws every metric that changes over the steps.

  Args:
    runs: name of a run -> contents of its `metrics.jsonl`; lines of one picture are told apart
      by colour and named where there are several runs.

  Returns:
    (caption, SVG) of each metric.
  """
  pictures: list[tuple[str, bytes]] = []
  for kind, name in _names(runs):
    unit = 100.0 if words.is_share(name) else 1.0
    caption = f"{words.name_of(name)} ({_KINDS.get(kind, kind)})"
    lines_of = {run: points for run, lines in runs.items()
                if (points := _series(lines, kind, name))}
    longest = max(map(len, lines_of.values()))
    half = max(longest // 40, 2) if longest >= _SMOOTHED else 0
    if half:
      caption += f": mean of {2 * half + 1} points"
    with theme.axis(words.name_of(name) + (", %" if unit > 1 else ""), "step", pictures,
                    caption) as axis:
      for number, (run, points) in enumerate(lines_of.items()):
        steps, values = [step for step, _ in points], [unit * value for _, value in points]
        colour = theme.COLOURS[number % len(theme.COLOURS)]
        error = dict(_series(runs[run], kind, f"{name}_stderr"))
        if half:
          axis.plot(steps, values, lw=0.8, alpha=0.3, color=colour)
          values = _smooth(values, half)
        axis.plot(steps, values, lw=1.8, marker="o" if len(points) < 15 else "", ms=4, label=run,
                  color=colour)
        if error:
          spread = [2 * unit * error.get(step, 0.0) for step in steps]
          axis.fill_between(steps, [v - s for v, s in zip(values, spread)],
                            [v + s for v, s in zip(values, spread)], alpha=0.2, lw=0, color=colour)
      if len(runs) > 1:
        axis.legend(fontsize="small", labelcolor="linecolor", handlelength=3)
  return pictures


def accuracy(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
  """Draws accuracy, and over-denoising where it is known, against the denoising steps.

  Args:
    table: rows with model, remasking, nfe, accuracy, stderr, over_denoising.

  Returns:
    (caption, SVG) of each picture.
  """
  pictures: list[tuple[str, bytes]] = []
  steps = sorted({row["nfe"] for row in table})
  arms = list(dict.fromkeys((row["model"], row["remasking"]) for row in table))
  models = list(dict.fromkeys(row["model"] for row in table))
  for name, caption in (("accuracy", "right answers; bars are 2 standard errors"),
                        ("over_denoising", "right in some step, wrong at the end")):
    known = [row for row in table if row.get(name) is not None]
    if len(steps) < 2 or max([row[name] for row in known], default=0.0) < _LEAST:
      continue
    with theme.axis(f"{words.name_of(name)}, %", "denoising steps", pictures, caption) as axis:
      for model, remasking in arms:
        rows = [row for row in known if (row["model"], row["remasking"]) == (model, remasking)]
        error = [200 * row["stderr"] for row in rows] if name == "accuracy" else None
        axis.errorbar([row["nfe"] for row in rows], [100 * row[name] for row in rows], yerr=error,
                      marker="o", ms=4, lw=1.8, ls="--" if remasking == "rcr" else "-",
                      color=theme.COLOURS[models.index(model) % len(theme.COLOURS)],
                      label=words.label(model) + (" + RCR" if remasking == "rcr" else ""))
      axis.set_xscale("log", base=2)
      axis.set_xticks(steps, [f"{n}" for n in steps])
      axis.minorticks_off()
      axis.set_ylim(0, 103 if name == "accuracy" else None)
      axis.legend(fontsize="small", labelcolor="linecolor", handlelength=3)
  return pictures
