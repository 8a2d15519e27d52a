"""Batches of canvases, made from prompts.

Contents: Rows, behind_padding, cut_starts, batches.

Convention: prompts are padded on the left to the longest of their batch, rounded up so that few
shapes are compiled: to a power of two, at least 64, or to a multiple of 16 of those that are
infilled. Positions count from the first token and padding is a segment of its own. A prompt that
holds the mask id is infilled: it is the whole canvas, and nothing is appended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_ROUND = 16  # canvases that are infilled have multiples of this length
_LEAST = 64  # positions of the shortest prompt


class Rows(NamedTuple):
  """One batch to decode.

  Attributes:
    canvas: int32 [B, S].
    positions, segment_ids: int32 [B, S], or None where no prompt has a token.
    start: first position of what is decoded.
    row_index: int32 [B], identity of each row.
    members: indices into the prompts, of the first rows; the others only fill the batch.
    lengths: tokens of each member that belong to it, counted from the end.
    num_closing: tokens at the end of the canvas that stand behind what is decoded.
  """
  canvas: np.ndarray
  positions: np.ndarray | None
  segment_ids: np.ndarray | None
  start: int
  row_index: np.ndarray
  members: list[int]
  lengths: list[int]
  num_closing: int = 0


def behind_padding(begins: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Positions and segments, int32 [B, size], of rows that begin at `begins` [B], after padding."""
  index = np.arange(size, dtype=np.int32)[None]
  begins = np.asarray(begins, np.int32)[:, None]
  return np.maximum(index - begins, 0), (index >= begins).astype(np.int32)


def cut_starts(prompts: Sequence[np.ndarray], start_id: int
               ) -> tuple[Sequence[np.ndarray], np.ndarray | None]:
  """Prompts without the first token of each, and these tokens int32 [N].

  Args:
    prompts: int32 [n] each.
    start_id: `Reader.start_id`, the first token of an empty prompt; -1: rows do not begin with a
      token of their own, and the prompts stay as they are, with None.
  """
  if start_id < 0:
    return prompts, None
  return [prompt[1:] for prompt in prompts], np.array(
      [prompt[0] if len(prompt) else start_id for prompt in prompts], np.int32)


def batches(prompts: Sequence[np.ndarray], *, gen_length: int, batch_size: int, mask_id: int,
            pad_id: int, max_length: int,
            closing: Sequence[int] = ()) -> Iterator[Rows]:
  """Yields batches of similar rows.

  Args:
    prompts: int32 [n] each; the index of a prompt is the identity of its row.
    gen_length: tokens appended to a prompt without masks.
    batch_size: rows of a batch.
    mask_id, pad_id: special ids.
    max_length: positions of the network, which rounding up does not exceed.
    closing: ids that stand behind what is appended to a prompt.
  """
  for infill in (False, True):
    chosen = [i for i, p in enumerate(prompts) if bool((p == mask_id).any()) == infill]
    chosen.sort(key=lambda i: len(prompts[i]))
    for first in range(0, len(chosen), batch_size):
      yield _batch(prompts, chosen[first:first + batch_size], 0 if infill else gen_length,
                   batch_size, mask_id, pad_id, max_length, () if infill else closing)


def _batch(prompts, members, gen_length, batch_size, mask_id, pad_id, max_length, closing):
  lengths = [len(prompts[i]) for i in members]
  longest, end = max(lengths), gen_length + len(closing)
  if gen_length:
    width = longest and max(_LEAST, 1 << (longest - 1).bit_length())
  else:
    width = -(-longest // _ROUND) * _ROUND
  width = max(longest, min(width, max_length - end))
  size = width + end
  canvas = np.full((batch_size, size), pad_id, np.int32)
  begins = np.zeros(batch_size, np.int32)
  for row, i in enumerate(members):
    begin = width - len(prompts[i])
    canvas[row, begin:width], canvas[row, width:] = prompts[i], mask_id
    canvas[row, width + gen_length:] = closing
    begins[row] = begin
  positions, segments = behind_padding(begins, size)
  index = np.zeros(batch_size, np.int32)
  index[:len(members)] = members
  return Rows(canvas, positions if width else None, segments if width else None,
              width if gen_length else 0, index, list(members), [n + end for n in lengths],
              len(closing))
