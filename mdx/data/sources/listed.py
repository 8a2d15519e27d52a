"""Texts with ids, in the order of a file: what is embedded and searched.

Contents: Listed, read.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from mdx.data.sources import labelled
from mdx.utils import readers


class Listed(NamedTuple):
  """Texts of a file.

  Attributes:
    ids: of each, none twice.
    texts: of each, none empty.
  """
  ids: list[str]
  texts: list[str]


def read(path: str, *, field: str, id_field: str = "", has_header: bool = True) -> Listed:
  """Reads a .txt (a text a line), .csv, .tsv or .jsonl file (also .gz, .xz).

  Args:
    path: the file.
    field: column with the texts.
    id_field: column with the ids; "" = the rows are numbered from 0, as those of a .txt are.
    has_header: whether the first line of a .csv or .tsv names the columns.

  Raises:
    ValueError: no such file or column, an empty text, an id that occurs twice, or no rows.
  """
  base, ending = os.path.splitext(path)
  ending = os.path.splitext(base)[1] if ending in (".xz", ".gz") else ending
  if ending == ".txt":
    lines = [line for line in readers.lines(readers.read_text(path)) if line.strip()]
    found = [(f"{path}, text {i}", str(i), line) for i, line in enumerate(lines)]
  else:
    fields = (field, id_field) if id_field else (field,)
    records = labelled.table_records(path, fields=fields, label="", has_header=has_header)
    found = [(r["where"], r["texts"][1] if id_field else str(i), r["texts"][0])
             for i, r in enumerate(records)]
  first: dict[str, str] = {}
  for where, own, text in found:
    if not text.strip():
      raise ValueError(f"{where}: the text is empty; correct the row, or take it out.")
    if own in first:
      raise ValueError(f"{where}: the id {own!r} is also that of {first[own]}; every row needs one "
                       "of its own.")
    first[own] = where
  if not found:
    raise ValueError(f"{path} has no rows; give texts to embed.")
  return Listed([own for _, own, _ in found], [text for _, _, text in found])
