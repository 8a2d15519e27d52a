"""Every shipped config trains."""

import collections
import importlib
import json
import logging
import math
import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from mdx import modes
from mdx.build import setup as setup_lib
from mdx.configs import diffusion
from mdx.configs import mlm
from mdx.data import pipeline
from mdx.networks import attention
from mdx.train import step as step_lib
from mdx.utils import memory
from mdx.utils import rng
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


# Their losses are compiled in tests/objectives; the rest of a run is what the others share.
_QUICK = ("diffusion",)
_CI = ("electra", "finetune", "block_diffusion")


@pytest.mark.parametrize("name", tiny.mostly_slow(tiny.CONFIGS, _QUICK, _CI))
def test_config_takes_steps_and_compiles_each_function_once(name, tmp_path):
  handler, logger = _Compiled(), logging.getLogger("jax._src.interpreters.pxla")
  logger.addHandler(handler)
  jax.config.update("jax_log_compiles", True)
  try:
    results = modes.run("train", tiny.config(name, steps=4, eval_steps=2, checkpoint_steps=2),
                          str(tmp_path))
  finally:
    jax.config.update("jax_log_compiles", False)
    logger.removeHandler(handler)
  assert handler.names["step"] == 1
  # The quick and the final evaluation are two programs if they draw differently often.
  assert handler.names["row_nll"] + handler.names["row_scores"] in (1, 2)
  assert handler.names["decode"] <= 1
  assert math.isfinite(results["nats_per_token"]) and results["steps"] == 4
  lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {x["kind"] for x in lines} == {"train", "eval"}
  losses = [x["loss"] for x in lines if x["kind"] == "train"]
  assert losses and all(map(math.isfinite, losses))
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


@pytest.mark.parametrize("steps", tiny.mostly_slow([1, 3], [1]))
@pytest.mark.slow
def test_any_number_of_steps_runs(steps, tmp_path):
  results = modes.run("train", tiny.config("diffusion", steps=steps), str(tmp_path))
  assert results["steps"] == steps


@pytest.mark.parametrize("preset, billions", tiny.first([("mdlm_small", 0.08), ("bert_base", 0.08),
                                              ("llada_8b", 6.9)], 1))
@pytest.mark.slow
def test_presets_set_up_sharded_without_computing_anything(preset, billions, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "limit", lambda: 2 ** 40)  # as of devices that are not here
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
  with pytest.raises(ValueError, match="unknown config argument 'size'.* takes .*preset"):
    diffusion.get_config("size=1")


@pytest.mark.parametrize("module, arg", tiny.mostly_slow([
    ("diffusion", "md4"), ("diffusion", "llada"), ("diffusion", "llada_sft"), ("diffusion", "dream"),
    ("mlm", "whole_word"), ("mlm", "span"), ("mlm", "static"), ("mlm", "rate40"),
    ("mlm", "rate_decay"), ("slm", None), ("electra", None), ("electra", "electric"),
    ("electra", "small"), ("rts", None), ("rts", "clusters"),
    ("mlm", "ngram"), ("ernie_gram", None), ("drbert", None), ("drbert", "emd"),
    ("sedd", "radd"), ("d3pm", None), ("genmd4", None), ("duo", None),
    ("diffusion", "bell"), ("block_diffusion", None)], quick=[("slm", None)]))
def test_the_losses_of_papers_set_up_and_trace(module, arg, tmp_path):
  cfg = importlib.import_module(f"mdx.configs.{module}").get_config(arg)
  cfg.network.update(num_layers=1, width=16, num_heads=2, mlp_width=16)
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  rows = {"tokens": jnp.zeros((8, 16), jnp.int32), "loss_mask": jnp.ones((8, 16), bool),
          "segment_ids": jnp.ones((8, 16), jnp.int32), "example_index": jnp.arange(8)}
  step = step_lib.make_step(run.objective, run.transform, seed=0, rate=lambda step: 0.1)
  state, metrics = jax.eval_shape(step, run.shapes, rows, {})
  # The state goes through a step unchanged in kind (a weak type would compile it twice).
  kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert kinds(state) == kinds(run.shapes)
  initial = jax.tree.leaves(jax.eval_shape(run.objective.init, rng.root(0)))
  assert len(initial) and not any(x.weak_type for x in initial)
  assert {"nats_per_token", "masked_nats", "rtd_nats"} & set(metrics) and not (tmp_path / "run").exists()


def test_blocks_that_do_not_divide_the_rows_are_refused_before_anything_is_written(tmp_path):
  cfg = tiny.config("block_diffusion", data__length=24)
  with pytest.raises(ValueError, match="block_length 16 does not divide data.length 24; use a div"):
    setup_lib.setup(cfg, str(tmp_path / "run"))


def test_layers_may_have_attentions_of_their_own_which_must_divide_them(tmp_path):
  cfg = tiny.config("diffusion", network__num_layers=4)
  cfg.objective.attention = dict(name="per_layer", layers=(dict(name="local", radius=8),
                                                           dict(name="full")))
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  assert run.objective.visibility.of_layers(4)[::2] == (attention.Local(8),) * 2
  cfg.network.num_layers = 3
  with pytest.raises(ValueError, match="2 attentions of per_layer do not divide the 3 layers"):
    setup_lib.setup(cfg, str(tmp_path / "run"))


def test_two_papers_at_once_are_refused():
  with pytest.raises(ValueError, match="takes one variant, got mdlm and md4"):
    diffusion.get_config("md4,mdlm")
  with pytest.raises(ValueError, match="takes one variant, got whole_word and span"):
    mlm.get_config("span,whole_word")


def test_a_rate_that_decays_does_so_over_the_steps_of_the_run():
  cfg = mlm.get_config("rate_decay")
  cfg.steps = 77
  assert cfg.objective.anneal_steps == 77


def test_spans_longer_than_the_text_are_refused_before_anything_is_written(tmp_path):
  cfg = tiny.config("mlm", objective__span_max=3)
  with pytest.raises(ValueError, match="objective.span_max 3 exceeds the 2 units") as error:
    modes.run("train", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("module, arg", tiny.mostly_slow([
    *(("structural", arg) for arg in (None, "sp", "psd", "joint", "rts")),
    ("bitimebert", None), ("bitimebert", "bitimebert1")], [("structural", "joint"),
                                                           ("bitimebert", None)]))
def test_objectives_with_rows_of_their_own_set_up_and_trace(module, arg, tmp_path):
  cfg = importlib.import_module(f"mdx.configs.{module}").get_config(arg)
  if module == "bitimebert":
    cfg.data.source.update(num_documents=40, num_validation=10)
  cfg.network.update(num_layers=1, width=16, num_heads=2, mlp_width=16)
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  rows = next(iter(pipeline.build(run.config["data"], run.tokenizer, split="train", batch_size=8,
                                  seed=0)))
  assert (rows["labels"] > 0).sum() == 8 * cfg.objective.get("num_candidates", 1)
  rows = {k: jnp.asarray(v) for k, v in rows.items()} | {"example_index": jnp.arange(8)}
  step = step_lib.make_step(run.objective, run.transform, seed=0, rate=lambda step: 0.1)
  _, metrics = jax.eval_shape(step, run.shapes, rows, {})
  own = {"structural": "pair_accuracy", "bitimebert": "dating_accuracy"}[module]
  assert {own, "rtd_nats" if arg == "rts" else "masked_nats"} <= set(metrics)
  assert ("tser_auc" in metrics) == (module == "bitimebert" and arg is None)
