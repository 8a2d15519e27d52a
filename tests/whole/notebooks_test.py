"""The notebooks of colabs/ are in order, small, have outputs, and run from top to bottom."""

import ast
import base64
import builtins
import configparser
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_NOTEBOOKS = sorted((_ROOT / "colabs").glob("*.ipynb"))
_SPEC = importlib.util.spec_from_file_location("keeper", _ROOT / "colabs" / "notebooks.py")
keeper = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(keeper)
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


def _shortened(source):
  """The cell with a tenth of the steps of trainings."""
  tenth = lambda found: f"{found[1]}={max(int(found[2]) // 10, 1)}"
  return re.sub(r"\b((?:eval_|log_|checkpoint_)?steps|updates)=(\d\d+)\b", tenth, source)


def _kinds(notebook):
  """Kinds of the outputs of every code cell."""
  return [sorted({kind for output in cell.outputs for kind in output.get("data", {"text": ""})})
          for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_five_and_they_begin_with_the_same_set_up():
  assert len(_NOTEBOOKS) >= 5
  assert len({_cells(path)[0] for path in _NOTEBOOKS}) == 1


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_small_with_the_outputs_of_one_run(path):
  nbformat = pytest.importorskip("nbformat")
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert path.stat().st_size < 200_000
  counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
  assert counts == list(range(1, len(counts) + 1)), "run colabs/notebooks.py run"
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert not [x for x in outputs if x.output_type == "error" or x.get("name") == "stderr"]
  assert not _MACHINE_PATH.search(json.dumps([x for x in outputs if "data" not in x]))
  for cell in notebook.cells:
    assert not _MACHINE_PATH.search(cell.source)
    assert max(map(len, cell.source.split("\n"))) <= 100 or cell.cell_type == "markdown"
  first = notebook.cells[0]
  assert first.cell_type == "markdown" and first.source.startswith("# ")


def _stored(output_type, **fields):
  return {"cells": [{"cell_type": "code", "outputs": [{"output_type": output_type, **fields}]}]}


def test_stored_outputs_are_made_small():
  image = pytest.importorskip("PIL.Image")
  file = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  image.fromarray(noise).save(file, "png")
  data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
  notebook = _stored("display_data", data=data.copy())
  keeper.shrink(notebook)
  found = notebook["cells"][0]["outputs"][0]["data"]
  assert list(found) == ["image/png"] and len(found["image/png"]) < len(data["image/png"]) / 2
  assert image.open(io.BytesIO(base64.b64decode(found["image/png"]))).size == (64, 64)
  notebook = _stored("display_data", data={"text/html": "x" * 100_000})
  keeper.shrink(notebook)
  assert len(notebook["cells"][0]["outputs"][0]["data"]["text/html"]) < 100
  text = "\n".join(["/tmp/tmpab1_/run"] + [f"step {i}" for i in range(98)] + ["end"]) + "\n"
  notebook = _stored("stream", name="stdout", text=text[:200])
  notebook["cells"][0]["outputs"] += _stored("stream", name="stdout", text=text[200:])["cells"][0][
      "outputs"]
  keeper.shrink(notebook)
  assert len(notebook["cells"][0]["outputs"]) == 1
  lines = notebook["cells"][0]["outputs"][0]["text"].splitlines()
  assert len(lines) == 31 and lines[0] == "WORKDIR/run" and lines[-1] == "end"
  assert lines[15] == "... (70 lines)"


def test_an_address_sets_the_source_and_one_badge_and_another_replaces_both():
  notebook = json.loads(_NOTEBOOKS[0].read_text(encoding="utf-8"))
  for owner in ("one", "two"):
    keeper.address(notebook, f"https://github.com/{owner}/mdx.git", "x.ipynb")
  title, setup = ("".join(cell["source"]) for cell in notebook["cells"][:2])
  assert title.startswith("# ") and title.count("Open in Colab") == 1
  assert "(https://colab.research.google.com/github/two/mdx/blob/main/colabs/x.ipynb)" in title
  assert 'SOURCE = "git+https://github.com/two/mdx"' in setup and setup.count("SOURCE =") == 1
  with pytest.raises(ValueError, match="expected https://github.com/OWNER/NAME, got 'x'"):
    keeper.address(notebook, "x", "x.ipynb")


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


def _set_up(monkeypatch, source=None, status=0, versions=()):
  """Runs the set-up cell where mdx is missing; returns pip's command and the versions it holds."""
  calls = []
  run = lambda command, **options: calls.append(command) or subprocess.CompletedProcess(
      command, status, stdout="", stderr="ERROR: no such place")
  monkeypatch.setattr(subprocess, "run", run)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  if versions:
    found = [types.SimpleNamespace(name=name, version=version) for name, version in versions]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
  code = _cells(_NOTEBOOKS[0])[0]
  if source is not None:
    code = re.sub(r'^SOURCE = "[^"]*"', f'SOURCE = "{source}"', code, flags=re.M)
  exec(code, {})  # pylint: disable=exec-used
  (command,) = calls
  return command, pathlib.Path(command[command.index("-c") + 1]).read_text().splitlines()


def test_the_set_up_does_nothing_where_mdx_is(monkeypatch):
  calls = []
  monkeypatch.setattr(subprocess, "run", lambda command, **options: calls.append(command))
  exec(_cells(_NOTEBOOKS[0])[0], {})  # pylint: disable=exec-used
  assert not calls


def test_the_set_up_installs_this_checkout_and_keeps_the_machines_jax(monkeypatch):
  monkeypatch.chdir(_ROOT / "colabs")
  command, held = _set_up(monkeypatch, source="")
  for name in ("jax", "jaxlib"):
    assert f"{name}=={importlib.metadata.version(name)}" in held
  assert len(held) and all(line.startswith(("jax", "libtpu")) for line in held)
  assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == ".."


def test_the_set_up_keeps_the_plug_ins_of_a_runtime_elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  runtime = [("jax", "0.10.0"), ("jaxlib", "0.10.0"), ("jax-cuda12-plugin", "0.10.0"),
             ("numpy", "2.1.0")]
  command, held = _set_up(monkeypatch, source="git+https://x", versions=runtime)
  assert held == ["jax-cuda12-plugin==0.10.0", "jax==0.10.0", "jaxlib==0.10.0"]
  assert command[-1] == "git+https://x"


@pytest.mark.parametrize("source, status, jax_version, line", [
    ("", 0, "0.10.0", "mdx is not installed here. Set SOURCE to its address"),
    ("x", 0, "0.7.2", "mdx needs jax 0.10 or newer, this runtime has 0.7.2"),
    ("x", 1, "0.11.0", "pip could not install mdx: ERROR: no such place")])
def test_the_set_up_ends_with_a_line_that_says_why_not(source, status, jax_version, line, tmp_path,
                                                       monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=re.escape(line)):
    _set_up(monkeypatch, source=source, status=status, versions=[("jax", jax_version)])


def test_the_set_up_knows_the_oldest_jax_of_setup_cfg():
  needs = re.search(r"^    jax>=([\d.]+)$", (_ROOT / "setup.cfg").read_text(), re.M)
  major, minor = needs[1].split(".")[:2]
  setup = _cells(_NOTEBOOKS[0])[0]
  assert f"< ({major}, {minor})" in setup and f"jax {major}.{minor} or newer" in setup


@pytest.mark.slow
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_the_kinds_of_outputs_that_are_stored(path, tmp_path, monkeypatch):
  pytest.importorskip("nbclient")
  pytest.importorskip("ipykernel")
  nbformat = pytest.importorskip("nbformat")
  for name in ("XLA_FLAGS", "JAX_PLATFORMS"):  # a machine as the user has it, but one device
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = keeper.run(path, _shortened)
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert not [output.text for output in outputs
              if output.output_type == "stream" and output.name == "stderr"]
  assert len(json.dumps(outputs)) < 1_500_000
  keeper.shrink(notebook)
  assert _kinds(notebook) == _kinds(nbformat.read(path, as_version=4))
