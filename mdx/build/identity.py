"""Identity of a run: a hash over the built values that differ from their defaults.

Contents: defaults_of, anywhere, run_hash, differences, code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Mapping

import jax

from mdx import config as config_lib
from mdx import objectives
from mdx import samplers
from mdx.build import resolve
from mdx.data import pipeline
from mdx.networks import transformer
from mdx.rl import inference
from mdx.train import optimizer as optimizer_lib

# Key of a config -> the classes that its table is built of, by name; None: of the one class.
_TABLES = {"network": transformer.NETWORKS, "optimizer": optimizer_lib.OPTIMIZERS,
           "objective": objectives.OBJECTIVES | objectives.POLICIES}


# Keys of rollouts that release 0.1 did not have, with the values at which they change nothing.
_ROLLOUT = {"rollout.rewards": ("identity",), "rollout.max_refills": 3, "rollout.max_turns": 1,
            "rollout.max_reply_length": 64, "rollout.long_prompts": "cut",
            "rollout.filter_once": False, "rollout.pass_rate": (),
            "rollout.tree": "none"}


def defaults_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Dotted key -> default, of the fields of what a config builds."""
  found = _fields("data", pipeline.Config) | _ROLLOUT | _fields("rollout.inference",
                                                                inference.Inference)
  found |= {f"rollout.sampler.{k}": v for k, v in samplers.defaults().items() if _is_plain(v)}
  for key, table in _TABLES.items():
    name = (config.get(key) or {}).get("name")
    if name in table:
      found |= _fields(key, table[name])
  return found


def _fields(key: str, cls: type) -> dict[str, Any]:
  # Tables (schedules, attentions) are left as they are: they are built with defaults of their own.
  return {f"{key}.{field.name}": field.default for field in dataclasses.fields(cls)
          if _is_plain(field.default)}


def _is_plain(value: Any) -> bool:
  return isinstance(value, (bool, int, float, str, tuple))


def anywhere(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config with the paths of its models absolute, so that they are found from anywhere."""
  whole = lambda path: os.path.abspath(path) if path and os.path.exists(path) else path
  config = dict(config)
  if "init" in config:
    config["init"] = {k: whole(v) if k in ("checkpoint", "adapter") else v
                      for k, v in config["init"].items()}
    if parts := config["init"].get("parts"):
      config["init"]["parts"] = {name: whole(place) for name, place in parts.items()}
  if config.get("frozen"):
    config["frozen"] = {name: {**one, "checkpoint": whole(one.get("checkpoint", ""))}
                        for name, one in config["frozen"].items()}
  return config


def run_hash(config: Mapping[str, Any]) -> str:
  """The identity of a run; its workdir belongs to it."""
  config = anywhere(resolve.translated_run(config))
  return config_lib.run_hash(config, defaults_of(config))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Names the keys in which two runs differ, and both values."""
  old, new = (anywhere(resolve.translated_run(config)) for config in (old, new))
  return config_lib.differences(old, new, defaults_of(new))


def code() -> str:
  """Hash of the code of mdx, and of the release of JAX."""
  folder, digest = pathlib.Path(__file__).parents[1], hashlib.sha256(jax.__version__.encode())
  for file in sorted(folder.rglob("*.py")):
    digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
  return digest.hexdigest()
