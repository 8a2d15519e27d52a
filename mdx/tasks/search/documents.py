"""Documents of a corpus that is searched.

Contents: Document, read, of_contexts, words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from mdx.utils import readers


class Document(NamedTuple):
  """A text that a search may find.

  Attributes:
    id: of its own.
    title: searched too; "" = none.
    text: shown to the model.
  """
  id: str
  title: str
  text: str

  @property
  def shown(self) -> str:
    """The text behind its title, if it does not begin with it."""
    has_title = not self.title or self.text.startswith(self.title)
    return self.text if has_title else f"{self.title}: {self.text}"


def read(path: str) -> list[Document]:
  """Reads a corpus: one {"id", "text"} a line of jsonl (also .gz, .xz), and "title" where it is.

  Raises:
    ValueError: no such file, a document without an id, or two of one id.
  """
  if not os.path.isfile(path):
    raise ValueError(f"corpus {path!r} is not a file; give a .jsonl file with one {{\"id\": ..., "
                     "\"text\": ...} a line.")
  found: dict[str, Document] = {}
  for where, row in readers.json_rows(path):
    own = row.get("id", row.get("_id"))
    if isinstance(own, bool) or not isinstance(own, (str, int)):
      raise ValueError(f"{where}: a document has no id but {', '.join(row) or 'nothing'}; every "
                       "document of a corpus needs an \"id\" of its own.")
    title, text = row.get("title", ""), row.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
      raise ValueError(f"{where}: expected texts in \"text\" and \"title\", got {text!r:.40} and "
                       f"{title!r:.40}; correct the document.")
    if str(own) in found:
      raise ValueError(f"{where}: the id {own!r} is that of an earlier document too; every one "
                       "needs an id of its own.")
    found[str(own)] = Document(str(own), title, text)
  if not found:
    raise ValueError(f"corpus {path!r} has no documents; write one a line.")
  return list(found.values())


def of_contexts(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Document]:
  """The paragraphs that questions bring with them, each once, in their order.

  Args:
    rows: (where it stands, object with "context": [[title, [sentence, ...]], ...]), as HotpotQA's.

  Raises:
    ValueError: a context of another form.
  """
  found: dict[tuple[str, str], Document] = {}
  for where, row in rows:
    for part in row.get("context", ()):
      is_pair = isinstance(part, (list, tuple)) and len(part) == 2 and isinstance(part[0], str)
      sentences = [part[1]] if is_pair and isinstance(part[1], str) else part[1] if is_pair else ()
      if not sentences or not all(isinstance(x, str) for x in sentences):
        raise ValueError(f"{where}: a context must be [title, [sentence, ...]], got {part!r:.60}; "
                         "correct the row, or give config.task.corpus.")
      text = "".join(sentences).strip()
      found.setdefault((part[0], text), Document(str(len(found)), part[0], text))
  return list(found.values())


def words(text: str) -> list[str]:
  """The words of a text: runs of letters and digits, in lower case."""
  return re.findall(r"[^\W_]+", text.lower())
