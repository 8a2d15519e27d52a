"""Text for people, on the first process of a job.

Contents: say, table, wrapped.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import jax


def say(text: str) -> None:
  """Prints on the first process only; in a terminal no word is broken at its edge."""
  if jax.process_index() == 0:
    print(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text,
          flush=True)


def table(lines: Sequence[Sequence[tuple[str, str]]]) -> None:
  """Prints lines of (text, style of rich), on the first process only.

  Colours are left out where the output is no terminal or NO_COLOR is set.
  """
  if jax.process_index() == 0:
    from rich import console, text  # pylint: disable=g-import-not-at-top
    # In a notebook too it is text: rich would make a page of every line.
    out = console.Console(force_jupyter=False)
    for line in lines:
      out.print(text.Text.assemble(*line), soft_wrap=True, highlight=False)
    sys.stdout.flush()


def wrapped(text: str, width: int) -> str:
  """The text with its longer lines broken between words; a word as long as a line stays whole."""
  lines = []
  for line in text.split("\n"):
    inset = " " * (len(line) - len(line.lstrip()) + 2)
    lines += [line] if len(line) <= width else textwrap.wrap(
        line, max(width, 20), subsequent_indent=inset, replace_whitespace=False,
        break_long_words=False, break_on_hyphens=False)
  return "\n".join(lines)
