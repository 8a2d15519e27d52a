"""What a model family of Hugging Face is to mdx: names, options, both directions.

Contents: Tensor, Family, read_options, check_fields.

Convention: a family is one file `hf_NAME.py` that ends with a `FAMILY`. Its table maps each
parameter path of ours to one tensor of theirs, and serves import and export alike.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping

from mdx.networks import transformer


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where a parameter lies in the files.

  Attributes:
    name: its name there; "{layer}" stands for the number of the block in the names of
      parameters that are stacked over layers.
    transpose: it is stored [out, in], ours is [in, out].
  """
  name: str
  transpose: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A kind of model.

  Attributes:
    model_type: `model_type` of its config.json.
    architectures: classes of its `architectures` whose weights the table names.
    to_fields: config.json -> fields of `transformer.Transformer`; raises ValueError for an
      option that the transformer does not have.
    to_config: the other direction: spec -> entries of config.json; raises ValueError.
    tensors: spec -> {parameter path: Tensor}.
  """
  model_type: str
  architectures: tuple[str, ...]
  to_fields: Callable[[Mapping[str, Any]], dict[str, Any]]
  to_config: Callable[[transformer.Transformer], dict[str, Any]]
  tensors: Callable[[transformer.Transformer], dict[str, Tensor]]


def read_options(config: Mapping[str, Any], *, sizes: tuple[str, ...], defaults: Mapping[str, Any],
                 allowed: Mapping[str, tuple]) -> dict[str, Any]:
  """Reads and checks the options of a config.json.

  Args:
    config: its content.
    sizes: entries that must be there, positive integers.
    defaults: what the family takes where config.json is silent.
    allowed: option -> the values that our transformer computes.

  Raises:
    ValueError: an entry is missing, or has another value.
  """
  for key in sizes:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise ValueError(f"{key} is {value!r}; expected a positive integer.")
  options = {**defaults, **config}
  for key, values in allowed.items():
    value = options.get(key)
    if not any(value == v and type(value) is type(v) for v in values):
      raise ValueError(f"{key} = {value!r} is not supported; expected "
                       f"{' or '.join(map(repr, values))}.")
  for key, default in defaults.items():
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if number and (isinstance(options[key], bool) or not isinstance(options[key], (int, float))):
      raise ValueError(f"{key} is {options[key]!r}; expected a number.")
  return options


def check_fields(spec: transformer.Transformer, model_type: str, expected: Mapping[str, Any]):
  """Raises ValueError unless the fields that a family fixes have its values."""
  for field, value in expected.items():
    if getattr(spec, field) != value:
      raise ValueError(f"network.{field} = {getattr(spec, field)!r} cannot be exported as "
                       f"{model_type!r}, whose models have {value!r}.")
