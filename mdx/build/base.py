"""The base model of a run: a checkpoint, or one that is trained first.

Contents: is_missing, described, base_checkpoint, missing_frozen, train_frozen,
trained_alone, loading.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mdx.build import frozen as frozen_lib
from mdx.build import load as load_lib
from mdx.build import resolve
from mdx.build import setup as setup_lib
from mdx.build import workdir as workdir_lib
from mdx.utils import console


def is_missing(config: Mapping[str, Any], workdir: str) -> bool:
  """Whether the base model will have to be trained."""
  return not config["init"]["checkpoint"] and bool(config["init"].get("base")) and not (
      _directory(workdir) / "results.json").exists()


def _directory(workdir: str) -> pathlib.Path:
  return pathlib.Path(workdir) / workdir_lib.BASE


def described(config: Mapping[str, Any], workdir: str, mesh: jax.sharding.Mesh) -> load_lib.Loaded:
  """The base model that will be trained; its parameters are shape structs with shardings.

  What follows is checked with it, so that nothing wrong is said only after the training.

  Args:
    config: with `init.base`, `dtype` and what is put on the base.
    workdir: of the run.
    mesh: of the run.
  """
  base = setup_lib.setup(config["init"]["base"], os.fspath(_directory(workdir)))
  network = resolve.adapted(base.config["network"], config, os.fspath(_directory(workdir)))
  if config.get("remat"):
    network = {**network, "remat": config["remat"]}
  model = {**base.config, "dtype": config["dtype"] or base.config["dtype"], "network": network}
  return load_lib.assemble(model, base.tokenizer, mesh, os.fspath(_directory(workdir)))


def base_checkpoint(config: Mapping[str, Any], workdir: str, train: Callable) -> str:
  """`init.checkpoint`, or the workdir of the base model, trained first if it is not there.

  Args:
    config: with `init.checkpoint` and `init.base`, a config of mode train.
    workdir: of the run; the base model's is `workdir/base`.
    train: trains a config in a workdir; returns at once where it is finished.

  Raises:
    ValueError: there is no base model to train, or the one there is of another config.
  """
  if config["init"]["checkpoint"]:
    return config["init"]["checkpoint"]
  base = os.fspath(_directory(workdir))
  if not config["init"].get("base"):
    raise ValueError("config.init.checkpoint is empty and there is no config.init.base to train; "
                     "give a checkpoint.")
  if is_missing(config, workdir):
    console.say(f"no checkpoint given: training the base model in {base}")
    train(config["init"]["base"], base)
  elif os.path.exists(os.path.join(base, "config.json")):
    run = setup_lib.setup(config["init"]["base"], base)
    workdir_lib.check_config(run.workdir, run.config)
  return base


def missing_frozen(config: Mapping[str, Any], workdir: str) -> dict[str, dict[str, Any]]:
  """Configs of the frozen models that will have to be trained, by name."""
  return {name: base for name, base in frozen_lib.bases(config).items()
          if not (pathlib.Path(frozen_lib.directory(workdir, name)) / "results.json").exists()}


def train_frozen(config: Mapping[str, Any], workdir: str, checkpoint: str, train: Callable) -> None:
  """Trains the frozen models of a config that have a `base`, where they are not there.

  Args:
    config: of the run.
    workdir: of the run.
    checkpoint: the weights that the run starts from, and these trainings; "": `init.checkpoint`.
    train: trains a config in a workdir.
  """
  begun = lambda base: {**base, "init": {
      **base["init"], "base": None, "params": config["init"]["params"],
      "checkpoint": checkpoint or config["init"]["checkpoint"]}}
  configs = {name: base if frozen_lib.is_alone(config, name) else begun(base)
             for name, base in missing_frozen(config, workdir).items()}
  for name, base in configs.items():  # what is wrong is said before one is trained
    setup_lib.setup(base, frozen_lib.directory(workdir, name))
  for name, base in configs.items():
    console.say(f"training the frozen model {name} in {frozen_lib.directory(workdir, name)}")
    train(base, frozen_lib.directory(workdir, name))


def trained_alone(config: Mapping[str, Any], directory: str, train: Callable) -> str:
  """The workdir of a training that needs nothing of another run, made first if it is not there.

  Args:
    config: of mode train.
    directory: its workdir.
    train: as in `base_checkpoint`.
  """
  if not (pathlib.Path(directory) / "results.json").exists():
    console.say(f"training the frozen model in {directory}")
    train(config, directory)
  return directory


def loading(init: Mapping[str, Any]) -> dict[str, Any]:
  """Keys of `init` that say how a model is loaded."""
  return {name: init.get(name, "") for name in ("params", "adapter", "weights", "special_tokens")}
