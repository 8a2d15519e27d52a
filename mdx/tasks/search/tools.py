"""Tools that answer the queries of an agent.

Contents: Tool, TOOLS, build, call.

A tool is a frozen dataclass of three methods, `build`, `search` and `describe`, in TOOLS, in a
Python file of a user ("tool.py"), or in a module ("package.module:Class"). A function (queries,
count) -> texts of a file or module, `search` of a file, is a tool too; it looks at no corpus.

Convention: a search is a function of its arguments, for an iteration that was cut short is made
again; it is asked once for all different queries of a turn. Every process asks for itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mdx import config as config_lib
from mdx.tasks.search import bm25
from mdx.tasks.search import documents as documents_lib
from mdx.utils import python_file
from mdx.utils import readers


@runtime_checkable
class Tool(Protocol):
  """A search."""

  def build(self, documents: Sequence[documents_lib.Document]) -> None:
    """Takes the corpus, once."""

  def search(self, queries: Sequence[str], count: int) -> list[list[documents_lib.Document]]:
    """Returns at most `count` documents for each query, the best first."""

  def describe(self) -> str:
    """Returns a line on what is searched, for people."""


TOOLS: dict[str, type] = {"bm25": bm25.BM25}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function(Tool):
  """A function as a tool.

  Attributes:
    function: (queries, count) -> one text, or a list of texts, for each.
    name: of it.
  """
  function: Callable[[Sequence[str], int], Sequence[Any]]
  name: str

  def build(self, documents):
    """Keeps nothing: the function has what it needs."""

  def search(self, queries, count):
    """Texts as documents without titles."""
    return [[documents_lib.Document(str(i), "", text) for i, text in enumerate(
        [own] if isinstance(own, str) else own)][:count] for own in self.function(queries, count)]

  def describe(self):
    """Its name."""
    return self.name


def build(cfg: Mapping[str, Any]) -> Tool:
  """Builds the tool of `name` and its fields.

  Raises:
    ValueError: no such tool, file or module, or one that is no tool.
  """
  name = cfg.get("name")
  if not isinstance(name, str) or not (name.endswith(".py") or ":" in name):
    return config_lib.build(TOOLS, cfg, what="task.tool")
  found = _of_file(name) if name.endswith(".py") else _of_module(name)
  if isinstance(found, type) and dataclasses.is_dataclass(found) and issubclass(found, Tool):
    return config_lib.construct(found, cfg, what="task.tool")
  if isinstance(found, type) or not callable(found):
    raise ValueError(f"task.tool {name!r}: expected a dataclass with build, search and describe, "
                     f"or a function (queries, count) -> texts, got {found!r:.60}.")
  if fields := sorted(set(cfg) - {"name"}):
    raise ValueError(f"task.tool {name!r} is a function, which has no field {fields[0]!r}; leave "
                     "it out, or write a dataclass.")
  return Function(function=found, name=name)


def _of_file(path: str) -> Any:
  """The one tool of a Python file, or its function `search`."""
  module = python_file.load(path, "tool file")
  own = [value for value in vars(module).values()
         if isinstance(value, type) and value.__module__ == module.__name__
         and issubclass(value, Tool)]
  if len(own) > 1 or not (own or callable(vars(module).get("search"))):
    raise ValueError(f"tool file {path!r}: expected one class with build, search and describe, or "
                     f"a function search, got {', '.join(x.__name__ for x in own) or 'neither'}.")
  return own[0] if own else vars(module)["search"]


def _of_module(name: str) -> Any:
  module, _, own = name.partition(":")
  try:
    return getattr(importlib.import_module(module), own)
  except (ImportError, AttributeError) as error:
    raise ValueError(f"task.tool {name!r} is not there ({readers.reason(error)}); give a name of "
                     f"{', '.join(TOOLS)}, a file tool.py, or package.module:Class.") from None


def call(tool: Tool, queries: Sequence[str], count: int, seconds: float
         ) -> list[list[documents_lib.Document]]:
  """Returns the documents of each query; equal queries are asked once.

  Args:
    tool: to ask.
    queries: of all agents.
    count: documents of each.
    seconds: that the tool may take. A search that ends is waited for in a thread, which a tool that
      never ends keeps until the process ends.

  Raises:
    ValueError: the tool fails, does not end, or gives something else. What an agent reads depends
      on no clock, so there is no reply that says so: the run stops and resumes at its checkpoint.
  """
  asked = list(dict.fromkeys(queries))
  if not asked:
    return []
  outcome: dict[str, Any] = {}

  def ask():
    try:
      outcome["found"] = tool.search(asked, count)
    except BaseException as error:  # pylint: disable=broad-except  (said by the caller)
      outcome["error"] = error

  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(seconds)
  what = f"the tool {type(tool).__name__}, asked {len(asked)} queries such as {asked[0]!r:.40},"
  if thread.is_alive():
    raise ValueError(f"{what} has not ended after task.seconds {seconds:g}; make it faster, raise "
                     "task.seconds, or ask fewer rollouts at once (rollout.batch_size).")
  if "error" in outcome:
    error = outcome["error"]
    raise ValueError(f"{what} fails: {type(error).__name__}: {readers.reason(error)}; let search "
                     "return an empty list where it finds nothing.") from error
  found = outcome["found"]
  if not isinstance(found, Sequence) or len(found) != len(asked) or not all(
      isinstance(d, documents_lib.Document) and isinstance(d.text, str)
      and isinstance(d.title, str) for own in found for d in own):
    raise ValueError(f"{what} must return a list of documents for each, got {found!r:.60}.")
  answers = dict(zip(asked, found))
  return [list(answers[query])[:count] for query in queries]
