"""The habits of the project: linted, typed at its public face, with the files that people expect."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import mdx

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _run(tool, *args):
  if importlib.util.find_spec(tool) is None:
    pytest.skip(f"{tool} is not installed")
  done = subprocess.run([sys.executable, "-m", tool, *args], cwd=_ROOT, capture_output=True,
                        text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
  _run("ruff", "check", "--no-cache", ".")


@pytest.mark.slow
def test_the_public_api_is_typed(tmp_path):
  _run("mypy", f"--cache-dir={tmp_path}")


def test_versions_agree():
  setup, citation, changes = ((_ROOT / name).read_text() for name in (
      "setup.cfg", "CITATION.cff", "CHANGELOG.md"))
  assert re.search(r"^version = (.*)$", setup, re.M)[1] in (mdx.__version__, "attr: mdx.__version__")
  assert f"\nversion: {mdx.__version__}\n" in citation
  assert f"## {mdx.__version__}" in changes


def test_the_citation_and_the_hooks_have_what_their_tools_ask_for():
  """As cffconvert --validate and pre-commit validate-config did when these files were written."""
  citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
  assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
  hooks = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())["repos"]
  assert len(hooks) and all(repo["hooks"] and all(hook["id"] for hook in repo["hooks"])
                            for repo in hooks)
  assert all("rev" in repo or repo["repo"] == "local" for repo in hooks)
