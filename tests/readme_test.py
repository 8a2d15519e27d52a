"""The code that README.md shows works."""

import json
import pathlib
import re
import sys
import types as python_types

import pytest
import tiny

from mdx import modes
from mdx import objectives
from mdx import samplers
from mdx.configs import adapt
from mdx.configs import diffusion
from mdx.configs import eval as eval_config
from mdx.configs import mdpo
from mdx.configs import report
from mdx.configs import sample
from mdx.configs import sft
from mdx.eval import evaluators

_README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_worked_extension_trains_and_is_short(tmp_path, monkeypatch):
  code = re.search(r"```python\n(# mdx/objectives/tokens/confident.*?)```", _README, re.S)[1]
  assert len(code.splitlines()) < 75
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
def test_the_three_lines_of_the_library_run(tmp_path, monkeypatch, capsys):
  code = re.search(r"```python\n(import mdx\n.*?)```", _README, re.S)[1]
  monkeypatch.chdir(tmp_path)
  modes.run("train", tiny.config("diffusion", network__max_length=64, sampler__num_samples=0),
              "runs/diffusion")
  capsys.readouterr()
  exec(compile(code, "README.md", "exec"), {})  # pylint: disable=exec-used
  assert capsys.readouterr().out.splitlines()[-1].startswith("[-")


def test_every_objective_and_config_is_in_the_table():
  for name in objectives.OBJECTIVES:
    assert f"| `{name}` |" in _README
  for name in tiny.CONFIGS + tiny.OTHERS:
    assert f"`configs/{name}.py`" in _README


def test_command_line_keys_in_the_readme_exist():
  def has(value, key):
    for part in key.split("."):
      if part not in value:
        return False
      value = value[part]
    return True

  configs = [diffusion.get_config(), sample.get_config(), mdpo.get_config(), sft.get_config(),
             adapt.get_config(), eval_config.get_config("gsm8k"), report.get_config()]
  for key in set(re.findall(r"--config\.([a-z_.]+)=", _README)):
    assert any(has(cfg, key) for cfg in configs), key


def test_every_sampler_is_in_the_readme():
  for name in samplers.SAMPLERS:
    assert f"`{name}`" in _README
