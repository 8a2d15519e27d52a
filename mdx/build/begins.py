"""Where the parts of a run's parameters begin, other than all from `init.checkpoint`.

Contents: SEED, INITIAL, named, check, load.

`config.init.parts` is {name of a part: where it begins}: "init", the *model* of `init.checkpoint`
(or of the base that is trained first); "seed"; or a checkpoint of the same tokenizer, whose model
it is. So an encoder and a decoder can both begin from masked language models. Parameters that a
part adds to such a model (`types.Part.adds`, cross-attention) begin from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdx import types
from mdx.build import load as load_lib
from mdx.build import source as source_lib
from mdx.utils import tree

SEED, INITIAL = "seed", "init"


def named(config: Mapping[str, Any]) -> dict[str, str]:
  """`config.init.parts`."""
  return dict(config["init"].get("parts") or {})


def check(config: Mapping[str, Any], objective: types.Objective, tokenizer: Any,
          shapes: types.Params, adaptations: source_lib.Adaptations) -> None:
  """Raises ValueError for parts that are none, or that cannot begin there; reads no weights.

  Args:
    config: of the run.
    objective: of the run.
    tokenizer: of the run.
    shapes: shape structs of its parameters.
    adaptations: of its network.
  """
  init = config["init"]
  for name, place in named(config).items():
    where, is_path = f"config.init.parts.{name}", place not in (SEED, INITIAL)
    if not isinstance(place, str) or not place:
      raise ValueError(f"{where} is {place!r:.60}; expected init, seed or a checkpoint.")
    if name not in objective.parts():
      raise ValueError(f"{where} is no part of objective {config['objective']['name']}; its parts "
                       f"are {', '.join(objective.parts())}.")
    if place != SEED and not (init["checkpoint"] or init.get("base")):
      raise ValueError(f"{where} is {place!r}, and init.checkpoint, where all else begins, is "
                       "empty; give a masked language model there, or set the part to seed.")
    path = place if is_path else init["checkpoint"]
    if place == SEED or not path:
      continue
    if is_path:
      load_lib.check_exists(path)
      _, own = load_lib.describe(path)
      if own.fingerprint != tokenizer.fingerprint:
        raise ValueError(f"{where} {path} was trained with another tokenizer ({own.name!r:.40}) "
                         f"than this run has ({tokenizer.name!r:.40}); ids would mean other "
                         "tokens. Train it with the same tokenizer.")
    source_lib.open_source(path).check(
        {"model": _stored(objective, name, shapes[name])}, adaptations, _others(objective))


def load(config: Mapping[str, Any], objective: types.Objective, shapes: types.Params,
         fresh: types.Params, adaptations: source_lib.Adaptations) -> types.Params:
  """The parts that `config.init.parts` names.

  Args:
    config: of the run, with `init.checkpoint`.
    objective: of the run.
    shapes: shape structs with shardings, of all parts.
    fresh: the named parts as they begin from the seed.
    adaptations: of the network.
  """
  found = {}
  for name, place in named(config).items():
    found[name] = fresh[name]
    if place != SEED:
      source = source_lib.open_source(config["init"]["checkpoint"] if place == INITIAL else place)
      loaded = source.load({"model": _stored(objective, name, shapes[name])},
                           config["init"]["params"], seed=config["seed"], adaptations=adaptations,
                           fresh=_others(objective))
      found[name] = tree.overlay(loaded["model"], fresh[name])
  return found


def _stored(objective, name, shapes):
  """The shapes of a part that a model without what it adds has."""
  part = objective.parts()[name]
  return tree.part(shapes, lambda path: not part.adds(path))


def _others(objective):
  """Parts that a source may have beside its model, by any name: it is read in part."""
  return tuple(objective.parts())[1:]
