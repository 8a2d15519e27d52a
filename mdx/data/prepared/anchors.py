"""Anchors: expressions of a text that must be forgotten, each with a generic replacement.

Contents: Span, read, translate, Aligned, align.

An expression is replaced by the same one wherever it stands. The tokens of the text and of its
translation are aligned by their characters, so that a prediction for the one is found in the other.

Convention: an expression is found as a whole word where it begins or ends with a letter or a digit;
where several begin at one place the longest is taken.

Reference: Eldan and Russinovich 2023, arXiv:2310.02238 (Who's Harry Potter).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdx import assets
from mdx.utils import readers


class Span(NamedTuple):
  """An occurrence of an anchor, in characters of a text and of its translation.

  Attributes:
    start, stop: in the text.
    new_start, new_stop: of the replacement.
    is_repeat: whether the same expression stands before it.
  """
  start: int
  stop: int
  new_start: int
  new_stop: int
  is_repeat: bool


class Aligned(NamedTuple):
  """Tokens of a text beside those of its translation.

  Attributes:
    index: int32 [n], of each token of the text the token of the translation that stands for it; -1:
      none, or an anchor that stands there again.
    origin: int32 [m], of each token of the translation the token of the text that it comes from.
    replaced: int32 [n], at the first token of an anchor, the id that begins its replacement, else
      -1.
  """
  index: np.ndarray
  origin: np.ndarray
  replaced: np.ndarray


def read(path: str | os.PathLike) -> dict[str, str]:
  """Reads {expression: generic replacement} from a JSON file.

  Raises:
    ValueError: no such file, no such dictionary, or a replacement that is an anchor itself.
  """
  where = os.fspath(path)
  found = readers.parse_json(readers.read_text(os.fspath(assets.resolve(path))), where,
                             'write an object {"expression": "replacement", ...}')
  return check(found, where)


def check(found: Any, where: str) -> dict[str, str]:
  """Returns anchors; raises ValueError for what is no dictionary of them."""
  if not isinstance(found, dict) or not found:
    raise ValueError(f"{where}: expected an object {{\"expression\": \"replacement\"}} with one "
                     f"entry or more, got {found!r:.60}.")
  for name, other in found.items():
    if not name.strip() or not isinstance(other, str) or not other.strip():
      raise ValueError(f"{where}: expected texts that are not empty, got {name!r:.40}: "
                       f"{other!r:.40}.")
  pattern = _pattern(found)
  for name, other in found.items():
    if again := pattern.search(other):
      raise ValueError(f"{where}: the replacement {other!r:.40} of {name!r:.40} has the anchor "
                       f"{again[0]!r:.40} in it; give one that is generic.")
  return dict(found)


def _pattern(anchors: Mapping[str, str]) -> re.Pattern[str]:
  """Matches any anchor, the longest first."""
  def one(text):
    before = r"(?<!\w)" if re.match(r"\w", text) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", text) else ""
    return before + re.escape(text) + after
  return re.compile("|".join(map(one, sorted(anchors, key=lambda x: (-len(x), x)))))


def translate(text: str, anchors: Mapping[str, str], seen: set[str]) -> tuple[str, list[Span]]:
  """Replaces every anchor.

  Args:
    text: any.
    anchors: expression -> replacement; {} changes nothing.
    seen: anchors that stood before the text; those in it are added.

  Returns:
    The translation, and where the anchors stand, in their order.
  """
  pieces, spans, place, size = [], [], 0, 0
  for match in _pattern(anchors).finditer(text) if anchors else ():
    pieces += [text[place:match.start()], anchors[match[0]]]
    size += match.start() - place
    spans.append(Span(match.start(), match.end(), size, size + len(pieces[-1]), match[0] in seen))
    size, place = size + len(pieces[-1]), match.end()
    seen.add(match[0])
  return "".join([*pieces, text[place:]]), spans


def align(spans: Sequence[Span], offsets: np.ndarray, new_offsets: np.ndarray,
          new_tokens: np.ndarray) -> Aligned:
  """Aligns the tokens of a text with those of its translation.

  The first tokens of an anchor and of its replacement correspond; further ones of an anchor
  have no counterpart. Elsewhere tokens correspond that cover the same characters.

  Args:
    spans: of `translate`.
    offsets: int [n, 2], first and last character (half open) of each token of the text.
    new_offsets: int [m, 2], likewise of the translation.
    new_tokens: int32 [m], its ids.
  """
  index, replaced = (np.full(len(offsets), -1, np.int32) for _ in range(2))
  origin = np.zeros(len(new_offsets), np.int32)
  owner = _spans_of(offsets, [(s.start, s.stop) for s in spans])
  new_owner = _spans_of(new_offsets, [(s.new_start, s.new_stop) for s in spans])
  moved = lambda place: place + sum(
      (s.new_stop - s.new_start) - (s.stop - s.start) for s in spans if s.stop <= place)
  places = {(int(a), int(b)): j for j, (a, b) in enumerate(new_offsets) if new_owner[j] < 0}
  for i, (start, stop) in enumerate(offsets):
    if owner[i] < 0:
      index[i] = places.get((moved(start), moved(stop)), -1)
  for number, span in enumerate(spans):
    old, new = np.flatnonzero(owner == number), np.flatnonzero(new_owner == number)
    if old.size and new.size:
      replaced[old[0]] = new_tokens[new[0]]
      index[old[0]] = -1 if span.is_repeat else new[0]
      origin[new] = old[0]
  outside = np.flatnonzero(owner < 0)
  starts = np.array([moved(start) for start, _ in offsets[outside]])
  for j in np.flatnonzero(new_owner < 0) if outside.size else ():
    origin[j] = outside[max(np.searchsorted(starts, new_offsets[j, 0], side="right") - 1, 0)]
  return Aligned(index, origin, replaced)


def _spans_of(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
  """Number of the first span that each token overlaps, int [n], -1 = none."""
  found = np.full(len(offsets), -1)
  for number, (start, stop) in reversed(list(enumerate(spans))):
    found[(offsets[:, 0] < stop) & (offsets[:, 1] > start)] = number
  return found
