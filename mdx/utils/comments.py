"""Comments behind the keys of config files, read from their source.

Contents: of_file, files_of.

Convention: a key is a keyword of the `dict(...)` of a `ConfigDict`, and its comment stands behind
it on its line, or on lines of its own above it; keywords of one line share both. A `dict(...)`
that ends on its line has the comment for itself. Keys of tables that only later statements set
(`config.a = ...`, `config.update(...)`) have the comment behind them; what stands above these is a
reason, no explanation.
"""

from __future__ import annotations

import ast
import io
import pathlib
import tokenize
from collections.abc import Iterator

_ROOTS = ("config", "run")  # variables that hold a whole config


def of_file(path: str | pathlib.Path) -> dict[str, str]:
  """Dotted key -> comment, of the keys that a config file sets; the first comment of a key counts.
  """
  text = pathlib.Path(path).read_text(encoding="utf-8")
  behind, above = _comments(text)
  tree = ast.parse(text)
  literal = dict(reversed(list(_literals(tree))))  # the first of a key counts
  found = {key: " ".join(filter(None, (above.get(line), behind.get(line))))
           for key, line in literal.items()}
  for key, line in _statements(tree):
    parts = key.split(".")
    is_known = any(".".join(parts[:i + 1]) in literal for i in range(len(parts)))
    if not is_known and behind.get(line):
      found.setdefault(key, behind[line])
  return {key: comment for key, comment in found.items() if comment}


def _comments(text: str) -> tuple[dict[int, str], dict[int, str]]:
  """Line -> the comment behind it, and line -> that on the lines of their own above it."""
  behind: dict[int, str] = {}
  alone: dict[int, str] = {}
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      is_alone = not token.line[:token.start[1]].strip()
      (alone if is_alone else behind)[token.start[0]] = token.string.lstrip("# ").rstrip()
  above: dict[int, str] = {}
  for line in sorted(alone):
    above[line + 1] = " ".join(filter(None, (above.pop(line, ""), alone[line])))
  return behind, above


def _literals(tree: ast.AST) -> Iterator[tuple[str, int]]:
  """(dotted key, line) of the keys of every `ConfigDict(dict(...))`."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and node.args and (
        ast.unparse(node.func).rpartition(".")[2] == "ConfigDict"):
      yield from _inside(node.args[0], [])


def _statements(tree: ast.AST) -> Iterator[tuple[str, int]]:
  """(dotted key, line) of what is set on a config afterwards."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and (path := _path(node.targets[0])):
      yield ".".join(path), node.lineno
      yield from _inside(node.value, path)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      if node.func.attr == "update" and (path := _path(node.func.value)) is not None:
        yield from _of_call(node, path)


def _path(node: ast.AST) -> list[str] | None:
  """["a", "b"] of `config.a.b`; None of what is no part of a whole config."""
  parts: list[str] = []
  while isinstance(node, ast.Attribute):
    parts.insert(0, node.attr)
    node = node.value
  return parts if isinstance(node, ast.Name) and node.id in _ROOTS else None


def _inside(node: ast.AST, path: list[str]) -> Iterator[tuple[str, int]]:
  """Keys of a literal `dict(...)`."""
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
    yield from _of_call(node, path)


def _of_call(node: ast.Call, path: list[str]) -> Iterator[tuple[str, int]]:
  for keyword in node.keywords:
    if keyword.arg is not None:
      key = [*path, keyword.arg]
      yield ".".join(key), keyword.lineno
      if keyword.value.end_lineno != keyword.lineno:
        yield from _inside(keyword.value, key)


def files_of(path: str | pathlib.Path, folder: str | pathlib.Path) -> list[pathlib.Path]:
  """A config file and those of a folder that it imports by `from mdx.configs import NAME`, too.

  Args:
    path: the file.
    folder: that of `mdx.configs`.
  """
  found: list[pathlib.Path] = []
  waiting = [pathlib.Path(path)]
  while waiting:
    file = waiting.pop(0)
    if file.resolve() in [x.resolve() for x in found] or not file.is_file():
      continue
    found.append(file)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
      module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
      if isinstance(node, ast.ImportFrom) and module.startswith("mdx.configs"):
        below = pathlib.Path(folder, *module.split(".")[2:])
        waiting += [below / f"{alias.name}.py" for alias in node.names]
  return found
