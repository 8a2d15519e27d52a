"""Plain text.

Contents: Text, files_of.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from mdx.data.sources import files
from mdx.data.sources import pairs
from mdx.utils import readers


_ENDINGS = (".txt", ".txt.xz", ".txt.gz")


def files_of(folder: str) -> list[str]:
  """The text files in a folder and in those below it, sorted; ValueError if there is none."""
  found = sorted(str(path) for path in pathlib.Path(folder).rglob("*")
                 if path.name.endswith(_ENDINGS) and path.is_file())
  if not found:
    raise ValueError(f"no {', '.join(_ENDINGS)} file in {folder}; correct the path, or name the "
                     "files, such as 'folder/*'.")
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(files.Files):
  """Plain UTF-8 text (or .xz, .gz), or a folder of .txt files, cut into documents at line ends.

  The documents joined are the file, character for character. A document has at most
  `document_chars` characters unless a single line is longer. Read into memory; for
  more than a few hundred megabytes use jsonl, parquet or array_record.

  With `section_marks` a new document begins at the first occurrence of each of these strings, and
  the label of a document is the number of the last one before it.
  """

  layout = "text"
  in_memory = True
  files_of = staticmethod(files_of)
  document_chars: int = 4000
  section_marks: Sequence[str] = ()

  def _read(self, paths):
    if self.document_chars < 1:
      raise ValueError(f"document_chars must be positive, got {self.document_chars}.")
    return tuple({"text": document, **label} for path in paths
                 for text, label in self._sections(readers.read_text(path))
                 for document in readers.cut(text, self.document_chars))

  def _sections(self, text):
    """The text in sections that begin with the marks, each with its label."""
    if not self.section_marks:
      return [(text, {})]
    firsts = [text.find(mark) for mark in self.section_marks]
    if min(firsts) < 0 or sorted(firsts) != firsts:
      raise ValueError("section_marks must all occur in the text, in this order; look for "
                       f"{self.section_marks[firsts.index(min(firsts))]!r}.")
    cuts = [*firsts, len(text)]
    found = [(text[a:b], {"label": i}) for i, (a, b) in enumerate(zip(cuts, cuts[1:]))]
    return ([(text[:firsts[0]], {"label": 0})] if firsts[0] else []) + found

  def documents(self, split: str) -> list[pairs.Document]:
    """Lines are paragraphs."""
    return [[found for line in readers.lines(record["text"])
             if (found := pairs.sentences_of(line))] for record in self.records(split)]
