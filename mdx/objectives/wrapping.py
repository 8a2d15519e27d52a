"""Objectives that are about a model which another objective trained.

Contents: build.
"""

from __future__ import annotations

from typing import Any, Mapping, TypeVar

from mdx import config as config_lib
from mdx import types

T = TypeVar("T")


def build(cls: type[T], fields: Mapping[str, Any], world: types.World, **given: Any) -> T:
  """Builds an objective whose field `model` is that of the model's training, in the same world.

  Args:
    cls: the objective.
    fields: `config.objective`, with `model`.
    world: what `Objective.build` was given.
    **given: further fields, which no config has.

  Raises:
    ValueError: no `model`, an unknown field, or a value that the objective refuses.
  """
  if "model" not in fields:
    raise ValueError("objective.model is missing; give the objective that the model was trained "
                     "with, such as dict(name=\"diffusion\").")
  return config_lib.construct(cls, {k: v for k, v in fields.items() if k != "model"},
                              what="objective", model=world.objective(fields["model"]), **given)
