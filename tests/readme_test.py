"""README.md is short, and the code that it shows works; so does what moved from it to docs/."""

import importlib
import json
import pathlib
import re
import shlex
import sys
import types as python_types

import pytest
import tiny

from mdx import config as config_lib
from mdx import modes
from mdx import objectives
from mdx import samplers
from mdx.eval import evaluators
from mdx.report import words

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_README = (_ROOT / "README.md").read_text()
_DOCS = _ROOT / "docs"


def test_the_readme_is_short_and_its_links_lead_somewhere():
  assert len(_README.encode()) <= 10_000
  targets = re.findall(r"\]\(([^)]+)\)", _README)
  for target in targets:
    assert target.startswith("https://") or (_ROOT / target).exists(), target
  assert len(targets) > 20


def test_the_commands_of_the_tasks_name_configs_and_keys_that_exist():
  rows = re.findall(r"^\| [^|`]+ \| `(configs/[^`]*)` \|", _README, re.M)
  assert len(rows) == 10
  for row in rows:
    spec, *overrides = shlex.split(row)
    file, _, arg = spec.partition(":")
    module = importlib.import_module("mdx." + file.removesuffix(".py").replace("/", "."))
    keys = config_lib.flatten(module.get_config(arg or None))
    for override in overrides:
      assert override.partition("=")[0].removeprefix("--config.") in keys, override


@pytest.mark.slow
def test_the_worked_extension_trains_and_is_short(tmp_path, monkeypatch):
  code = re.search(r"```python\n(# mdx/objectives/tokens/confident.*?)```", _README, re.S)[1]
  assert len(code.splitlines()) <= 42
  page = (_DOCS / "howto" / "own_objective.md").read_text()
  evaluator = re.search(r"```python\n(class Calibration.*?)```", page, re.S)[1]
  code = code.replace("\n\n@", """
from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.utils import rng

@""", 1).replace('float = 0.5\n', 'float = 0.5\n  evaluators = ("loss", "calibration")\n', 1) + evaluator
  module = python_types.ModuleType("confident")
  monkeypatch.setitem(sys.modules, "confident", module)
  exec(compile(code, "README.md", "exec"), module.__dict__)  # pylint: disable=exec-used
  monkeypatch.setitem(objectives.OBJECTIVES, "confident", module.Confident)
  monkeypatch.setitem(evaluators.EVALUATORS, "calibration", module.Calibration)
  losses = []
  for microbatches, mesh in ((1, 8), (2, 4)):
    cfg = tiny.config("mlm", log_steps=1, batch_size=16, microbatches=microbatches)
    cfg.objective = dict(name="confident")
    cfg.mesh.data, cfg.mesh.fsdp = mesh, 8 // mesh
    workdir = tmp_path / str(microbatches)
    results = modes.run("train", cfg, str(workdir))
    assert -1 < results["calibration"] < 1 and results["calibration"]
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses.append([x["loss"] for x in lines if x["kind"] == "train"])
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_the_lines_of_the_library_run(tmp_path, monkeypatch, capsys):
  code = re.search(r"```python\n(import mdx\n.*?)```", _README, re.S)[1]
  monkeypatch.chdir(tmp_path)
  modes.run("train", tiny.config("diffusion", network__max_length=64, sampler__num_samples=0),
              "runs/mdpo")
  capsys.readouterr()
  exec(compile(code, "README.md", "exec"), {})  # pylint: disable=exec-used
  assert capsys.readouterr().out.splitlines()[-1].replace(" ", "").startswith("[-")


def test_every_objective_and_config_is_in_the_table():
  table = (_DOCS / "methods" / "index.md").read_text()
  everything = _README + "".join(page.read_text() for page in _DOCS.rglob("*.md"))
  for name in objectives.OBJECTIVES:
    assert f"| `{name}` |" in table
  for name in tiny.CONFIGS + tiny.OTHERS:
    assert f"`configs/{name}.py" in everything


def test_every_sampler_is_in_the_table():
  table = (_DOCS / "methods" / "decoding.md").read_text()
  for name in samplers.SAMPLERS:
    assert f"| `{name}` |" in table


def test_the_glossary_has_the_terms_of_reports():
  page = (_DOCS / "glossary.md").read_text()
  terms = dict(re.findall(r"^\*\*(.*?)\*\*: (.*)\.$", page, re.M))
  assert terms == words.TERMS
