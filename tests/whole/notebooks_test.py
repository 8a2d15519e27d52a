"""The notebooks of colabs/ are in order, small, and run from top to bottom."""

import ast
import builtins
import configparser
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_NOTEBOOKS = sorted((_ROOT / "colabs").glob("*.ipynb"))
_OPTIONAL = {"huggingface_hub"}  # imported where its absence is handled
_MACHINE_PATH = re.compile(r"(?<![\w.])/(tmp|home|root|work|Users|content|mnt)/")


def _cells(path, kind="code"):
  cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
  return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _tree(source):
  """Of a cell without its magics."""
  return ast.parse("\n".join("" if line.startswith("%") else line for line in source.split("\n")))


def _imports(tree):
  """Top-level package -> whether the import is tried and its absence handled."""
  handled = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try)
             and any("ImportError" in ast.dump(h.type) for h in node.handlers if h.type)
             for statement in node.body for inner in ast.walk(statement)}
  for node in ast.walk(tree):
    names = ([node.module] if isinstance(node, ast.ImportFrom) else
             [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    for name in names:
      yield name.split(".")[0], id(node) in handled


def _bound(tree):
  """Names that a cell gives a meaning, in any scope."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
      yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      yield node.name
    elif isinstance(node, ast.arg):
      yield node.arg
    elif isinstance(node, ast.ExceptHandler) and node.name:
      yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
      yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)


def test_there_are_five_and_they_begin_with_the_same_set_up():
  assert len(_NOTEBOOKS) >= 5
  assert len({_cells(path)[0] for path in _NOTEBOOKS}) == 1


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_small_and_without_outputs(path):
  nbformat = pytest.importorskip("nbformat")
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert path.stat().st_size < 100_000
  for cell in notebook.cells:
    assert not cell.get("outputs") and cell.get("execution_count") is None, "strip the outputs"
    assert not _MACHINE_PATH.search(cell.source)
    assert max(map(len, cell.source.split("\n"))) <= 100 or cell.cell_type == "markdown"
  first = notebook.cells[0]
  assert first.cell_type == "markdown" and first.source.startswith("# ")


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_mdx_installs_and_uses_what_is_defined_above(path):
  setup = configparser.ConfigParser()
  setup.read(_ROOT / "setup.cfg")
  needs = re.findall(r"^([\w-]+)", setup["options"]["install_requires"], re.M)
  allowed = {need.replace("-", "_") for need in needs} | {"mdx", "IPython"}
  known = set(dir(builtins)) | {"__name__"}
  for source in _cells(path):
    tree = _tree(source)
    for name, is_handled in _imports(tree):
      fits = name in allowed or name in sys.stdlib_module_names
      assert fits or (name in _OPTIONAL and is_handled), name
      assert importlib.util.find_spec(name) or name in _OPTIONAL | {"IPython"}, name
    known |= set(_bound(tree))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used <= known, f"{used - known} is used before it is defined"


def test_the_set_up_installs_only_where_mdx_is_not_and_keeps_the_machines_jax(
    tmp_path, monkeypatch):
  calls = []
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(subprocess, "run", lambda command, **options: calls.append(command))
  exec(_cells(_NOTEBOOKS[0])[0], {})  # pylint: disable=exec-used
  assert not calls
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  exec(_cells(_NOTEBOOKS[0])[0], {})  # pylint: disable=exec-used
  (command,) = calls
  held = pathlib.Path(command[command.index("-c") + 1]).read_text().splitlines()
  for name in ("jax", "jaxlib"):
    assert f"{name}=={importlib.metadata.version(name)}" in held
  assert len(held) and all(line.startswith(("jax", "libtpu")) for line in held)
  assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == ".."


@pytest.mark.slow
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
  nbclient = pytest.importorskip("nbclient")
  pytest.importorskip("ipykernel")
  nbformat = pytest.importorskip("nbformat")
  for name in ("XLA_FLAGS", "JAX_PLATFORMS"):  # a machine as the user has it, but one device
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  with contextlib.chdir(path.parent):
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3",
                            resources={"metadata": {"path": os.fspath(path.parent)}}).execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert not [output.text for output in outputs
              if output.output_type == "stream" and output.name == "stderr"]
  assert len(json.dumps(outputs)) < 1_500_000
