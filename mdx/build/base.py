"""The base model of a run: a checkpoint, or one that is trained first.

Contents: base_checkpoint, loading.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mdx.utils import console


def base_checkpoint(config: Mapping[str, Any], workdir: str, train: Callable) -> str:
  """`init.checkpoint`, or the workdir of the base model, trained first if it is not there.

  Args:
    config: with `init.checkpoint` and `init.base`, a config of mode train.
    workdir: of the run; the base model's is `workdir/base`.
    train: trains a config in a workdir; returns at once where it is finished.
  """
  if config["init"]["checkpoint"]:
    return config["init"]["checkpoint"]
  base = os.path.join(workdir, "base")
  if not config["init"].get("base"):
    raise ValueError("config.init.checkpoint is empty and there is no config.init.base to train; "
                     "give a checkpoint.")
  if not (pathlib.Path(base) / "results.json").exists():
    console.say(f"no checkpoint given: training the base model in {base}")
    train(config["init"]["base"], base)
  return base


def loading(init: Mapping[str, Any]) -> dict[str, Any]:
  """What says how a model is loaded."""
  return {name: init.get(name, "") for name in ("params", "adapter", "weights", "special_tokens")}
