"""Tools: BM25 against the formula and bm25s, tools of users, and tools that go wrong."""

import math
import re
import time

import numpy as np
import pytest

from mdx.tasks.search import bm25
from mdx.tasks.search import documents
from mdx.tasks.search import tools

TEXTS = ["red house", "red red door", "a blue door with a red red frame", "green"]
DOCUMENTS = [documents.Document(str(i), "", text) for i, text in enumerate(TEXTS)]


def _score(query, text, k1=1.5, b=0.75):
  """The formula, word by word."""
  split = [t.split() for t in TEXTS]
  mean = sum(map(len, split)) / len(split)
  total = 0.0
  for word in query.split():
    n, f = sum(word in own for own in split), text.split().count(word)
    idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
    total += idf * f / (f + k1 * (1 - b + b * len(text.split()) / mean))
  return total


@pytest.mark.parametrize("library", bm25.LIBRARIES)
def test_bm25_is_the_formula(library):
  if library == "bm25s":
    pytest.importorskip("bm25s")
  tool = bm25.BM25(library=library)
  tool.build(DOCUMENTS)
  queries = ["red door", "blue", "red red", "nowhere", "", "green house door"]
  expected = [[_score(q, t) for t in TEXTS] for q in queries]
  np.testing.assert_allclose(tool._scores([q.split() for q in queries]), expected, atol=1e-5)
  for query, row, found in zip(queries, expected, tool.search(queries, 2)):
    best = sorted((i for i in range(4) if row[i] > 0), key=lambda i: (-row[i], i))[:2]
    assert [d.text for d in found] == [TEXTS[i] for i in best], query
  assert tool.describe() == "BM25 over 4 documents"


def test_titles_are_searched_and_equal_scores_keep_the_order_of_the_corpus():
  tool = bm25.BM25()
  tool.build([documents.Document("a", "", "x y"), documents.Document("b", "", "x z"),
              documents.Document("c", "Red House", "z")])
  assert [d.id for d in tool.search(["x"], 3)[0]] == ["a", "b"]
  assert [d.id for d in tool.search(["RED?"], 3)[0]] == ["c"]


_CLASS = """
import dataclasses
from mdx.tasks.search import documents

@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo:
  times: int = 1

  def build(self, corpus):
    pass

  def search(self, queries, count):
    return [[documents.Document("0", "", q * self.times)] for q in queries]

  def describe(self):
    return "echo"
"""


def test_tools_of_a_file_and_of_a_module(tmp_path):
  path = tmp_path / "echo.py"
  path.write_text(_CLASS)
  tool = tools.build(dict(name=str(path), times=2))
  assert tools.call(tool, ["a", "b", "a"], 3, 5.0)[2][0].text == "aa"
  path = tmp_path / "function.py"
  path.write_text("def search(queries, count):\n  return [['x', q] for q in queries]\n")
  tool = tools.build(dict(name=str(path)))
  assert [d.text for d in tools.call(tool, ["a"], 3, 5.0)[0]] == ["x", "a"]
  assert isinstance(tools.build(dict(name="mdx.tasks.search.bm25:BM25", b=0.5)), bm25.BM25)
  path = tmp_path / "neither.py"
  path.write_text("x = 1\n")
  for cfg, message in ((dict(name="bm26"), "bm26"), (dict(name="mdx.nowhere:F"), "is not there"),
                       (dict(name="mdx.tasks.search.bm25:LIBRARIES"), "expected a dataclass"),
                       (dict(name=str(tmp_path / "function.py"), k=1), "has no field 'k'"),
                       (dict(name=str(path)), "or a function search, got neither"),
                       (dict(name="bm25", b=2.0), "b must lie in"),
                       (dict(name="bm25", library="lucene"), "library is 'lucene'")):
    with pytest.raises(ValueError, match=message) as error:
      tools.build(cfg)
    assert "\n" not in str(error.value)


def _fails(queries, count):
  raise RuntimeError(f"no server\nfor {count}")


@pytest.mark.parametrize("function, message", [
    (lambda queries, count: time.sleep(30), r"asked 1 queries such as 'q', has not ended after "
     r"task.seconds 0.05; make it faster"),
    (_fails, "fails: RuntimeError: no server"),
    (lambda queries, count: [], "must return a list of documents for each"),
    (lambda queries, count: [[3]], "must return a list of documents for each")])
def test_a_tool_that_goes_wrong_or_never_ends_is_one_line(function, message):
  with pytest.raises(ValueError, match=message) as error:
    tools.call(tools.Function(function=function, name="f"), ["q"], 1, 0.05)
  assert not re.search("\n", str(error.value))
