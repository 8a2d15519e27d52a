"""The decode of a row as an animated GIF or a PNG strip of a few frames.

Contents: colour, write_gif, write_strip.

Convention: the marks of the web page: a token written in the last step has an outline,
one that replaced another a double outline, a position masked again a dashed one; colour
is confidence, from orange (unsure) to pale blue (sure). Text is set in the DejaVu fonts
that matplotlib ships, one column a character.
"""

from __future__ import annotations

import os
from typing import Callable, NamedTuple, Sequence

import numpy as np

from mdx.report import denoising

_UNSURE, _SURE = (245, 145, 47), (223, 235, 250)
_INK, _MUTED, _MASK, _PAGE = (22, 24, 29), (92, 99, 112), (200, 205, 214), (255, 255, 255)
_SIZE, _MARGIN = 15, 12
_MOST_LINES = 60  # of text in a frame


class _Cell(NamedTuple):
  """A position of a frame: where it stands, in columns and lines, and what is drawn."""
  place: int
  column: int
  line: int
  text: str
  width: int


def colour(confidence: float, scale: Sequence[float]) -> tuple[int, int, int]:
  """Red, green and blue of a confidence on a scale from low to high."""
  share = min(max((float(confidence) - scale[0]) / (scale[1] - scale[0]), 0.0), 1.0)
  return tuple(round(a + share * (b - a)) for a, b in zip(_UNSURE, _SURE))


def _layout(tokens: np.ndarray, final: np.ndarray, texts: dict[int, str], mask_id: int,
            columns: int) -> list[_Cell]:
  """Sets one frame; a mask is as wide as the final token, so that little moves."""
  cells, column, line = [], 0, 0
  for place, token in enumerate(tokens.tolist()):
    is_masked = token == mask_id
    raw = texts[int(final[place])] if is_masked else texts[token]
    shown = denoising.visible(raw) or "\u2205"
    if len(shown) > columns:
      shown = shown[:columns - 1] + "\u2026"
    if column + len(shown) > columns:
      column, line = 0, line + 1
    cells.append(_Cell(place, column, line, "" if is_masked else shown, len(shown)))
    column += len(shown)
    if raw.endswith("\n"):
      column, line = 0, line + len(raw) - len(raw.rstrip("\n"))
  return cells


class _Painter:
  """Draws frames of one trace, all of one size."""

  def __init__(self, trace: denoising.Trace, token_text: Callable[[int], str], mask_id: int,
               kept: np.ndarray, columns: int):
    """Sets the frames `kept` in lines of `columns` characters."""
    import matplotlib  # pylint: disable=g-import-not-at-top
    from PIL import ImageFont  # pylint: disable=g-import-not-at-top
    fonts = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    font = lambda name, size: ImageFont.truetype(os.path.join(fonts, f"{name}.ttf"), size)
    self._mono, self._small = font("DejaVuSansMono", _SIZE), font("DejaVuSans", 12)
    self._advance, self._pitch = self._mono.getlength("0"), round(1.75 * _SIZE)
    self._trace, self._mask_id, self._columns = trace, mask_id, columns
    self._done, self._scale = denoising.changes(trace, mask_id), denoising.scale([trace])
    frames = np.asarray(trace.frames)
    ids = {int(i) for i in np.unique(frames[kept])}
    texts = {i: "[mask]" if i == mask_id else token_text(i) for i in ids}
    self._cells = {int(f): _layout(frames[f], frames[-1], texts, mask_id, columns) for f in kept}
    self._num_lines = 1 + max(cell.line for cells in self._cells.values() for cell in cells)
    shown = min(self._num_lines, _MOST_LINES)
    self.size = (round(columns * self._advance) + 2 * _MARGIN,
                 (shown + (self._num_lines > shown)) * self._pitch + 44 + _MARGIN)

  def _fit(self, draw, text: str, width: float) -> str:
    while draw.textlength(text, self._small) > width:
      text = text[:-2] + "\u2026"
    return text

  def draw(self, f: int, of: str):
    """The image of a frame; `of` tells which frames are shown."""
    from PIL import Image, ImageDraw  # pylint: disable=g-import-not-at-top
    image = Image.new("RGB", self.size, _PAGE)
    draw = ImageDraw.Draw(image)
    trace, last = self._trace, len(self._trace.frames) - 1
    width = self.size[0] - 2 * _MARGIN
    note = denoising.visible(trace.notes[f]) if trace.notes else ""
    title = denoising.visible(trace.title)
    step = f"step {f} of {last}{of}"
    draw.text((_MARGIN, 6), self._fit(draw, "   ".join(filter(None, (step, note))),
                                      width - 180), _INK, self._small)
    self._draw_key(draw, _MARGIN + width - 170)
    draw.text((_MARGIN, 22), self._fit(draw, title, width), _MUTED, self._small)
    draw.rectangle((_MARGIN, 40, _MARGIN + width * f / max(last, 1), 42), _MUTED)
    for cell in self._cells[f]:
      if cell.line < _MOST_LINES:
        self._draw_cell(draw, f, cell)
    if self._num_lines > _MOST_LINES:
      draw.text((_MARGIN, 48 + _MOST_LINES * self._pitch),
                f"{self._num_lines - _MOST_LINES} more lines are not shown", _MUTED, self._small)
    return image

  def _draw_key(self, draw, left: float) -> None:
    low, high = self._scale
    draw.text((left + 46, 6), f"{low:g}", _MUTED, self._small, anchor="ra")
    for i in range(80):
      draw.line((left + 50 + i, 8, left + 50 + i, 18), colour(i / 79, (0, 1)))
    draw.text((left + 134, 6), f"{high:g}", _MUTED, self._small)

  def _draw_cell(self, draw, f: int, cell: _Cell) -> None:
    left = _MARGIN + cell.column * self._advance
    top = 48 + cell.line * self._pitch
    box = (round(left) + 1, top, round(left + cell.width * self._advance) - 1, top + _SIZE + 6)
    confidence = float(self._trace.confidence[f][cell.place])
    if not cell.text:
      draw.rectangle((box[0], box[1] + 3, box[2], box[3] - 3), _MASK)
    elif np.isfinite(confidence):
      draw.rectangle(box, colour(confidence, self._scale))
    else:
      draw.rectangle(box, _PAGE, _MASK)
    draw.text((left, top + 1), cell.text, _INK, self._mono)
    if self._trace.is_given is not None and self._trace.is_given[cell.place]:
      draw.line((box[0], box[3], box[2], box[3]), _MUTED, 2)
    if self._done.is_remasked[f, cell.place]:
      for x in range(box[0], box[2], 6):
        for y in (box[1], box[3]):
          draw.line((x, y, min(x + 3, box[2]), y), _INK, 2)
    elif self._done.is_written[f, cell.place] or self._done.is_replaced[f, cell.place]:
      draw.rectangle(box, None, _INK)
      if self._done.is_replaced[f, cell.place]:
        draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), None, _INK)


