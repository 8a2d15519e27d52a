"""Every shipped config trains."""

import collections
import json
import logging
import math
import re

import jax
import pytest
import tiny

from mdx import modes
from mdx import setup as setup_lib
from mdx.configs import diffusion
from mdx.utils import tree

_CONTRACT = (
    "mode", "seed", "steps", "batch_size", "objective.name", "network.num_layers",
    "network.num_heads", "mesh.replica", "mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.sequence",
    "init.checkpoint", "init.params", "log_steps", "checkpoint_steps", "dtype", "export.format",
    "export.path")


class _Compiled(logging.Handler):
  """Counts what XLA compiles, by name."""

  def __init__(self):
    super().__init__()
    self.names = collections.Counter()

  def emit(self, record):
    found = re.match(r"Compiling (?:jit\()?([\w<>]+)", record.getMessage())
    if found:
      self.names[found[1]] += 1


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_config_takes_steps_and_compiles_each_function_once(name, tmp_path):
  handler, logger = _Compiled(), logging.getLogger("jax._src.interpreters.pxla")
  logger.addHandler(handler)
  jax.config.update("jax_log_compiles", True)
  try:
    results = modes.train(tiny.config(name, steps=4, eval_steps=2, checkpoint_steps=2),
                          str(tmp_path))
  finally:
    jax.config.update("jax_log_compiles", False)
    logger.removeHandler(handler)
  assert handler.names["step"] == 1
  # The quick and the final evaluation are two programs if they draw differently often.
  assert handler.names["row_nll"] in (1, 2)
  assert handler.names["decode"] <= 1
  assert math.isfinite(results["nats_per_token"]) and results["steps"] == 4
  lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {x["kind"] for x in lines} == {"train", "eval"}
  assert all(math.isfinite(x["loss"]) for x in lines if x["kind"] == "train")
  assert [x["step"] for x in lines if x["kind"] == "eval"] == [2, 4]
  assert json.loads((tmp_path / "results.json").read_text()) == results
  assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_config_has_the_keys_that_scripts_rely_on(name):
  cfg = tiny.config(name)
  for key in _CONTRACT:
    value = cfg
    for part in key.split("."):
      value = value[part]
  assert cfg.dtype == "float32"


@pytest.mark.parametrize("steps", [1, 3])
def test_any_number_of_steps_runs(steps, tmp_path):
  results = modes.train(tiny.config("diffusion", steps=steps), str(tmp_path))
  assert results["steps"] == steps


@pytest.mark.parametrize("preset, billions", [("mdlm_small", 0.08), ("bert_base", 0.08),
                                              ("llada_8b", 6.9)])
def test_presets_set_up_sharded_without_computing_anything(preset, billions, tmp_path):
  cfg = diffusion.get_config(f"preset={preset}")
  cfg.mesh = dict(replica=1, data=1, fsdp=4, tensor=2, sequence=1)
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  assert run.config["dtype"] == "bfloat16"
  assert tree.count(run.shapes.params) > billions * 1e9
  # Moments and averages are sharded like their parameters.
  sizes = [(math.prod(x.sharding.shard_shape(x.shape)), math.prod(x.shape))
           for x in jax.tree.leaves(run.shapes) if len(x.shape) == 3]
  assert sizes and all(8 * local == whole for local, whole in sizes)
  assert not (tmp_path / "run").exists()


def test_an_unknown_preset_lists_the_choices():
  with pytest.raises(ValueError, match="choose from .*mdlm_small"):
    diffusion.get_config("preset=mdlm_smal")
  with pytest.raises(ValueError, match="unknown config argument 'size'.* takes preset"):
    diffusion.get_config("size=1")
