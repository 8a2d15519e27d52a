"""The mesh of rollouts and evaluation of an RL config, `rollout.mesh`.

Contents: sizes, placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdx import sharding
from mdx.build import load as load_lib
from mdx.build import model_parts
from mdx.eval import placement as placement_lib

_AXES = ("data", "fsdp", "tensor")


def sizes(rollout: Mapping[str, Any]) -> dict[str, int]:
  """Returns the sizes of `rollout.mesh`; {} where all are 0, or there is none.

  Raises:
    ValueError: another axis than data, fsdp and tensor.
  """
  given = rollout.get("mesh") or {}
  if unknown := [name for name in given if name not in _AXES]:
    raise ValueError(f"config.rollout.mesh has {unknown[0]!r}; the axes that decoding is cut over "
                     f"are {', '.join(_AXES)}.")
  return {name: size or 1 for name, size in given.items()} if any(given.values()) else {}


def placement(config: Mapping[str, Any], model: load_lib.Loaded, policy: Any
              ) -> placement_lib.Placement:
  """Where the model of an RL config decodes: on `rollout.mesh`, or on its own mesh.

  Args:
    config: as in configs/mdpo.py.
    model: on the mesh of the updates; its parameters may be shape structs.
    policy: describes the parts of the weights.

  Raises:
    ValueError: a mesh of another number of devices, or one that does not divide the model.
  """
  given = sizes(config["rollout"])
  if not given:
    return placement_lib.Placement(model.mesh)
  try:
    mesh = sharding.of_other_sizes(model.mesh, given)
    model_parts.build_objective(model.config, model.tokenizer, mesh)  # whose heads it divides
    found = placement_lib.Placement(
        model.mesh, mesh, parts=policy.parts(), dtype=model.config["dtype"],
        table=model.config["sharding"])
    found.shapes(model.params)
  except ValueError as error:
    raise ValueError(f"config.rollout.mesh (all 0 = none): {error}") from None
  return found
