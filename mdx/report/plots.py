"""Learning curves.

Contents: learning_curve.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence


def learning_curve(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike, *,
                   baselines: Mapping[str, float] | None = None, title: str = "") -> None:
  """Draws training loss and evaluation into a PNG.

  Args:
    lines: contents of `metrics.jsonl`.
    path: file to write.
    baselines: name -> bits per character, drawn as horizontal lines.
    title: of the figure.
  """
  import matplotlib  # pylint: disable=g-import-not-at-top
  matplotlib.use("Agg")
  from matplotlib import pyplot as plt  # pylint: disable=g-import-not-at-top
  train = [x for x in lines if x["kind"] == "train" and x.get("loss") is not None]
  evals = [x for x in lines if x["kind"] == "eval"]
  name = "bits_per_char" if any("bits_per_char" in x for x in evals) else "nats_per_token"
  figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
  axes[0].plot([x["step"] for x in train], [x["loss"] for x in train], color="tab:blue", lw=1)
  axes[0].set(xlabel="step", ylabel="training loss (nats)", title=title)
  # The last evaluation of a step counts: a finished run that is run again repeats its own.
  points = list({x["step"]: x for x in evals if x.get(name) is not None}.values())
  axes[1].errorbar([x["step"] for x in points], [x[name] for x in points],
                   yerr=[2 * (x.get(f"{name}_stderr") or 0.0) for x in points], marker="o", ms=4,
                   color="tab:red", label="held-out (2 s.e.)")
  for i, (label, value) in enumerate((baselines or {}).items()):
    axes[1].axhline(value, ls="--", lw=1, color=f"C{i + 4}", label=f"{label} {value:.2f}")
  axes[1].set(xlabel="step", ylabel=name.replace("_", " "))
  axes[1].legend()
  for axis in axes:
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=120)
  plt.close(figure)
