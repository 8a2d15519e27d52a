"""The best weights of a run by a held-out figure.

Contents: Best, directory.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax

from mdx import checkpoint as checkpoint_lib
from mdx.utils import files
from mdx.utils import readers


class Best:
  """Keeps `workdir/best/STEP` with the weights and `workdir/best.json` with the figure.

  Equal figures keep the earlier step. A run that is resumed does the evaluations after its
  checkpoint again, with the same outcome.
  """

  def __init__(self, workdir: pathlib.Path, measure: str, meta: dict[str, Any]):
    """Reads what a run that is resumed had found.

    Args:
      workdir: of the run.
      measure: name of the figure; the larger the better.
      meta: saved with the weights.
    """
    self._file, self._folder = workdir / "best.json", workdir / "best"
    self._measure, self._meta = measure, meta
    found = readers.read_object(self._file, "step", "figures") if self._file.exists() else {}
    self.step, self.figures = found.get("step"), found.get("figures", {})

  @property
  def value(self) -> float:
    """The figure; minus infinity if there was none yet."""
    return self.figures.get(self._measure, float("-inf"))

  def offer(self, step: int, figures: dict[str, float], params: Any) -> None:
    """Keeps the weights of a step if they are better; every process must call."""
    if figures[self._measure] <= self.value:
      return
    target = self._folder / str(step)
    if jax.process_index() == 0:
      shutil.rmtree(target, ignore_errors=True)
    checkpoint_lib.save_params(str(target), params, dict(self._meta, step=step))
    if jax.process_index() == 0:
      files.write_json(self._file, {"step": step, "measure": self._measure, "figures": figures})
      for other in self._folder.iterdir():
        if other != target:
          shutil.rmtree(other, ignore_errors=True)
    self.step, self.figures = step, dict(figures)

  def load(self, shapes: Any) -> Any:
    """The weights; `shapes` as of `checkpoint.load_params`."""
    return checkpoint_lib.load_params(str(self._folder / str(self.step)), shapes, "raw")


def directory(workdir: str | pathlib.Path) -> str:
  """The best weights of a workdir; "" where none are kept."""
  path = pathlib.Path(workdir)
  if not (path / "best.json").is_file():
    return ""
  return str(path / "best" / str(readers.read_object(path / "best.json", "step")["step"]))
