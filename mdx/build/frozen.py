"""Frozen models of a run: teachers, scorers and references that are read and not trained.

Contents: Frozen, INITIAL, describe, initial, bases, is_alone, directory, load.

`config.frozen` is {name: dict(checkpoint=..., params="ema" | "raw")}. A frozen model is loaded in
the type that it is stored in, sharded like any model, and has neither gradient nor moments. With
the checkpoint "init" it is the run's own model at the start: of its trained parameters alone, for
the others do not change. With a `base`, a config of mode train, it is the run's own model trained
further: that config is run first, from the weights that the run starts from, under
`workdir/frozen/NAME`; with `alone`, it is a model of its own instead, from its own start.
"""

from __future__ import annotations

import pathlib
from typing import Any, Mapping, NamedTuple, Sequence

import jax

from mdx import config as config_lib
from mdx import objectives
from mdx import types
from mdx.build import load as load_lib
from mdx.build import resolve as resolve_lib
from mdx.build import source as source_lib
from mdx.data import facts as facts_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import adaptation

INITIAL = "init"
_FIELDS = {"checkpoint": "", "params": "ema", "base": None, "alone": False}


class Frozen(NamedTuple):
  """A frozen model, not loaded yet.

  Attributes:
    objective: how it is read.
    shapes: shape structs of its parameters, with shardings.
    source: where its weights are.
    which: "ema" or "raw".
    adaptations: of its network.
    tokenizer: its own.
  """
  objective: types.Objective
  shapes: types.Params
  source: str
  which: str
  adaptations: Sequence[types.Adaptation]
  tokenizer: tokenizer_lib.Tokenizer | None = None


def describe(config: Mapping[str, Any], workdir: str, mesh: jax.sharding.Mesh,
             tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Frozen]:
  """The frozen models of a config, but for `initial` ones; reads no weights.

  Args:
    config: of the run.
    workdir: of the run, where those `alone` are, or will be.
    mesh: where they go.
    tokenizer: of the run, which must be theirs where they read tokens: ids mean the same to both.

  Raises:
    ValueError: an unknown key, no such checkpoint, or a model of another tokenizer.
  """
  found = {}
  for name, given in (config.get("frozen") or {}).items():
    where = f"config.frozen.{name}"
    if not isinstance(given, Mapping):
      raise ValueError(f"{where} must be a table, dict(checkpoint=..., params=...), got "
                       f"{given!r:.60}.")
    unknown = [key for key in given if key not in _FIELDS]
    if unknown:
      raise ValueError(f"{where} has no key {unknown[0]!r}; its keys are {', '.join(_FIELDS)}."
                       + config_lib.did_you_mean(unknown[0], _FIELDS))
    fields = {**_FIELDS, **given}
    if fields["alone"] and not fields["base"]:
      raise ValueError(f"{where}.alone is of a model with a base; give the config of its training, "
                       "or leave it out.")
    if fields["base"] and not fields["checkpoint"]:
      if fields["alone"]:
        found[name] = _alone(fields, directory(workdir, name), mesh)
        _check_tokenizer(found[name], tokenizer, f"{where}.base")
      continue
    if not fields["checkpoint"]:
      raise ValueError(f"{where}.checkpoint is empty; give a run's workdir, an export or a Hugging "
                       "Face directory.")
    if fields["params"] not in ("ema", "raw"):
      raise ValueError(f"{where}.params is {fields['params']!r}; choose from ema, raw.")
    if fields["checkpoint"] == INITIAL:
      if not (config["init"]["checkpoint"] or config["init"].get("base")):
        raise ValueError(f"{where}.checkpoint is {INITIAL!r}, the weights that the run starts "
                         "from, and init.checkpoint is empty; give a checkpoint.")
      continue
    load_lib.check_exists(fields["checkpoint"])
    described, own = load_lib.describe(fields["checkpoint"])
    source = fields["checkpoint"]
    model = load_lib.assemble(described, own, mesh, source)
    put = adaptation.build(described["network"].get("adaptations", ()))
    shapes = source_lib.open_source(source).stored_types(model.params, put)
    found[name] = Frozen(model.objective, shapes, source, fields["params"], put, own)
    _check_tokenizer(found[name], tokenizer, where)
  return found


def _alone(fields: Mapping[str, Any], source: str, mesh: jax.sharding.Mesh) -> Frozen:
  """A model that is trained by a config of its own, or will be."""
  config, own = resolve_lib.resolve(fields["base"])
  config = objectives.complete(config, facts_lib.Facts(config["data"]))
  model = load_lib.assemble(config, own, mesh, source)
  put = adaptation.build(config["network"].get("adaptations", ()))
  return Frozen(model.objective, model.params, source, fields["params"], put, own)


def _check_tokenizer(frozen: Frozen, tokenizer: tokenizer_lib.Tokenizer, where: str) -> None:
  """Raises ValueError for a model that reads tokens of another vocabulary."""
  own = frozen.tokenizer
  if frozen.objective.reads_tokens and own.fingerprint != tokenizer.fingerprint:
    raise ValueError(f"{where} {frozen.source} was trained with another tokenizer "
                     f"({own.name!r:.40}) than this run has ({tokenizer.name!r:.40}); ids would "
                     "mean other tokens. Train it with the same tokenizer.")


def initial(config: Mapping[str, Any], workdir: str, objective: types.Objective,
            shapes: types.Params, adaptations: Sequence[types.Adaptation]) -> dict[str, Frozen]:
  """The frozen models that are the run's own, at the start or trained further.

  Args:
    config: of the run.
    workdir: of the run.
    objective: of the run.
    shapes: shape structs of its trained parameters.
    adaptations: of its network.
  """
  return {name: Frozen(objective, shapes, INITIAL, config["init"]["params"], adaptations)
          for name, given in (config.get("frozen") or {}).items()
          if given.get("checkpoint") == INITIAL} | {
              name: Frozen(objective, shapes, directory(workdir, name),
                           config["frozen"][name].get("params", "ema"), adaptations)
              for name in bases(config) if not is_alone(config, name)}


def bases(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Configs of the frozen models that are trained first, by name."""
  return {name: given["base"] for name, given in (config.get("frozen") or {}).items()
          if given.get("base") and not given.get("checkpoint")}


def is_alone(config: Mapping[str, Any], name: str) -> bool:
  """Whether a frozen model that is trained first is not the run's own."""
  return bool(config["frozen"][name].get("alone"))


def directory(workdir: str, name: str) -> str:
  """Workdir of the training of a frozen model."""
  return str(pathlib.Path(workdir) / "frozen" / name)


def load(frozen: Mapping[str, Frozen]) -> dict[str, types.Params]:
  """Loads the parameters of frozen models, sharded; the mesh is in context."""
  return {name: source_lib.open_source(one.source).load(one.shapes, one.which,
                                                        adaptations=one.adaptations)
          for name, one in frozen.items()}
