"""Everything that docs/ names exists: links, files, configs, keys, names; and the site builds strictly."""

import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

import pytest
import tiny
import yaml

from mdx import config as config_lib
from mdx import objectives
from mdx import samplers
from mdx import tasks
from mdx.corruption import schedule
from mdx.corruption import time
from mdx.data import pipeline
from mdx.data import sources
from mdx.networks import attention
from mdx.networks import transformer
from mdx.samplers import decoder

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"


def _script(name):
  """A module of docs/, which is no package."""
  spec = importlib.util.spec_from_file_location(name, _DOCS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


gallery, pages, pictures = (_script(name) for name in ("gallery", "pages", "pictures"))
_MADE = pages.pages()  # uri -> content of the pages that are made from other files
_PAGES = sorted(_DOCS.rglob("*.md"))
_ALL = "\n".join(page.read_text(encoding="utf-8") for page in _PAGES)
_FOLDERS = ("configs", "mdx", "tests", "launch", "colabs", "benchmarks", "docs")
_by_page = pytest.mark.parametrize("page", _PAGES, ids=lambda p: str(p.relative_to(_DOCS)))


def _spans(text):
  """Inline code outside of fenced blocks."""
  return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _commands(text):
  """Words of the shell lines of a page."""
  for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
    for line in block.replace("\\\n", " ").splitlines():
      yield shlex.split(line, comments=True)


@functools.cache
def _own_task():
  """Path of a file with the task of howto/own_task.md, which commands call sums.py."""
  path = pathlib.Path(tempfile.mkdtemp()) / "sums.py"
  page = (_DOCS / "howto" / "own_task.md").read_text(encoding="utf-8")
  path.write_text(re.search(r"^```python\n(.*?)^```", page, re.M | re.S)[1])
  return str(path)


def _config(spec):
  """The config of "configs/x.py:ARG"."""
  file, _, arg = spec.partition(":")
  arg = arg.replace("task=sums.py", f"task={_own_task()}")
  assert (_ROOT / file).is_file(), file
  module = importlib.import_module("mdx." + file.removesuffix(".py").replace("/", "."))
  return module.get_config(arg or None)


def _nav(entry):
  if isinstance(entry, str):
    return [entry]
  values = entry.values() if isinstance(entry, dict) else entry
  return [page for value in values for page in _nav(value)]


def test_every_page_is_in_the_navigation_once():
  nav = _nav(yaml.safe_load((_ROOT / "mkdocs.yml").read_text())["nav"])
  made = [uri for uri in _MADE if uri.endswith(".md") and not uri.startswith("reference/")]
  assert sorted(nav) == sorted([*(str(page.relative_to(_DOCS)) for page in _PAGES), *made])
  assert len(made) > 4 and len(nav) >= 15


@_by_page
def test_links_lead_somewhere(page):
  text = page.read_text(encoding="utf-8")
  for target in re.findall(r"\]\(([^)]+)\)", text):
    if not target.startswith("https://"):
      file = (page.parent / target).resolve()
      assert file.is_file() or str(file.relative_to(_DOCS)) in _MADE, target
  for title, target in re.findall(r"\[([0-9]{4}\.[0-9]{5})\]\(([^)]+)\)", text):
    assert target == f"https://arxiv.org/abs/{title}"


@_by_page
def test_files_exist_and_no_path_is_of_one_machine(page):
  text = page.read_text(encoding="utf-8")
  assert not re.search(r"(?<![\w.])/(tmp|home|root|work)/", text)
  for span in _spans(text):
    found = re.match(rf"({'|'.join(_FOLDERS)})/[\w./-]*", span)
    if found and ":" in span and found[0].startswith("configs/"):
      arg = span.partition(":")[2]
      if not re.search(r"[A-Z]", arg) and not arg.endswith("="):
        _config(span)
    if found:
      assert (_ROOT / found[0]).exists(), span


_SMALL = {"runs/texts": "steps=4", "runs/texts_samples": "sampler.steps=4",
          "runs/sums": "updates=2", "runs/eval_sums": "batch_size=64"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [tiny.releases("own_text"), tiny.releases("own_task")])
def test_the_page_runs_from_its_first_command_to_its_last(page, tmp_path):
  """The commands as they stand, made smaller, in a folder with nothing but what the page has."""
  (tmp_path / "texts").mkdir()
  (tmp_path / "texts" / "a.txt").write_text("Once upon a time there was a house.\n" * 6000)
  shutil.copy(_own_task(), tmp_path)
  small = ["--config.init.base.steps=4", "--config.init.base.eval.final_samples=1",
           "--config.eval.num_examples=8", "--config.log_steps=1",
           "--config.eval.batch_size=8", "--config.eval.pass_k=()"]
  text = (_DOCS / "howto" / f"{page}.md").read_text(encoding="utf-8")
  commands = [words for words in _commands(text) if words]
  assert len(commands) == {"own_text": 3, "own_task": 2}[page]
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  for words in commands:
    workdir = next((x.removeprefix("--workdir=") for x in words if x.startswith("--workdir")), "")
    more = [f"--config.{_SMALL[workdir]}"] if workdir else []
    more += small if workdir == "runs/sums" else []
    done = subprocess.run([sys.executable, *words[1:], *more], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
  found = {path.name for path in tmp_path.rglob("*")}
  assert {"own_text": "samples.html", "own_task": "generations.jsonl"}[page] in found
  for code in re.findall(r"^```python\n(import mdx\n.*?)^```", text, re.M | re.S):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Once upon" not in done.stderr, done.stderr


@_by_page
def test_commands_name_what_exists(page):
  for words in _commands(page.read_text(encoding="utf-8")):
    launched = [word for word in words if word.startswith("launch/")]
    assert all((_ROOT / word).is_file() for word in launched), words
    if "-m" in words and words[words.index("-m") + 1].startswith("mdx"):
      module = words[words.index("-m") + 1].replace(".", "/")
      assert (_ROOT / f"{module}.py").is_file(), words
    values = [word.partition("=") for word in words if word.startswith("--config")]
    if not values:
      continue
    assert values[0][0] == "--config", words
    keys = config_lib.flatten(_config(values[0][2]))
    for name, _, value in values[1:]:
      key = name.removeprefix("--config.")
      assert key in keys, f"{words}: no key {key}"
      if isinstance(keys[key], (bool, int, float)):
        type(keys[key])(value)


def test_keys_are_keys_of_a_config_or_fields():
  tables = [_config(f"configs/{name}.py") for name in tiny.CONFIGS + tiny.OTHERS]
  keys = {key for table in tables for key in config_lib.flatten(table)}
  prefixes = {key.rsplit(".", i)[0] for key in keys for i in (1, 2, 3) if key.count(".") >= i}
  objective = (*objectives.OBJECTIVES.values(), *objectives.POLICIES.values())
  for root, classes in (("objective", objective), ("sampler", (decoder.Decoder,)),
                        ("network", (transformer.Transformer,)), ("data", (pipeline.Config,)),
                        ("data.source", sources.SOURCES.values())):
    keys |= {f"{root}.{field.name}" for cls in classes for field in dataclasses.fields(cls)}
  keys |= {"objective.attention.block_length", "objective.schedule.power", "data.mixture"}
  roots = {key.split(".")[0] for key in keys if "." in key}
  ours = re.sub(r"^\|[^|]*\|(?=[^|]*\|$)", "|", _ALL, flags=re.M)  # not what others call it
  named = [found for span in _spans(ours) if not span.endswith((".py", ".json", ".jsonl"))
           and (found := re.fullmatch(r"(?:config\.)?((\w+)(?:\.\w+)+)(?:=.*)?", span))
           and found[2] in roots]
  assert len(named) > 100
  for found in named:
    assert found[1] in keys | prefixes, found[0]


def test_the_page_of_config_keys_has_every_config_and_its_keys():
  spec = importlib.util.spec_from_file_location("config_keys", _DOCS / "config_keys.py")
  hook = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hook)
  markdown = (_DOCS / "reference" / "config_keys.md").read_text(encoding="utf-8")
  assert re.findall(r"^<!-- keys of configs/(\w+)\.py -->$", markdown, re.M) == [
      "common", *sorted(tiny.CONFIGS + tiny.OTHERS)]
  page = hook.on_page_markdown(markdown)
  assert "<!--" not in page
  assert "| `batch_size` | `64` | whole number | rows a step over all devices |" in page
  assert page.count("| `rollout.group_size` |") == 1  # of configs/mdpo.py
  assert page.count("| `checkpoint.keep` |") == 1  # others mean the same by it


def test_all_names_of_the_tables_are_explained():
  for table in (objectives.OBJECTIVES, objectives.POLICIES, samplers.SAMPLERS, tasks.TASKS,
                schedule.SCHEDULES, time.TIMES, attention.ATTENTIONS):
    for name in table:
      assert re.search(rf"`(\w+\.name=)?{name}`", _ALL), name
  for name in tiny.CONFIGS + tiny.OTHERS:
    assert f"configs/{name}.py" in _ALL
  claims, colabs = ({f"{folder}/{path.name}" for path in (_ROOT / folder).glob(f"*.{kind}")}
                    for folder, kind in (("configs/claims", "py"), ("colabs", "ipynb")))
  assert len(claims) > 2 and len(colabs)
  for name in claims | colabs:
    assert name.endswith(("/__init__.py", "/common.py")) or name in _ALL, name


def test_the_reference_has_a_page_for_every_module():
  shown = {re.fullmatch(r"::: ([\w.]+)\n", text)[1]: uri for uri, text in _MADE.items()
           if uri.startswith("reference/")}
  assert shown["mdx.objectives.diffusion.masked"] == "reference/objectives/diffusion/masked.md"
  names = {str(path.relative_to(_ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
           for path in (_ROOT / "mdx").rglob("*.py")}
  assert set(shown) == {name for name in names if not name.startswith("mdx.configs")}
  assert all(importlib.util.find_spec(name) for name in shown)
  tree = _nav(pages._tree(pages.modules()))  # pylint: disable=protected-access
  assert sorted(tree) == sorted(shown.values())


def test_a_notebook_becomes_a_page_with_its_outputs(tmp_path):
  cell = lambda kind, source, *outputs: {"cell_type": kind, "source": source} | (
      {"outputs": list(outputs)} if kind == "code" else {})
  image = {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}}
  said = {"output_type": "stream", "text": ["two\n", "lines ``` here\n"]}
  path = tmp_path / "x.ipynb"
  path.write_text(json.dumps({"cells": [
      cell("markdown", "# T\n\n[![Open in Colab](https://a/b.svg)](https://c)"),
      cell("code", "# Set-up\nimport os"), cell("code", "print()", said, image)]}))
  text, pictures = pages.notebook(path)
  assert pictures == {"x_0.png": b"hello"} and "![output of the cell above](x_0.png)" in text
  assert "[Open in Colab](https://c)" in text and "b.svg" not in text
  assert "````text\ntwo\nlines ``` here\n````" in text
  assert '??? note "Set-up"\n\n    ```python\n    # Set-up\n    import os\n    ```' in text


@pytest.mark.parametrize("remote, expected", [
    ("git@github.com:someone/mdx.git", "https://github.com/someone/mdx"),
    ("https://github.com/someone/mdx.git", "https://github.com/someone/mdx"),
    ("/a/folder", ""), ("https://name:secret@github.com/someone/mdx", "")])
def test_the_link_to_the_repository_is_the_public_address_of_origin(remote, expected, monkeypatch):
  monkeypatch.setattr(subprocess, "run", lambda *args, **options: subprocess.CompletedProcess(
      args, 0, stdout=remote + "\n"))
  assert pages._repository() == expected  # pylint: disable=protected-access


def test_every_method_has_its_picture():
  methods = {page.stem: page.read_text(encoding="utf-8") for page in (_DOCS / "methods").glob("*.md")
             if page.stem != "index"}
  assert set(methods) == set(pictures.PICTURES)
  for name, text in methods.items():
    assert f"](../assets/pictures/{name}.svg)" in text, name
  assert {path.stem for path in pictures.FOLDER.glob("*.svg")} == set(methods)


def _shapes(path):
  """Kinds of the marks of a picture, without their coordinates and names."""
  root = ElementTree.parse(path).getroot()
  return [element.tag.rpartition("}")[2] for element in root.iter()]


def test_a_picture_is_what_its_script_draws(tmp_path):
  for name in ("decoding", "bitimebert"):
    drawn = pictures.draw(name, tmp_path)
    assert _shapes(drawn) == _shapes(pictures.FOLDER / drawn.name)
    assert len(_shapes(drawn)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(pictures.PICTURES))
def test_all_pictures_are_what_their_script_draws(name, tmp_path):
  drawn = pictures.draw(name, tmp_path)
  assert _shapes(drawn) == _shapes(pictures.FOLDER / drawn.name)


def test_the_gallery_has_all_reports_and_they_name_no_machine():
  files = {f"{name}.{kind}" for name in gallery.RUNS for kind in ("html", "png")}
  assert {path.name for path in gallery.FOLDER.iterdir()} == files | {"compared.html"}
  assert sum(path.stat().st_size for path in gallery.FOLDER.iterdir()) < 1_500_000
  shown = (_DOCS / "gallery.md").read_text(encoding="utf-8")
  for path in gallery.FOLDER.glob("*.html"):
    text = path.read_text(encoding="utf-8")
    assert f"(assets/gallery/{path.name})" in shown
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work)/|Linux-", text), path


@pytest.mark.slow
@pytest.mark.release
def test_the_gallery_is_made_by_its_script(tmp_path):
  gallery.make(tmp_path / "workdir", tmp_path / "made", steps=2)
  assert ({path.name for path in (tmp_path / "made").iterdir()}
          == {path.name for path in gallery.FOLDER.iterdir()})


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
  """Of CI too, where `.ci/run` installs the extra `docs`."""
  for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(name)
  done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
                        cwd=_ROOT, capture_output=True, text=True, check=False,
                        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
  assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
  for page in tmp_path.rglob("*.html"):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', text), page
    assert "arithmatex" not in text and "\\frac" not in re.sub(r"<annotation.*?>", "", text), page
  assert "<math" in (tmp_path / "concepts" / "schedules.html").read_text(encoding="utf-8")
  assert "rollout.group_size" in (tmp_path / "reference" / "config_keys.html").read_text(encoding="utf-8")
  reference = (tmp_path / "reference/objectives/diffusion/masked.html").read_text(encoding="utf-8")
  assert 'id="mdx.objectives.diffusion.masked.MaskedDiffusion"' in reference
