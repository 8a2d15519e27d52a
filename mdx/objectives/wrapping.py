"""Objectives that are about a model which another objective trained.

Contents: build, About.
"""

from __future__ import annotations

from typing import Any, Mapping, Protocol, TypeVar

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


class About(types.Objective, Protocol):
  """Base of objectives about a model: what they do not say themselves is the model's.

  Attributes:
    model: the objective that the model was trained with, a field of the dataclass.
  """
  model: types.Objective

  @classmethod
  def build(cls, fields, world):
    """The model's own objective is built in the same world."""
    return build(cls, fields, world)

  @property
  def network(self) -> types.Network:
    """The model's network."""
    return self.model.network

  def parts(self):
    """Parts of the model."""
    return self.model.parts()

  def longest(self, length):
    """The model's."""
    return self.model.longest(length)

  def check_length(self, length):
    """Checks the length as the model does."""
    self.model.check_length(length)

  def reader(self):
    """The model's."""
    return self.model.reader()

  def embedder(self):
    """The model's."""
    return self.model.embedder()

  def served(self, config):
    """An export is read as the model was."""
    return self.model.served(config["model"])
