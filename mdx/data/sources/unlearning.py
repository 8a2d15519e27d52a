"""Files of rows to forget and of rows to keep.

Contents: Unlearning.

Reference: Maini et al. 2024, arXiv:2401.06121 (TOFU), whose files have questions and answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mdx import config as config_lib
from mdx.data import forget_sets
from mdx.data import source
from mdx.data.prepared import anchors as anchors_lib
from mdx.utils import readers

_PAIRS = (("question", "answer"), ("prompt", "answer"), ("prompt", "completion"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlearning(source.Source):
  """Files of rows to forget and of rows to keep, one JSON object a line.

  A line has `text`; or `question` and `answer`, as in TOFU; or `prompt` and `answer` or
  `completion`. Without `retain_path` every line says its set: `"set": "forget"` or "retain".

  Attributes:
    path: files of the rows to forget, or of both.
    retain_path: files of the rows to keep; None: `path` has them.
    anchors: JSON file {expression: generic replacement}; None: there are no anchors.
    template: how a `question` is written as a prompt.
    holdout_every: one row to keep in this many is for validation; 0: all are for both.
    part: "" = pairs for unlearning; "all", "forget" or "retain": the rows of both sets or of one,
      to train the model that is to forget, a reinforced one, or one that has never seen the rows.
  """

  layout = "unlearning"
  in_memory = True
  path: str | Sequence[str]
  retain_path: str | Sequence[str] | None = None
  anchors: str | None = None
  template: str = "Question: {question}\nAnswer: "
  holdout_every: int = 20
  part: str = ""

  def __post_init__(self):
    config_lib.check(self, "data.source", choices=dict(part=forget_sets.PARTS))
    if self.template.count("{question}") != 1:
      raise ValueError(f"data.source.template must have {{question}} once, got {self.template!r}.")
    object.__setattr__(self, "path", source.find(self.path))
    if self.retain_path is not None:
      object.__setattr__(self, "retain_path", source.find(self.retain_path))
    if self.part:
      object.__setattr__(self, "layout", "answered")

  def paths(self, split):
    """The files."""
    del split
    return (*self.path, *(self.retain_path or ()))

  @functools.cached_property
  def _sets(self) -> forget_sets.Sets:
    found = {"forget": [], "retain": []}
    for path in self.path:
      for where, row in readers.json_rows(path):
        found["forget" if self.retain_path else _set_of(row, where)].append(self._row(row, where))
    for path in self.retain_path or ():
      found["retain"] += [self._row(row, where) for where, row in readers.json_rows(path)]
    retain = found["retain"]
    held_out = retain
    if self.holdout_every and retain:
      retain, held_out = (list(source.hold_out(retain, self.holdout_every, split, "rows to keep"))
                          for split in source.SPLITS)
    anchors = anchors_lib.read(self.anchors) if self.anchors else None
    return forget_sets.sets(found["forget"], retain, held_out, anchors)

  def _row(self, row: Any, where: str) -> dict[str, Any]:
    """A line as a row; ValueError for one that is none."""
    if isinstance(row, dict) and "text" in row:
      prompt, answer = "", row["text"]
    else:
      names = next((names for names in _PAIRS if isinstance(row, dict) and set(names) <= set(row)),
                   None)
      if names is None:
        raise ValueError(f"{where}: expected `text`, or `question` or `prompt` with `answer` or "
                         f"`completion`, got {row!r:.60}.")
      prompt, answer = (row[name] for name in names)
      if names[0] == "question" and isinstance(prompt, str):
        prompt = self.template.replace("{question}", prompt)
    if not isinstance(prompt, str) or not isinstance(answer, str) or not answer.strip():
      raise ValueError(f"{where}: expected texts, and an answer that is not empty, got "
                       f"{row!r:.60}.")
    return {"prompt": prompt, "answer": answer, "blank": "", "where": where}

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the records of "train" or "validation"."""
    return self._sets.records(split, self.part)

  def probes(self, split: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Returns prompts with their answers, of the rows to forget and of those held out."""
    del split
    return self._sets.probes()


def _set_of(row: Any, where: str) -> str:
  """Which set a line says that it belongs to."""
  name = row.get("set") if isinstance(row, dict) else None
  if name not in forget_sets.SETS:
    raise ValueError(f"{where}: expected \"set\": \"forget\" or \"retain\", got {name!r:.40}; say "
                     "so in every line, or set data.source.retain_path.")
  return name
