"""Pictures of images that evaluators kept.

Contents: reconstructions, decoded.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Sequence

from matplotlib import figure
import numpy as np

from mdx.eval.evaluators import reconstructions as reconstructions_lib
from mdx.eval.evaluators import words as words_lib
from mdx.utils import readers

_DPI = 120


def _shown(axes, image: np.ndarray) -> None:
  grey = image.shape[-1] == 1
  axes.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)


def _png(picture: figure.Figure) -> bytes:
  file = io.BytesIO()
  picture.savefig(file, format="png", dpi=_DPI)
  return file.getvalue()


def reconstructions(workdir: str | os.PathLike) -> bytes:
  """A PNG of images, their masks and their reconstructions, a column each; b"" without a file."""
  path = pathlib.Path(workdir) / reconstructions_lib.FILE
  if not path.is_file():
    return b""
  with np.load(path) as file:
    rows = {name: file[name] for name in ("original", "masked", "reconstructed")}
  number = len(rows["original"])
  picture = figure.Figure(figsize=(1.1 + 0.9 * number, 2.9), layout="constrained")
  grid = picture.subplots(len(rows), number, squeeze=False)
  for line, (name, images) in zip(grid, rows.items()):
    for axes, image in zip(line, images):
      _shown(axes, image)
      axes.set(xticks=(), yticks=())
    line[0].set_ylabel(name, fontsize=8)
  return _png(picture)


def decoded(workdir: str | os.PathLike) -> bytes:
  """A PNG of images of texts beside what a rule made of them step by step; b"" without files."""
  images, rows = (pathlib.Path(workdir) / name for name in words_lib.FILES)
  if not (images.is_file() and rows.is_file()):
    return b""
  with np.load(images) as file:
    pixels = file["original"]
  lines: Sequence = readers.read_json(rows)["rows"]
  picture = figure.Figure(figsize=(8.4, 0.35 + 0.42 * len(pixels)), layout="constrained")
  grid = picture.subplots(len(pixels), 2, squeeze=False, width_ratios=(1, 3))
  for (left, right), image, line in zip(grid, pixels, lines):
    _shown(left, image)
    left.set(xticks=(), yticks=())
    right.axis("off")
    is_right = line["steps"][-1] == line["text"]
    right.text(0, 0.5, " > ".join(line["steps"]) + (not is_right) * f"  ({line['text']})",
               family="monospace", fontsize=7, va="center",
               color="black" if is_right else "#b3261e")
  grid[0][1].set_title(f"texts by {lines[0]['rule']}, call by call (red: wrong, and the right one)",
                       fontsize=7, loc="left")
  return _png(picture)
