"""Small pictures of a page: SVG whose colours follow the reader's light or dark mode.

Contents: COLOURS, axis, short, themed.

Convention: a picture is drawn in the light colours; in its text each of them becomes a variable
that the dark mode sets anew. Words stay text, so a small picture needs no glyphs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

_LIGHT = {"ink": "#16181d", "muted": "#5c6370", "line": "#d5d9e0", "c0": "#0b5cad",
          "c1": "#b35300", "c2": "#1b7f3b", "c3": "#8a3ea8", "c4": "#a8323f", "c5": "#5c6371"}
_DARK = {"ink": "#eceef2", "muted": "#9aa3b2", "line": "#363c47", "c0": "#7db7f5", "c1": "#ffab5e",
         "c2": "#4cc274", "c3": "#cf9be8", "c4": "#ff8f8a", "c5": "#9aa3b3"}
COLOURS = tuple(_LIGHT[f"c{i}"] for i in range(6))  # of lines, in their order
_FONT = "system-ui, DejaVu Sans, sans-serif"


@contextlib.contextmanager
def axis(ylabel: str, xlabel: str, pictures: list[tuple[str, bytes]],
         caption: str) -> Iterator[Any]:
  """Axes of one picture, which is added to `pictures` as (caption, SVG) at the end.

  Args:
    ylabel, xlabel: of the axes.
    pictures: added to.
    caption: of the picture.
  """
  import matplotlib  # pylint: disable=g-import-not-at-top
  from matplotlib import figure as figure_lib  # pylint: disable=g-import-not-at-top
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  style = {"svg.fonttype": "none", "svg.hashsalt": "mdx", "text.color": _LIGHT["ink"],
           "axes.labelcolor": _LIGHT["muted"], "axes.edgecolor": _LIGHT["muted"],
           "xtick.color": _LIGHT["muted"], "ytick.color": _LIGHT["muted"],
           "axes.facecolor": "none", "legend.facecolor": "none", "legend.edgecolor": "none",
           "font.size": 11, "xtick.labelsize": 10, "ytick.labelsize": 10,
           "axes.spines.top": False, "axes.spines.right": False,
           "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}
  with matplotlib.rc_context(style):
    figure = figure_lib.Figure(figsize=(4.6, 3.1), facecolor="none")
    # A layout engine would draw everything twice; tick labels have eight characters at most.
    drawn = figure.subplots(gridspec_kw=dict(left=0.22, right=0.95, bottom=0.18, top=0.95))
    drawn.set(xlabel=xlabel, ylabel=ylabel)
    drawn.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: short(value)))
    drawn.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: short(value)))
    drawn.xaxis.set_major_locator(ticker.MaxNLocator(5))
    yield drawn
    drawn.grid(color=_LIGHT["line"], lw=0.8)
    drawn.set_axisbelow(True)
    with io.BytesIO() as file:
      figure.savefig(file, format="svg", metadata={"Date": None})
      pictures.append((caption, themed(file.getvalue().decode())))


def short(value: float) -> str:
  """A tick label of eight characters at most, four of them significant."""
  for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
    if abs(value) >= size:
      return f"{value / (1e3 if prefix == 'k' else size):.4g}{prefix}"
  text = f"{value:.4g}"
  return text if len(text) <= 7 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def themed(svg: str) -> bytes:
  """The picture with colours that follow the mode, in fonts that every reader has."""
  for name, colour in _LIGHT.items():
    svg = svg.replace(colour, f"var(--{name})")
  svg = svg.replace("'DejaVu Sans'", _FONT).replace("'sans-serif'", "sans-serif")
  rules = lambda table: "".join(f"--{name}:{colour};" for name, colour in table.items())
  style = (f"<style>svg{{{rules(_LIGHT)}}}@media (prefers-color-scheme:dark){{svg{{{rules(_DARK)}"
           "}}</style>")
  start = svg.index(">", svg.index("<svg")) + 1
  return (svg[:start] + style + svg[start:]).encode()
