"""The decode of a masked-diffusion model, step by step, as one web page.

Contents: Trace, Changes, changes, from_trajectory, drawn, even, visible, scale, html, write_html.

Convention: frame f of a trace is the canvas after f steps, so frame 0 is what the
decoder was given and the last frame is the text. A token is *written* in step f if it
stands in frame f where frame f - 1 had a mask, *replaced* if another token stood there,
and a position is *masked again* if a token did. Pages show at most `max_bytes` of data; what
is cut is said on the page and returned.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import pathlib
import re
import unicodedata
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np

from mdx import types
from mdx.samplers import trajectory
from mdx.utils import files

_TEMPLATE = pathlib.Path(__file__).with_name("denoising.html")
_MAX_BYTES = 2_000_000
_LONGEST = {"prompt": 4000, "title": 200, "note": 200, "setting": 500}  # characters


class Trace(NamedTuple):
  """One decoded row: F frames of G positions.

  Attributes:
    prompt: text before the generated positions.
    frames: int32 [F, G], the canvas before each step, then the final text.
    confidence: float32 [F, G], with which each token shown was last decoded; NaN where
      masked, given or not known.
    title: of the row.
    notes: one line a frame, or none.
    is_given: bool [G], tokens fixed by the user, or None.
    predictions: int32 [F - 1, G], what the model said at each masked position of a frame
      (other entries are not read), or None.
    example: traces of one example that follow one another are shown side by side; "": alone.
    lines, box: of the final answer, as `types.Drawing` has them; (): running text.
    is_wrong: bool [F, G], tokens that break a rule of the task, or None.
    is_right: verdict on the final answer, or None.
  """
  prompt: str
  frames: np.ndarray
  confidence: np.ndarray
  title: str = ""
  notes: tuple[str, ...] = ()
  is_given: np.ndarray | None = None
  predictions: np.ndarray | None = None
  example: str = ""
  lines: tuple[tuple[int, ...], ...] = ()
  box: int = 0
  is_wrong: np.ndarray | None = None
  is_right: bool | None = None


class Changes(NamedTuple):
  """Changes by the step before each frame; bool or int32 [F, G], nothing in frame 0.

  Attributes:
    is_written, is_replaced, is_remasked: see the module.
    step: after which the token shown has stood; 0 from the start, -1 if masked.
    revisions: times a token of this position was replaced or masked again so far.
  """
  is_written: np.ndarray
  is_replaced: np.ndarray
  is_remasked: np.ndarray
  step: np.ndarray
  revisions: np.ndarray


def _check(trace: Trace) -> None:
  shape = np.shape(trace.frames)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(f"frames must be [F, G] with a frame and a place at least, got {shape}.")
  wanted = {"confidence": shape, "is_given": shape[1:], "predictions": (shape[0] - 1, shape[1]),
            "is_wrong": shape}
  for name, expected in wanted.items():
    value = getattr(trace, name)
    if (value is not None or name == "confidence") and np.shape(value) != expected:
      raise ValueError(f"{name} must be {expected} for frames {shape}, got {np.shape(value)}.")
  if trace.lines and sorted(i for line in trace.lines for i in line) != list(range(shape[1])):
    raise ValueError(f"lines must have each of {shape[1]} positions once, got {trace.lines}.")
  if trace.notes and len(trace.notes) != shape[0]:
    raise ValueError(f"notes must be one a frame ({shape[0]}) or none, got {len(trace.notes)}.")


def changes(trace: Trace, mask_id: int) -> Changes:
  """Finds what each step did.

  Raises: ValueError if the fields of the trace do not fit each other.
  """
  _check(trace)
  frames = np.asarray(trace.frames)
  old, new = frames[:-1], frames[1:]
  pad = lambda x: np.concatenate([np.zeros_like(x, shape=(1, x.shape[1])), x])
  differs = old != new
  is_written = pad(differs & (old == mask_id))
  is_remasked = pad(differs & (new == mask_id))
  is_replaced = pad(differs) & ~is_written & ~is_remasked
  steps = np.where(pad(differs), np.arange(len(frames))[:, None], 0)
  step = np.where(frames == mask_id, -1, np.maximum.accumulate(steps, axis=0))
  revisions = np.cumsum(is_replaced | is_remasked, axis=0)
  return Changes(is_written, is_replaced, is_remasked, step.astype(np.int32),
                 revisions.astype(np.int32))


def from_trajectory(record: trajectory.Trajectory, row: int, mask_id: int, *, prompt: str = "",
                    title: str = "", notes: Sequence[str] = ()) -> Trace:
  """One row of a record with canvases (host arrays).

  Raises: ValueError if the record has none.
  """
  if record.canvas is None:
    raise ValueError('a trace needs the canvas of every step; record "canvas" or "full".')
  frames, confidence = trajectory.frames(record, row, mask_id)
  predictions = None if record.prediction is None else np.asarray(
      record.prediction[row][:len(frames) - 1])
  return Trace(prompt, frames, confidence, title, tuple(notes),
               ~np.asarray(record.is_free[row], bool), predictions)


def drawn(trace: Trace, task: Any, example: Mapping[str, Any], token_text: Callable[[int], str],
          mask_id: int) -> Trace:
  """The trace with its answer as the task draws it; unchanged if it does not.

  Args:
    trace: of an answer.
    task: `types.Shown`, or any other.
    example: of the task.
    token_text: text of a token id.
    mask_id: id of the mask.
  """
  if not isinstance(task, types.Shown):
    return trace
  text = functools.cache(token_text)
  drawings = [task.render(example, [None if i == mask_id else text(i) for i in frame])
              for frame in np.asarray(trace.frames).tolist()]
  if any(drawing is None for drawing in drawings):
    return trace
  return trace._replace(lines=drawings[-1].lines, box=drawings[-1].box,
                        is_wrong=np.array([drawing.is_wrong for drawing in drawings], bool))


def even(num: int, most: int) -> np.ndarray:
  """At most `most` of range(num), evenly spaced, with the first and the last."""
  if num <= most:
    return np.arange(num)
  return np.unique(np.round(np.linspace(0, num - 1, max(most, 2))).astype(int))


def visible(text: str) -> str:
  """The text on one line, every character printable and inert in a terminal."""
  names = {"\n": "\u21b5", "\t": "\u2192"}
  shown = lambda c: c if c == " " or unicodedata.category(c)[0] not in "CZ" else "\ufffd"
  return "".join(names.get(c) or shown(c) for c in text)


def _clip(text: Any, kind: str) -> str:
  text, most = str(text), _LONGEST[kind]
  if len(text) <= most:
    return text
  return f"{text[:most // 2]} [... {len(text) - most} characters left out ...] {text[-most // 2:]}"


def _script_json(value: Any) -> str:
  """JSON in ASCII that is inert inside a script element, whatever its strings hold."""
  text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
  # U+2028, U+2029 and lone surrogates are escaped by ensure_ascii.
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _deltas(tokens: np.ndarray, confidence: np.ndarray | None = None) -> list[list[int | None]]:
  """Changes of each frame: gap to the last changed position, token, confidence if not masked.

  The frame before the first is all masks (0).
  """
  old = np.concatenate([np.zeros_like(tokens[:1]), tokens[:-1]])
  differs = tokens != old
  values = None
  if confidence is not None:
    is_known = np.isfinite(confidence) & (tokens != 0)
    values = np.where(is_known, np.round(1000.0 * np.where(is_known, confidence, 0.0)), np.inf)
    before = np.concatenate([np.full_like(values[:1], np.inf), values[:-1]])
    differs |= values != before
  result = []
  for f, is_changed in enumerate(differs):
    places = np.flatnonzero(is_changed)
    gaps = np.diff(places, prepend=-1).tolist()
    new = tokens[f, places].tolist()
    if values is None:
      result.append([x for pair in zip(gaps, new) for x in pair])
      continue
    rated = [None if v == np.inf else int(v) for v in values[f, places].tolist()]
    result.append([x for g, t, c in zip(gaps, new, rated) for x in ((g, t, c) if t else (g, 0))])
  return result


def _row(trace: Trace, ids: np.ndarray, order: np.ndarray, mask_id: int, max_frames: int,
         with_predictions: bool) -> dict[str, Any]:
  local = lambda tokens: order[np.searchsorted(ids, tokens)]
  frames = np.asarray(trace.frames)
  kept = even(len(frames), max_frames)
  guesses = None
  if with_predictions and trace.predictions is not None:
    guesses = np.where(frames[:-1] == mask_id, local(np.asarray(trace.predictions)), 0)
    for f in range(1, len(guesses)):  # what is not read repeats, which costs nothing
      guesses[f] = np.where(frames[f] == mask_id, guesses[f], guesses[f - 1])
    guesses = _deltas(guesses[kept[:-1]]) if len(kept) == len(frames) else None
  given = np.flatnonzero(trace.is_given).tolist() if trace.is_given is not None else []
  return {
      "title": _clip(trace.title, "title"), "prompt": _clip(trace.prompt, "prompt"),
      "length": frames.shape[1], "steps": kept.tolist(), "given": given,
      "frames": _deltas(local(frames[kept]), np.asarray(trace.confidence)[kept]),
      "notes": [_clip(trace.notes[f], "note") for f in kept] if trace.notes else None,
      "predictions": guesses, "example": _clip(trace.example, "title"),
      "lines": [list(line) for line in trace.lines], "box": trace.box,
      "wrong": [np.flatnonzero(x).tolist() for x in trace.is_wrong[kept]]
               if trace.is_wrong is not None else None,
      "right": trace.is_right}


def scale(traces: Sequence[Trace]) -> list[float]:
  """Ends of the colour scale: 0 and 1, unless some confidence is no probability."""
  finite = np.concatenate([c[np.isfinite(c)] for c in (np.asarray(t.confidence) for t in traces)])
  if not len(finite) or (finite.min() >= 0 and finite.max() <= 1 + 1e-6):
    return [0, 1]
  low, high = round(float(finite.min()), 3), round(float(finite.max()), 3)
  return [low, high if high > low else low + 1]


def _fit(traces: Sequence[Trace], vocabulary: tuple[np.ndarray, np.ndarray], mask_id: int,
         max_bytes: int) -> tuple[str, list[str]]:
  """Rows as JSON of at most `max_bytes`, and what was cut for it, least missed first."""
  has_predictions = any(t.predictions is not None for t in traces)
  with_predictions, num_rows = has_predictions, len(traces)
  longest = max_frames = max(len(t.frames) for t in traces)
  while True:
    text = _script_json([_row(t, *vocabulary, mask_id, max_frames, with_predictions)
                         for t in traces[:num_rows]])
    if len(text) <= max_bytes:
      break
    share = 0.95 * max_bytes / len(text)
    if with_predictions:
      with_predictions = False
    elif max_frames > 2:
      max_frames = max(2, int(max_frames * share))
    elif num_rows > 1:
      num_rows = max(1, int(num_rows * share))
    else:
      raise ValueError(f"two frames of {len(traces[0].frames[0])} places need {len(text)} bytes, "
                       f"but {max_bytes} are left to the rows; raise max_bytes.")
  cuts = []
  if has_predictions and not with_predictions:
    cuts.append("The predictions of the masks are left out.")
  if max_frames < longest:
    cuts.append(f"At most {max_frames} of up to {longest} frames a row are shown, evenly spaced: "
                "what happened between two of them is shown as one change.")
  if num_rows < len(traces):
    cuts.append(f"{num_rows} of {len(traces)} rows are shown.")
  return text, cuts


def html(traces: Sequence[Trace], token_text: Callable[[int], str], mask_id: int,
         heading: str = "", settings: Mapping[str, Any] | None = None, *,
         max_bytes: int = _MAX_BYTES) -> tuple[str, tuple[str, ...]]:
  """Makes a page that plays decodes and loads nothing else.

  Texts reach the page as JSON and from there as text nodes; its content security policy
  allows no script but its own and no connection.

  Args:
    traces: the rows, one at least.
    token_text: text of a token id.
    mask_id: id of the mask; an id that does not occur if there is none.
    heading: of the page.
    settings: shown as name = value.
    max_bytes: of the data (half of it at least is left to the rows, however long the
      token texts are); confidences are kept to 0.001.

  Returns: the page, and what was cut to stay within `max_bytes`, one sentence each.

  Raises: ValueError if there is no trace or one's fields do not fit each other.
  """
  if not traces:
    raise ValueError("a page needs one trace at least.")
  for trace in traces:
    _check(trace)
  arrays = [x for t in traces for x in (t.frames, t.predictions) if x is not None]
  ids, counts = np.unique(np.concatenate([np.ravel(x) for x in arrays] + [[mask_id]]),
                          return_counts=True)
  # The mask is 0, then the shortest numbers for the most frequent tokens.
  ranked = np.argsort(np.where(ids == mask_id, -np.inf, -counts), kind="stable")
  order = np.argsort(ranked)
  listed = ids[ranked].tolist()
  head = _script_json({
      "heading": _clip(heading, "title"), "scale": scale(traces), "ids": listed,
      "settings": [[_clip(k, "setting"), _clip(v, "setting")] for k, v in (settings or {}).items()],
      "texts": [""] + [token_text(i) for i in listed[1:]]})
  rows, cuts = _fit(traces, (ids, order), mask_id, max(max_bytes - len(head), max_bytes // 2))
  data = f'{head[:-1]},"cuts":{_script_json(cuts)},"rows":{rows}}}'
  page = _TEMPLATE.read_text(encoding="utf-8")
  script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  before, after = page.replace("@script_hash@", f"sha256-{digest}").split("@data@")
  return before + data + after, tuple(cuts)


def write_html(path: str | os.PathLike, *args: Any, **options: Any) -> tuple[str, ...]:
  """Writes the page of `html` into a file; returns what was cut."""
  page, cuts = html(*args, **options)
  files.write_text(path, page, newline="\n")
  return cuts
