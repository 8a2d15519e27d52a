"""Decoded rows, and how a notebook shows them.

Contents: Sample, Samples, Step, until.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mdx.report import denoising

_FRAME = ('<iframe sandbox="allow-scripts" style="width:100%;height:32em;border:0" '
          'title="denoising" srcdoc="{}"></iframe>')


class Sample(NamedTuple):
  """One decoded row.

  Attributes:
    prompt_tokens: int32 [n], as given.
    tokens: int32 [gen_length], the answer; of an infilled prompt all its n tokens.
    text: the answer as text, up to the first end-of-text or stop string.
    nfe: network calls this row needed.
    seconds: its share of the wall time of its batch, without compilation.
    trace: the canvas step by step, for `report.denoising`, or None.
  """
  prompt_tokens: np.ndarray
  tokens: np.ndarray
  text: str
  nfe: int
  seconds: float
  trace: denoising.Trace | None


class Step(NamedTuple):
  """A row after a denoising step.

  Attributes:
    row: its number among the rows.
    nfe: steps of it until now.
    text: the answer so far, with a sign at masked positions; of an infilled prompt all of it.
    tokens: int32 [gen_length], the same as ids.
  """
  row: int
  nfe: int
  text: str
  tokens: np.ndarray


class Samples(list[Sample]):
  """Rows in their order; a notebook plays their denoising, or lists the texts without a record."""

  def __init__(self, rows: Sequence[Sample], token_text: Callable[[int], str], mask_id: int):
    """Keeps what the viewer needs of the tokenizer."""
    super().__init__(rows)
    self._token_text, self._mask_id = token_text, mask_id

  def _repr_html_(self) -> str:
    traces = [row.trace for row in self if row.trace is not None]
    if traces:
      page, _ = denoising.html(traces, self._token_text, self._mask_id, heading="samples")
      return _FRAME.format(html.escape(page, quote=True))
    return "".join(f"<pre>{html.escape(row.text)}</pre>" for row in self)


def until(text: str, stops: str | Sequence[str] | None) -> str:
  """The text before the first of some strings."""
  stops = [stops] if isinstance(stops, str) else stops or []
  return text[:min((text.find(s) for s in stops if s and s in text), default=len(text))]