def _palette():
  """One small palette for all frames, which keeps the file small."""
  from PIL import Image  # pylint: disable=g-import-not-at-top
  blend = lambda a, b, num: [tuple(round(x + i / num * (y - x)) for x, y in zip(a, b))
                             for i in range(num)]
  middle = colour(0.5, (0, 1))
  colours = (blend(_INK, _PAGE, 8) + blend(_INK, middle, 8) + blend(_UNSURE, _SURE, 24)
             + [_SURE, _PAGE, _MASK, _MUTED])
  image = Image.new("P", (1, 1))
  image.putpalette([x for c in colours for x in c])
  return image


def _check(columns: int) -> None:
  if columns < 40:
    raise ValueError(f"columns must be 40 at least, got {columns}.")


def write_gif(path: str | os.PathLike, trace: denoising.Trace, token_text: Callable[[int], str],
              mask_id: int, *, max_frames: int = 64, columns: int = 72,
              frame_seconds: float = 0.25, end_seconds: float = 3.0) -> int:
  """Animates a decode.

  Args:
    path: file to write.
    trace: the row.
    token_text: text of a token id.
    mask_id: id of the mask.
    max_frames: of more frames, this many are shown, evenly spaced; the picture says so.
    columns: characters a line.
    frame_seconds: how long a frame stays.
    end_seconds: how long the last one does.

  Returns: number of frames drawn.
  """
  _check(columns)
  kept = denoising.even(len(trace.frames), max_frames)
  painter = _Painter(trace, token_text, mask_id, kept, columns)
  of = f" ({len(kept)} of {len(trace.frames)} frames)" if len(kept) < len(trace.frames) else ""
  palette = _palette()
  images = [painter.draw(int(f), of).quantize(palette=palette, dither=0) for f in kept]
  milliseconds = [round(1000 * frame_seconds)] * (len(kept) - 1) + [round(1000 * end_seconds)]
  images[0].save(path, format="GIF", save_all=True, append_images=images[1:], loop=0,
                 duration=milliseconds)
  return len(kept)


def write_strip(path: str | os.PathLike, trace: denoising.Trace, token_text: Callable[[int], str],
                mask_id: int, *, num_frames: int = 4, columns: int = 72) -> int:
  """Draws a few frames of a decode, evenly spaced, below each other in a PNG.

  Args: as of write_gif.

  Returns: number of frames drawn.
  """
  from PIL import Image  # pylint: disable=g-import-not-at-top
  _check(columns)
  kept = denoising.even(len(trace.frames), num_frames)
  painter = _Painter(trace, token_text, mask_id, kept, columns)
  width, height = painter.size
  strip = Image.new("RGB", (width, height * len(kept)), _PAGE)
  for i, f in enumerate(kept):
    strip.paste(painter.draw(int(f), ""), (0, i * height))
  strip.save(path, format="PNG", optimize=True)
  return len(kept)
