"""Learning curves and result tables as PNG files.

Contents: learning_curve, rl_curve, accuracy, rules, effects.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Iterator, Mapping, Sequence

from mdx.utils import files


@contextlib.contextmanager
def _figure(path: str | os.PathLike, columns: int) -> Iterator[Sequence[Any]]:
  """Axes side by side, saved at the end."""
  from matplotlib import figure as figure_lib  # pylint: disable=g-import-not-at-top
  # Not of pyplot, whose back end is the notebook's.
  figure = figure_lib.Figure(figsize=(5 * columns, 4), layout="constrained")
  axes = figure.subplots(1, columns)
  yield axes
  for axis in figure.axes:
    axis.grid(alpha=0.3)
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=120, format="png")


def _last_of_each_step(lines: Sequence[Mapping[str, Any]], kind: str, name: str):
  """Points of one figure; a run that is run again repeats its own last evaluation."""
  return list({x["step"]: x for x in lines
               if x["kind"] == kind and x.get(name) is not None}.values())


def learning_curve(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike, *,
                   baselines: Mapping[str, float] | None = None, title: str = "") -> None:
  """Draws training loss and evaluation into a PNG.

  Args:
    lines: contents of `metrics.jsonl`.
    path: file to write.
    baselines: name -> bits per character, drawn as horizontal lines.
    title: of the figure.
  """
  train = [x for x in lines if x["kind"] == "train" and x.get("loss") is not None]
  name = "bits_per_char" if any("bits_per_char" in x for x in lines) else "nats_per_token"
  with _figure(path, 2) as axes:
    axes[0].plot([x["step"] for x in train], [x["loss"] for x in train], color="tab:blue", lw=1)
    axes[0].set(xlabel="step", ylabel="training loss (nats)", title=title)
    points = _last_of_each_step(lines, "eval", name)
    axes[1].errorbar([x["step"] for x in points], [x[name] for x in points],
                     yerr=[2 * (x.get(f"{name}_stderr") or 0.0) for x in points], marker="o",
                     ms=4, color="tab:red", label="held-out (2 s.e.)")
    for i, (label, value) in enumerate((baselines or {}).items()):
      axes[1].axhline(value, ls="--", lw=1, color=f"C{i + 4}", label=f"{label} {value:.2f}")
    axes[1].set(xlabel="step", ylabel=name.replace("_", " "))
    axes[1].legend()


def rl_curve(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike, *,
             title: str = "") -> None:
  """Draws the rewards of rollouts and the held-out accuracy over the updates into a PNG.

  Args:
    lines: contents of `metrics.jsonl` of an RL run.
    path: file to write.
    title: of the figure.
  """
  with _figure(path, 2) as axes:
    for name, label in (("reward", "final answer"), ("best_of_steps", "best step"),
                        ("dead_groups", "groups without variance")):
      points = _last_of_each_step(lines, "rollout", name)
      if not points:  # only final answers are recorded
        continue
      axes[0].plot([x["step"] for x in points], [x[name] for x in points], lw=1, label=label)
    axes[0].set(xlabel="update", ylabel="share of rollouts, mean reward", title=title, ylim=(0, 1))
    points = _last_of_each_step(lines, "eval", "accuracy")
    axes[1].errorbar([x["step"] for x in points], [x["accuracy"] for x in points],
                     yerr=[2 * (x.get("accuracy_stderr") or 0.0) for x in points], marker="o", ms=4,
                     color="tab:red", label="accuracy (2 s.e.)")
    known = [x for x in points if x.get("over_denoising") is not None]
    if known:
      axes[1].plot([x["step"] for x in known], [x["over_denoising"] for x in known], ls="--",
                   color="tab:orange", label="over-denoised")
    axes[1].set(xlabel="update", ylabel="share of held-out problems", ylim=(0, 1))
    for axis in axes:
      axis.legend()


def accuracy(table: Sequence[Mapping[str, Any]], path: str | os.PathLike, *,
             title: str = "") -> None:
  """Draws accuracy and over-denoising against the denoising steps into a PNG.

  Args:
    table: rows with model, remasking, nfe, accuracy, stderr, over_denoising.
    path: file to write.
    title: of the figure.
  """
  with _figure(path, 2) as axes:
    for model, remasking in dict.fromkeys((x["model"], x["remasking"]) for x in table):
      rows = [x for x in table if (x["model"], x["remasking"]) == (model, remasking)]
      label = model + (" + RCR" if remasking == "rcr" else "")
      style = dict(marker="o", ms=4, ls="--" if remasking == "rcr" else "-", label=label,
                   color="tab:gray" if model == "base" else "tab:red")
      steps = [x["nfe"] for x in rows]
      axes[0].errorbar(steps, [100 * x["accuracy"] for x in rows],
                       yerr=[200 * x["stderr"] for x in rows], **style)
      if rows[0]["over_denoising"] is not None:
        axes[1].plot(steps, [100 * x["over_denoising"] for x in rows], **style)
    axes[0].set(ylabel="right answers, % (bars: 2 standard errors)", title=title, ylim=(0, 103))
    axes[1].set(ylabel="%", title="right on the way, wrong at the end", ylim=(0, None))
    steps = sorted({x["nfe"] for x in table})
    for axis in axes:
      axis.set_xscale("log", base=2)
      axis.set_xlabel("denoising steps")
      axis.set_xticks(steps, steps)
    axes[0].legend(loc="lower right")


def rules(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
  """Draws accuracy against the network calls of every rule of decoding into a PNG.

  Args:
    rows: with rule, nfe, accuracy, stderr.
    path: file to write.
  """
  with _figure(path, 1) as axis:
    for number, rule in enumerate(dict.fromkeys(x["rule"] for x in rows)):
      own = sorted((x for x in rows if x["rule"] == rule), key=lambda x: x["nfe"])
      axis.errorbar([x["nfe"] for x in own], [100 * x["accuracy"] for x in own],
                    yerr=[200 * x["stderr"] for x in own], marker="osD^vP*X"[number % 8], ms=4,
                    color=f"C{number % 10}", label=rule)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="network calls a problem (mean)",
             ylabel="right answers, % (bars: 2 standard errors)")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.legend()


_VERDICTS = {"reproduced": "tab:green", "not reproduced": "tab:red", "inconclusive": "tab:gray",
             "no signal": "tab:gray"}


def effects(claims: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
  """Draws the differences of claims with their 95 % intervals, a forest plot, into a PNG.

  A difference is drawn with the claimed sign to the right, in spreads over the seeds, so that all
  measures fit one axis. The intervals are those of Student's t and are not corrected; a difference
  that is the same for all seeds has none and stands as text.

  Args:
    claims: contents of `results.json` of claims.
    path: file to write.
  """
  rows = [row for claim in claims for row in claim["comparisons"] if row["difference"] is not None]
  with _figure(path, 1) as axis:
    axis.figure.set_size_inches(11, 1.2 + 0.32 * max(len(rows), 1))
    for place, row in enumerate(rows):
      if not row.get("interval"):
        axis.text(0.0, place, f"  {row['difference']:+.3g} for all seeds", va="center", fontsize=7)
        continue
      sign = (1 if row["larger_is_better"] else -1) / row["spread"]
      middle = sign * row["difference"]
      low, high = sorted(sign * end for end in row["interval"])
      color = _VERDICTS[row["verdict"]]
      axis.errorbar(middle, place, xerr=[[middle - low], [high - middle]], marker="s", ms=4,
                    color=color, mfc="white" if row["verdict"] == "no signal" else color)
    axis.axvline(0.0, color="black", lw=1)
    axis.set_yticks(range(len(rows)), [_cut(row["name"]) for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=3)
    axis.set(xlabel="difference in spreads over seeds, claimed sign to the right (95 % interval)")
    handles = [axis.plot([], [], "s", color=color, mfc="white" if word == "no signal" else color,
                         label=word)[0] for word, color in _VERDICTS.items()]
    axis.legend(handles=handles, fontsize=7, loc="best")


def _cut(text: str, size: int = 90) -> str:
  return text if len(text) <= size else text[:size - 1] + "\N{HORIZONTAL ELLIPSIS}"
