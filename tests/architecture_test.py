"""The house's import layers and the completeness of the package."""

import ast
import configparser
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from mdx import objectives
from mdx.networks import adaptation

# A file imports only from rows above its own, and from files of its own folder. The first match
# counts.
_ROWS = (
    ("mdx/__init__.py", "mdx/utils/", "mdx/assets/"),
    ("mdx/config.py", "mdx/metrics.py"),
    ("mdx/types.py",),
    ("mdx/corruption/", "mdx/costs/", "mdx/tasks/"),
    ("mdx/sharding.py", "mdx/checkpoint.py"),
    ("mdx/networks/",),
    ("mdx/data/",),
    ("mdx/objectives/",),
    ("mdx/samplers/",),
    ("mdx/interop/",),
    ("mdx/eval/",),
    ("mdx/report/", "mdx/train/"),
    ("mdx/rl/",),
    ("mdx/build/",),
    ("mdx/embedding.py", "mdx/signals.py"),
    ("mdx/model.py",),
    ("mdx/dense_tool.py", "mdx/lm_harness.py", "mdx/mteb_model.py", "mdx/serving/", "mdx/modes/"),
    ("mdx/main.py", "mdx/serve.py"),
)
_METHODS = {*objectives.OBJECTIVES, *objectives.POLICIES, *adaptation.ADAPTATIONS}
# Folders and files that know no method by name.
_NAMELESS = ("mdx/types.py", "mdx/config.py", "mdx/sharding.py", "mdx/checkpoint.py", "mdx/data/",
             "mdx/samplers/", "mdx/eval/", "mdx/train/", "mdx/rl/", "mdx/build/setup.py",
             "mdx/build/frozen.py", "mdx/build/model_parts.py", "mdx/networks/transformer.py",
             "mdx/networks/module.py", "mdx/networks/layers.py", "mdx/networks/dense.py",
             "mdx/networks/axes.py", "mdx/modes/train.py", "mdx/modes/evaluate.py")
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FILES = sorted(str(p.relative_to(_ROOT)) for p in (_ROOT / "mdx").rglob("*.py")
                if not p.is_relative_to(_ROOT / "mdx/configs"))


def _row(file: str) -> int:
  rows = [i for i, row in enumerate(_ROWS) for prefix in row
          if file == prefix or (prefix.endswith("/") and file.startswith(prefix))]
  assert rows, f"{file} has no place in the house; add it to a row of _ROWS."
  return rows[0]


def _imports(file: str):
  """Files of mdx that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse((_ROOT / file).read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mdx":
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names if alias.name.split(".")[0] == "mdx"]
    else:
      continue
    for name in names:
      path = name.replace(".", "/")
      for candidate in (f"{path}.py", f"{path}/__init__.py"):
        if candidate in _FILES:
          yield candidate


@pytest.mark.parametrize("prefix", [*(prefix for row in _ROWS for prefix in row), *_NAMELESS])
def test_every_entry_of_the_tables_names_a_file_or_a_folder_of_files(prefix):
  assert prefix in _FILES or prefix.endswith("/") and any(f.startswith(prefix) for f in _FILES)


@pytest.mark.parametrize("file", _FILES)
def test_a_file_imports_only_from_rows_above(file):
  room = lambda path: pathlib.Path(path).parts[:2]
  for imported in _imports(file):
    same = room(imported) == room(file)
    assert same or _row(imported) < _row(file), f"{file} must not import {imported}"


@pytest.mark.slow
def test_no_file_imports_itself_by_way_of_others():
  above = {file: set(_imports(file)) for file in _FILES}
  while above:
    free = [file for file, imported in above.items() if not imported & above.keys()]
    assert free, f"a cycle among {sorted(above)}"
    for file in free:
      del above[file]


def test_flax_stays_inside_networks_and_orbax_inside_checkpoint():
  owners = {"flax": "mdx/networks/", "grain": "mdx/data/",
            "optax": ("mdx/train/", "mdx/objectives/signals/ctc.py"),  # its loss of alignments
            "matplotlib": "mdx/report/", "absl": ("mdx/main.py", "mdx/checkpoint.py"),
            "orbax": ("mdx/checkpoint.py", "mdx/utils/processes.py")}  # a barrier of processes
  for file in _FILES:
    for node in ast.walk(ast.parse((_ROOT / file).read_text())):
      names = ([node.module or ""] if isinstance(node, ast.ImportFrom) else
               [a.name for a in node.names] if isinstance(node, ast.Import) else [])
      for name in names:
        assert file.startswith(owners.get(name.split(".")[0], "mdx/")), f"{file} imports {name}"


@pytest.mark.parametrize("file", [file for file in _FILES if file.startswith(_NAMELESS)])
def test_no_file_but_its_own_and_its_table_knows_a_method_by_name(file):
  named = [node.value for node in ast.walk(ast.parse((_ROOT / file).read_text()))
           if isinstance(node, ast.Constant) and isinstance(node.value, str)
           and node.value in _METHODS]
  assert not named, f"{file} knows {named[0]!r}; let it say what is needed at its own door"


def test_every_package_is_in_the_wheel():
  setup = configparser.ConfigParser()
  setup.read(_ROOT / "setup.cfg")
  listed = set(setup["options"]["packages"].split())
  found = {str(p.parent.relative_to(_ROOT)).replace("/", ".")
           for p in (_ROOT / "mdx").rglob("__init__.py")} | {"mdx.configs", "mdx.configs.claims"}
  assert listed == found


def test_importing_the_library_does_not_touch_a_device_or_tensorflow():
  modules = [f[:-3].replace("/", ".").removesuffix(".__init__") for f in _FILES]
  if importlib.util.find_spec("lm_eval") is None:  # of the extra `eval`
    modules.remove("mdx.lm_harness")
  code = (f"import {', '.join(modules)}, sys; from jax._src import xla_bridge; "
          "assert not xla_bridge._backends; assert 'tensorflow' not in sys.modules")
  subprocess.run([sys.executable, "-c", code], check=True, cwd=_ROOT)
