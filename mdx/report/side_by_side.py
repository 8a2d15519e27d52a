"""Decodes of the same problems by several models or rules, side by side, as an animated SVG.

Contents: write_svg.

Convention: a panel a model, the same problems in the same order in each. Frames as in
`report.denoising`: the first is the problem, each further one a step. A token written in the last
step is tinted, one that breaks a rule of the task is red, and the last frame says right or wrong.
The file needs no script: animations are CSS, colours follow the reader's light or dark mode, and
where motion is not wanted (or not drawn) the last frame stands still.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from xml.sax import saxutils

import numpy as np

from mdx.report import denoising
from mdx.utils import files

_CELL, _CHAR, _LINE = 26, 9.0, 24  # side of a cell of a grid; of running lines, width and height
_GAP, _TOP, _CAPTION = 18, 78, 24  # between problems; above them; below one
_STYLE = """
svg{--page:#ffffff;--ink:#16181d;--muted:#5c6370;--line:#b9bfca;--mask:#eef0f3;--new:#cfe2f8;
--wrong:#c62828;--onwrong:#ffffff;--right:#1b7f3b}
@media (prefers-color-scheme:dark){svg{--page:#14161a;--ink:#eceef2;--muted:#9aa3b2;--line:#565e6c;
--mask:#22262d;--new:#23466e;--wrong:#e5534b;--onwrong:#14161a;--right:#4cc274}}
text{font:15px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--ink);
text-anchor:middle}
.t{font:600 17px system-ui,"DejaVu Sans",sans-serif}
.s{font:14px system-ui,"DejaVu Sans",sans-serif;fill:var(--muted)}
.g{font-weight:700}.m{fill:var(--mask)}.n{fill:var(--new)}.w{fill:var(--wrong)}
.x{fill:var(--onwrong)}.p{fill:none;stroke:var(--line)}.b{fill:none;stroke:var(--ink);stroke-width:2}
.r{fill:var(--right);font-weight:600}.q{fill:var(--wrong);font-weight:600}
"""


class _Timeline:
  """Seconds of the frames, and a CSS class for everything that is shown in some of them."""

  def __init__(self, num_frames: int, first: float, each: float, last: float):
    self.num = num_frames
    seconds = [first] + [each] * (num_frames - 2) + [last] if num_frames > 1 else [last]
    self._ends = np.cumsum(seconds) / sum(seconds) * 100
    self._total, self._used = sum(seconds), {}

  def shown(self, start: int, end: int) -> str:
    """Returns the class of what is shown in frames start to end - 1; "" if in all of them."""
    if (start, end) == (0, self.num):
      return ""
    return self._used.setdefault((start, end), f"f{start}_{end}")

  def css(self) -> str:
    """Returns the rules of all classes that were asked for."""
    parts = []
    at = lambda frame: 0.0 if frame == 0 else float(self._ends[frame - 1])
    for (start, end), name in sorted(self._used.items()):
      steps = {at(start): "visible", at(end): "hidden"} if end < self.num else {
          at(start): "visible", 100.0: "visible"}
      if start:
        steps = {0.0: "hidden"} | steps
      frames = "".join(f"{share:.2f}%{{visibility:{state}}}" for share, state in steps.items())
      still = "visible" if end == self.num else "hidden"
      parts.append(f"@keyframes {name}{{{frames}}}.{name}{{visibility:{still};"
                   f"animation:{name} {self._total:.1f}s step-end infinite}}")
    return "".join(parts) + "@media (prefers-reduced-motion:reduce){*{animation:none!important}}"


def _runs(values: Sequence) -> list[tuple[int, int]]:
  """(start, end) of the longest runs of equal values."""
  starts = [0] + [i for i in range(1, len(values)) if values[i] != values[i - 1]]
  return list(zip(starts, [*starts[1:], len(values)]))


class _Example:
  """One trace: where its positions stand, and its elements."""

  def __init__(self, trace: denoising.Trace, texts: Callable[[int], str], mask_id: int):
    self._trace, self._texts, self._mask_id = trace, texts, mask_id
    self._frames = np.asarray(trace.frames)
    self.boxes: dict[int, tuple[float, float, float]] = {}  # position -> x, y, width
    for number, line in enumerate(trace.lines):
      left = 0.0
      for position in line:
        width = _CELL if trace.box else 6 + _CHAR * max(
            [1] + [len(self._text(i)) for i in self._frames[:, position]])
        self.boxes[position] = left, number * (_CELL if trace.box else _LINE), width
        left += width + (0 if trace.box else 2)
    self.width = max(x + width for x, _, width in self.boxes.values())
    self.height = len(trace.lines) * (_CELL if trace.box else _LINE)
    self.head = "" if trace.box else denoising.visible(trace.prompt)
    self.width = max(self.width, _CHAR * len(self.head))

  def _text(self, token: int) -> str:
    return "" if token == self._mask_id else self._texts(token)

  def draw(self, time: _Timeline) -> str:
    """Returns the elements of the trace; steps that it does not take repeat its last frame."""
    trace, parts = self._trace, []
    index = np.minimum(np.arange(time.num), len(self._frames) - 1)
    done = denoising.changes(trace, self._mask_id)
    is_new = (done.is_written | done.is_replaced)[index] & (np.arange(time.num) < len(
        self._frames))[:, None]
    is_wrong = (np.zeros(self._frames.shape, bool) if trace.is_wrong is None
                else trace.is_wrong)[index]
    height = _CELL if trace.box else _LINE - 4
    for position, (x, y, width) in self.boxes.items():
      rectangle = lambda kind: (f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" '
                                f'height="{height}"/>')
      parts.append(rectangle("m"))
      shown = [(self._text(int(token)), bool(wrong), bool(new)) for token, wrong, new in zip(
          self._frames[index, position], is_wrong[:, position], is_new[:, position])]
      for start, end in _runs(shown):
        text, wrong, new = shown[start]
        if not text:
          continue
        kind = time.shown(start, end)
        given = trace.is_given is not None and trace.is_given[position]
        back = "w" if wrong else "n" if new else ""
        classes = " ".join(filter(None, ("x" if wrong else "", "g" if given else "")))
        parts.append(f'<g class="{kind}">' + (rectangle(back) if back else "")
                     + f'<text class="{classes}" x="{x + width / 2:g}" '
                     f'y="{y + height / 2 + 5:g}">{saxutils.escape(text)}</text></g>')
    if trace.box:
      parts.append(self._lines())
    if self.head:
      parts.append(f'<text class="s" x="{self.width / 2:g}" y="-8">'
                   f'{saxutils.escape(self.head)}</text>')
    if trace.is_right is not None:
      word, kind = ("right", "r") if trace.is_right else ("wrong", "q")
      parts.append(f'<g class="{time.shown(time.num - 1, time.num)}"><text class="s {kind}" '
                   f'x="{self.width / 2:g}" y="{self.height + 18:g}">'
                   f'{"&#x2713;" if trace.is_right else "&#x2717;"} {word}</text></g>')
    return "".join(parts)

  def _lines(self) -> str:
    """Thin lines between cells, thick ones around boxes."""
    path = lambda step: "".join(f"M0 {i}H{self.width:g}M{i} 0V{self.height:g}"
                                for i in range(0, int(self.height) + 1, step))
    return (f'<path class="p" d="{path(_CELL)}"/>'
            f'<path class="b" d="{path(_CELL * self._trace.box)}"/>')


def write_svg(path: str | os.PathLike, panels: Mapping[str, Sequence[denoising.Trace]],
              token_text: Callable[[int], str], mask_id: int, *, title: str, columns: int = 4,
              first_seconds: float = 1.5, frame_seconds: float = 1.5,
              last_seconds: float = 4.0) -> None:
  """Animates decodes of the same problems side by side.

  Args:
    path: file to write.
    panels: heading -> traces that have `lines`; as many in every panel.
    token_text: text of a token id.
    mask_id: id of the mask.
    title: of the picture, for readers who do not see it.
    columns: problems in a row of a panel.
    first_seconds, frame_seconds, last_seconds: of the first frame, each further one, the last one.

  Raises: ValueError for panels of different lengths, or a trace without `lines`.
  """
  texts = functools.cache(lambda token: denoising.visible(token_text(token)))
  counts = {name: len(traces) for name, traces in panels.items()}
  if len(set(counts.values())) != 1 or not all(counts.values()) or not all(
      trace.lines for traces in panels.values() for trace in traces):
    raise ValueError(f"panels need as many traces each, one at least, all drawn by their task "
                     f"(lines), got {counts}.")
  drawn = {name: [_Example(trace, texts, mask_id) for trace in traces]
           for name, traces in panels.items()}
  every = [one for examples in drawn.values() for one in examples]
  time = _Timeline(max(len(trace.frames) for traces in panels.values() for trace in traces),
                   first_seconds, frame_seconds, last_seconds)
  number = len(next(iter(drawn.values())))
  columns = min(columns, number)
  wide = max(one.width for one in every) + _GAP
  high = max(one.height for one in every) + _CAPTION + _GAP + (22 if any(
      one.head for one in every) else 0)
  panel_width = max(columns * wide, 240) + _GAP
  top = _TOP + (18 if any(one.head for one in every) else 0)
  width, height = panel_width * len(drawn) + _GAP, top + -(-number // columns) * high
  parts = []
  for p, (name, examples) in enumerate(drawn.items()):
    left = _GAP + p * panel_width
    middle = left + (panel_width - _GAP) / 2
    parts.append(f'<text class="t" x="{middle:g}" y="28">{saxutils.escape(name)}</text>')
    verdicts = [trace.is_right for trace in panels[name]]
    for frame in range(time.num):
      line = f"step {frame} of {time.num - 1}" if frame else "problems"
      if frame == time.num - 1 and None not in verdicts:
        line = f"{sum(verdicts)} of {number} right after {frame} steps"
      parts.append(f'<g class="{time.shown(frame, frame + 1)}"><text class="s" x="{middle:g}" '
                   f'y="52">{line}</text></g>')
    inset = (panel_width - _GAP - columns * wide + _GAP) / 2
    for i, one in enumerate(examples):
      x, y = left + inset + i % columns * wide, top + i // columns * high
      parts.append(f'<g transform="translate({x:g} {y:g})">{one.draw(time)}</g>')
    if p:
      parts.append(f'<path class="p" d="M{left - _GAP / 2:g} 20V{height - 20:g}"/>')
  style = _STYLE.strip() + time.css()
  files.write_text(path, f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} '
                   f'{height:g}" width="{width:g}" height="{height:g}" role="img"><title>'
                   f'{saxutils.escape(title)}</title><style>{style}</style><rect width="{width:g}" '
                   f'height="{height:g}" rx="8" fill="var(--page)"/>{"".join(parts)}</svg>\n',
                   newline="\n")
