"""Two sets of rows: those to forget and those to keep.

Contents: PARTS, SETS, Sets, sets.

Convention: a row is {"prompt", "answer", "blank", "where"}. A record of training has a row to
forget and one to keep; the shorter set is repeated, so that a pass sees every row of the longer one
once. A record of validation has the next row of either set, or None behind its end: all rows to
forget, which are what is to be forgotten, and the rows to keep that are held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdx.data import source

PARTS = ("", "all", "forget", "retain")
Rows = Sequence[Mapping[str, Any]]
SETS = ("forget", "retain")


class Sets(NamedTuple):
  """The two sets.

  Attributes:
    forget: rows to forget.
    retain: rows to keep, of training.
    held_out: rows to keep, of validation.
    anchors: expression -> generic replacement; {} = none.
  """
  forget: Rows
  retain: Rows
  held_out: Rows
  anchors: Mapping[str, str]

  def records(self, split: str, part: str) -> tuple[dict[str, Any], ...]:
    """Returns the records of a split: of both sets, or of one `part` as rows with an answer."""
    is_validation = source.is_validation(split)
    if part:
      rows = {"forget": self.forget, "retain": self.held_out if is_validation else self.retain}
      return tuple(dict(row) for name in (SETS if part == "all" else (part,))
                   for row in rows[name])
    if is_validation:
      pairs = itertools.zip_longest(self.forget, self.held_out)
    else:
      size = max(len(self.forget), len(self.retain))
      pairs = ((self.forget[i % len(self.forget)], self.retain[i % len(self.retain)])
               for i in range(size))
    return tuple({"forget": forget, "retain": retain, "anchors": self.anchors,
                  "where": " and ".join(x["where"] for x in (forget, retain) if x)}
                 for forget, retain in pairs)

  def probes(self) -> dict[str, list[tuple[str, str]]]:
    """(prompt, answer) of each set; a text without a prompt is cut in the middle."""
    halved = lambda words: (" ".join(words[:len(words) // 2]), " ".join(words[len(words) // 2:]))
    pair = lambda row: ((row["prompt"], row["answer"]) if row["prompt"] else
                        halved(row["answer"].split(" ")))
    return {name: [pair(row) for row in rows]
            for name, rows in (("forget", self.forget), ("retain", self.held_out)) if rows}


def sets(forget: Rows, retain: Rows, held_out: Rows, anchors: Mapping[str, str] | None = None
         ) -> Sets:
  """Checks two sets.

  Raises:
    ValueError: an empty set, or a row of both.
  """
  words = lambda row: " ".join(f"{row['prompt']} {row['answer']}".split()).casefold()
  kept = {words(row): row["where"] for row in (*held_out, *retain)}
  for row in forget:
    if (other := kept.get(words(row))) is not None:
      raise ValueError(f"{row['where']} is to be forgotten, and {other} with the same text "
                       f"{words(row)!r:.60} is to be kept; take it out of one of the sets.")
  for name, rows in (("forget", forget), ("keep", retain)):
    if not rows:
      raise ValueError(f"there are no rows to {name}; give some in path or retain_path, or say "
                       '"set": "forget" or "retain" in every line of path.')
  return Sets(forget, retain, held_out, anchors or {})
