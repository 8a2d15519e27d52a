"""The decode of a row in the terminal.

Contents: plain, replay.

Convention: the canvas fills in place where the console is a terminal, one line a frame elsewhere.
Model text cannot move the cursor or change colours: control characters are replaced.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Callable

import numpy as np

from mdx.report import denoising
from mdx.report import denoising_pictures as pictures

_RUN = 8  # masks in a row that are written out
_MOST_LINES = 64  # of a replay to something else than a terminal


def plain(tokens: np.ndarray, token_text: Callable[[int], str], mask_id: int) -> str:
  """A canvas on one line: `_` is a mask, `_*12` a run of twelve."""
  parts = []
  for is_masked, run in itertools.groupby(np.asarray(tokens).tolist(), lambda t: t == mask_id):
    run = list(run)
    if is_masked:
      parts.append("_" * len(run) if len(run) <= _RUN else f"_*{len(run)} ")
    else:
      parts += [denoising.visible(token_text(t)) for t in run]
  return "".join(parts)


def _head(trace: denoising.Trace, f: int) -> str:
  note = denoising.visible(trace.notes[f]) if trace.notes else ""
  return f"step {f}/{len(trace.frames) - 1}" + (f" | {note}" if note else "")


def _coloured(trace: denoising.Trace, done: denoising.Changes, f: int, texts, mask_id: int,
              masks: str):
  """The canvas as rich text, and the offsets of what the step changed."""
  from rich import text as rich_text  # pylint: disable=g-import-not-at-top
  canvas, touched, scale = rich_text.Text(), [], denoising.scale([trace])
  for place, token in enumerate(np.asarray(trace.frames[f]).tolist()):
    confidence = float(trace.confidence[f][place])
    is_new = done.is_written[f, place] or done.is_replaced[f, place]
    if is_new or done.is_remasked[f, place]:
      touched.append(len(canvas))
    if token == mask_id:
      canvas.append(masks[int(done.is_remasked[f, place])], "dim")
      continue
    shown, ends = texts[token]
    style = "bold underline " if is_new else ""
    if np.isfinite(confidence):
      style += "black on #{:02x}{:02x}{:02x}".format(*pictures.colour(confidence, scale))
    canvas.append(shown, style or None)
    canvas.append("\n" * ends)
  return canvas, touched


def _window(canvas, touched: list[int], console, room: int):
  """The lines around the changes, if not all fit."""
  from rich import text as rich_text  # pylint: disable=g-import-not-at-top
  lines = canvas.wrap(console, console.width)
  if len(lines) <= room:
    return canvas
  ends = np.cumsum([len(line) + 1 for line in lines])
  middle = int(np.searchsorted(ends, np.median(touched))) if touched else len(lines)
  start = min(max(middle - room // 2, 0), len(lines) - room)
  return rich_text.Text("\n").join(lines[start:start + room])


def replay(trace: denoising.Trace, token_text: Callable[[int], str], mask_id: int, *,
           delay: float = 0.05, console: Any = None) -> None:
  """Shows a decode frame by frame.

  Args:
    trace: the row.
    token_text: text of a token id.
    mask_id: id of the mask.
    delay: seconds a frame stays in a terminal.
    console: a rich console; standard output if None. Where it is no terminal, at most 64
      frames are printed, evenly spaced, and a line says so.
  """
  from rich import console as rich_console, live, text  # pylint: disable=g-import-not-at-top
  console = console or rich_console.Console()
  done = denoising.changes(trace, mask_id)
  # A console that cannot encode a character shows "?" instead of failing.
  encodable = lambda s: s.encode(console.encoding, "replace").decode(console.encoding)
  say = lambda s: console.print(text.Text(encodable(s)), soft_wrap=True, highlight=False)
  title = denoising.visible(trace.title)
  if not console.is_terminal:
    kept = denoising.even(len(trace.frames), _MOST_LINES)
    if len(kept) < len(trace.frames):
      title += f" ({len(kept)} of {len(trace.frames)} frames)"
    if title:
      say(title.strip())
    for f in kept:
      say(f"{_head(trace, f)} | {plain(trace.frames[f], token_text, mask_id)}")
    return
  texts = {}
  for token in np.unique(trace.frames).tolist():
    raw = "" if token == mask_id else token_text(token)
    texts[token] = encodable(denoising.visible(raw)), len(raw) - len(raw.rstrip("\n"))
  masks = "\u2591\u00d7" if encodable("\u2591\u00d7") == "\u2591\u00d7" else "_x"
  room = max(console.height - 3, 1)
  with live.Live(console=console, auto_refresh=False) as region:
    for f in range(len(trace.frames)):
      canvas, touched = _coloured(trace, done, f, texts, mask_id, masks)
      if f < len(trace.frames) - 1:  # the final text stays, in full
        canvas = _window(canvas, touched, console, room)
      head = text.Text(encodable("  ".join(filter(None, (title, _head(trace, f))))), "bold")
      region.update(text.Text("\n").join([head, canvas]), refresh=True)
      time.sleep(delay)
