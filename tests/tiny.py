"""Shipped configs made small, for tests.

Contents: PARTS, config, CONFIGS (those that train, and read no other model), OTHERS, changed,
stored, policy, mostly_slow.
"""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from mdx import checkpoint as checkpoint_lib
from mdx import configs
from mdx import samplers
from mdx import types
from mdx.networks import axes
from mdx.utils import files
from mdx.utils import rng

_ALL = {p.stem: importlib.import_module(f"mdx.configs.{p.stem}").get_config()
        for p in sorted(pathlib.Path(configs.__path__[0]).glob("*.py"))
        if p.stem not in ("__init__", "common")}
CONFIGS = [name for name, cfg in _ALL.items() if cfg.mode == "train" and not cfg.frozen]
OTHERS = [name for name in _ALL if name not in CONFIGS]
# The parts of parameters that are a transformer's alone.
PARTS = {"model": types.Part(None, axes.axes, axes.decays)}
_TEXT = "It was the best of times, it was the worst of times; it was the age of wisdom. "


def config(name: str, **changes):
  """The config of `configs/NAME.py` at a size that runs in seconds.

  Args:
    name: file name without ".py".
    **changes: dotted keys with "__" for ".", e.g. data__length=8.
  """
  cfg = importlib.import_module(f"mdx.configs.{name}").get_config()
  small = {
      "steps": 2, "batch_size": 8, "network.num_layers": 2, "network.width": 16,
      "network.num_heads": 2, "network.mlp_width": 32, "tokenizer.path": "char",
      "data.length": 16, "eval.num_samples": 2, "eval.final_samples": 2, "sampler.num_samples": 2,
      "sampler.steps": 4}
  documents = tuple(_TEXT[i:] + _TEXT[:i] for i in range(0, 60, 2))
  if cfg.data.source.name == "text":
    cfg.data.source = dict(name="memory", documents=documents, holdout_every=5)
  else:  # conversations: small already, and they need their tokenizer
    small |= {"tokenizer.path": cfg.tokenizer.path, "data.length": cfg.data.length}
  if cfg.objective.get("lexicon"):  # it is of another tokenizer
    small["objective.lexicon"] = ""
  if cfg.objective.get("context_layers"):  # of fewer layers
    small["objective.context_layers"] = 1
  if "rules" in cfg.eval:
    small |= {"eval.rules": dict(joint=dict(tokens_per_call=(2,))), "eval.num_rows": 8}
  if cfg.eval.get("evaluators"):  # they read the packaged texts
    small["eval.evaluators"] = ()
  if "base" in cfg.init:
    small["init.base"] = None
  if "parts" in cfg.init:  # of the base
    small["init.parts"] = {}
  if "window" in cfg.objective:  # of longer rows
    small["objective.window"] = 8
  return changed(cfg, small | {k.replace("__", "."): v for k, v in changes.items()})


def changed(cfg, changes):
  """Sets dotted keys of a config, in place."""
  for key, value in changes.items():
    target, last = cfg, key.split(".")
    for part in last[:-1]:
      target = target[part]
    with target.unlocked():
      target[last[-1]] = value
  return cfg


def stored(workdir):
  """The newest checkpoint of a run: step, item -> tree of numpy arrays."""
  directory = checkpoint_lib.step_directories(workdir)[0]
  names = [n for n in ("params", "ema", "opt_state") if (directory / n).is_dir()]
  assert "params" in names
  items = ocp.load_checkpointables(directory, dict.fromkeys(names))
  items = {k: jax.tree.map(np.asarray, v) for k, v in items.items()}
  data = sorted(p.read_text() for p in (directory / "data").glob("process_*.json"))
  return int(directory.name), items | {"data": data}


def policy(workdir, **fields):
  """Makes the weights of a policy of sampler unmasking, as of a run; returns their path.

  Args:
    workdir: to make.
    **fields: of the sampler of its rollouts.
  """
  fields = {"name": "unmasking", "policy_width": 8, "policy_heads": 1} | fields
  rule = samplers.check_fields(fields)
  params = {name: part.init(rng.root(0)) for name, part in rule.parts().items()}
  workdir.mkdir(parents=True)
  checkpoint_lib.save_params(str(workdir / "weights"), params, {"step": 1})
  files.write_json(workdir / "config.json", {"config": {
      "objective": {"name": "action_grpo"}, "rollout": {"sampler": fields}}})
  return str(workdir / "weights")


def mostly_slow(values, quick, ci=None):
  """Values for `parametrize`, all but the quick ones with the marker `slow`.

  Args:
    values: what the parameters are given, in order.
    quick: those that the default suite runs.
    ci: further ones that `.ci/run` runs; the rest has the marker `release` too. None: all.
  """
  assert all(value in values for value in [*quick, *(ci or ())])
  several = lambda value: value if isinstance(value, tuple) else (value,)
  marks = lambda value: [pytest.mark.slow] + [pytest.mark.release] * (
      ci is not None and value not in ci)
  return [value if value in quick else pytest.param(*several(value), marks=marks(value))
          for value in values]


def first(values, number):
  """Values for `parametrize`, all after the first ones with the marker `slow`; order is kept."""
  several = lambda value: value if isinstance(value, tuple) else (value,)
  slow = lambda value: (pytest.param(*value.values, marks=[*value.marks, pytest.mark.slow],
                                     id=value.id) if hasattr(value, "marks")
                        else pytest.param(*several(value), marks=pytest.mark.slow))
  return [value if i < number else slow(value) for i, value in enumerate(values)]


def releases(*values, **options):
  """A value for `parametrize` that is run before a release alone."""
  return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.release], **options)
