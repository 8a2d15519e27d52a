"""Model families of Hugging Face: names, options, both directions.

Contents: HEADS, Tensor, linear, LabelHead, WORDS, Family, alias, labelling, body, is_positive,
read_options, check_fields, first_id.

Convention: a family is one file `hf_NAME.py` that ends with a `FAMILY`. Its table maps each
parameter path of ours to a tensor of theirs, and serves import and export alike.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Mapping, NamedTuple

from mdx.networks import transformer

# First part of the paths of the parameters that a model without a head lacks.
HEADS = ("head_dense", "head_norm", "lm_head", "rtd_head")
_LARGEST, _LARGEST_SIZE, _MOST_LAYERS = 1e15, 2**28, 4096  # of what a config.json may say
# Fields of a spec that check_fields leaves free.
_SIZES = ("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "mlp_width", "norm_eps",
          "rope_theta", "max_length", "vocab_size", "tied")
_HOW_COMPUTED = ("vocab_multiple", "dtype", "scan_layers", "remat", "init_std", "attention_backend",
                 "dropout", "attention_dropout", "drophead")


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Location of a parameter in the files.

  Attributes:
    name: its name there; "{layer}" stands for the number of the block in the names of
      parameters that are stacked over layers, "{expert}" for that of the expert.
    transpose: it is stored [out, in], ours is [in, out].
    part: (begin, end, n): it is so many of n equal parts of the stored tensor's first axis.
    first: blocks before this one have no such tensor; ours is not read there.
    begin: number of the block that is the first of our stack.
    also: further names that files give it: older ones, and copies of tied weights.
    used: the one of these names that counts where what is stored differs; "" = `name`.
  """
  name: str
  transpose: bool = False
  part: tuple[int, int, int] = (0, 1, 1)
  first: int = 0
  begin: int = 0
  also: tuple[str, ...] = ()
  used: str = ""


def linear(path: str, name: str, *, has_bias: bool = False, **fields: Any) -> dict[str, Tensor]:
  """The entries of a linear map: its matrix, which torch stores transposed, and its bias."""
  table = {f"{path}/kernel": Tensor(f"{name}.weight", transpose=True, **fields)}
  return table | ({f"{path}/bias": Tensor(f"{name}.bias", **fields)} if has_bias else {})


class LabelHead(NamedTuple):
  """Head of a class that labels texts or words.

  Attributes:
    form: the `head_form` of objectives for labels whose part `task` is such a head; "" = none.
    tensors: path in that part -> Tensor; those of a head without a form have no names of ours.
    beside: patterns of the names of the head's tensors.
  """
  form: str
  tensors: Mapping[str, Tensor]
  beside: tuple[str, ...] = (r"classifier\..*",)


WORDS = LabelHead("words", linear("out", "classifier", has_bias=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A model family.

  Attributes:
    model_type: `model_type` of its config.json.
    architectures: classes of its `architectures` whose weights the table names.
    to_fields: config.json -> fields of `transformer.Transformer`; raises ValueError for an
      option that the transformer does not have.
    to_config: the other direction: spec -> entries of config.json; raises ValueError.
    tensors: spec -> {parameter path: Tensor}.
    headed: fields of the transformer that every one with a head has.
    objective: config.json -> `name` and the fields that say how such a model is read; {} if
      it does not write text.
    beside: patterns of names of tensors that are no part of the network (a pooler, buffers).
      They are left alone on import, and copied by an export that knows where they came from.
    bodies: classes of `architectures` without a head, whose names begin behind `prefix`.
    prefix: of the names of the body in the classes with a head.
    labelled: classes of `architectures` that label texts or words, with their heads.
    decoding: config.json -> fields of a rule of `samplers` of its authors' decoder; {} where
      they have none of their own.
    key: its name in `FAMILIES` and in `export.model_type`; "" = `model_type`.
  """
  model_type: str
  architectures: tuple[str, ...]
  to_fields: Callable[[Mapping[str, Any]], dict[str, Any]]
  to_config: Callable[[transformer.Transformer], dict[str, Any]]
  tensors: Callable[[transformer.Transformer], dict[str, Tensor]]
  objective: Callable[[Mapping[str, Any]], dict[str, Any]]
  beside: tuple[str, ...] = ()
  bodies: tuple[str, ...] = ()
  prefix: str = ""
  labelled: Mapping[str, LabelHead] = dataclasses.field(default_factory=dict)
  headed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoding: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config: {}
  key: str = ""

  def __post_init__(self):
    object.__setattr__(self, "key", self.key or self.model_type)


def alias(base: Family, model_type: str, architecture: str, **changes: Any) -> Family:
  """A family whose config.json has another type and class, and what else is said to differ."""
  own = dict(model_type=model_type, architectures=[architecture])
  usual = dict(bodies=(), labelled={}, key="", to_config=lambda spec: base.to_config(spec) | own)
  return dataclasses.replace(base, model_type=model_type, architectures=(architecture,),
                             **usual | changes)


def labelling(base: Family, architecture: str) -> Family:
  """The family of the bodies of a class of `base.labelled`, beside which their head stands."""
  found = body(base, architecture, prefix="")
  return dataclasses.replace(
      found, beside=found.beside + base.labelled[architecture].beside,
      labelled={architecture: base.labelled[architecture]})


def body(base: Family, architecture: str, prefix: str | None = None) -> Family:
  """The family of the models without a head of a class of `base.bodies`; they write no text.

  Args:
    base: the family.
    architecture: the class.
    prefix: of names, which is left out; None = that of the body in classes with a head.
  """
  prefix = base.prefix if prefix is None else prefix
  bare = dict(head="none", head_transform=False, transform_bias=False, head_bias=False, tied=True)

  def tensors(spec):
    return {path: dataclasses.replace(
        tensor, name=tensor.name.removeprefix(prefix), also=tuple(
            name.removeprefix(prefix) for name in tensor.also if name.startswith(base.prefix)))
            for path, tensor in base.tensors(dataclasses.replace(
                spec, **{"head": "lm"} | base.headed)).items()
            if path.partition("/")[0] not in HEADS}

  def to_config(spec):
    check_fields(spec, base.model_type, {f.name: None for f in dataclasses.fields(spec)} | bare)
    return base.to_config(dataclasses.replace(spec, **{"head": "lm"} | base.headed)) | dict(
        architectures=[architecture])

  return dataclasses.replace(
      base, architectures=(architecture,), bodies=(), labelled={}, tensors=tensors,
      to_config=to_config,
      to_fields=lambda config: base.to_fields(config) | bare, objective=lambda config: {},
      beside=tuple(pattern.removeprefix(re.escape(prefix)) for pattern in base.beside))


def is_positive(value: Any) -> bool:
  """Whether something is a finite number above 0."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_number and 0 < value <= _LARGEST


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
  options = {**defaults, **config}
  optional = [key for key, value in defaults.items() if key not in allowed and not isinstance(
      options[key], (bool, type(None))) and not isinstance(value, (bool, str, float))]
  for key in (*sizes, *optional):
    value = options.get(key)
    least = 0 if key.endswith("_id") else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
      raise ValueError(f"{key} is {value!r:.40}; expected a positive integer.")
    most = _MOST_LAYERS if "layers" in key else _LARGEST_SIZE
    if value > most:
      raise ValueError(f"{key} is {value!r:.40}; expected at most {most}.")
  for key, values in allowed.items():
    value = options.get(key)
    if not any(value == v and type(value) is type(v) for v in values):
      raise ValueError(f"{key} = {value!r:.60} is not supported; expected "
                       f"{' or '.join(map(repr, values))}.")
  for key, default in defaults.items():
    is_zero = type(options[key]) in (int, float) and options[key] == 0 and (
        isinstance(default, float) or key.endswith("_id"))
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if is_number and not is_zero and not is_positive(options[key]):
      raise ValueError(f"{key} is {options[key]!r:.40}; expected a positive number.")
  return options


def check_fields(spec: transformer.Transformer, model_type: str, allowed: Mapping[str, Any]):
  """Raises ValueError unless a spec is one that a family can hold.

  Args:
    spec: the model.
    model_type: of the family, for the message.
    allowed: field -> the value it must have; None: any. Sizes are free, and of the other
      fields that change the function the default is the only value.
  """
  for field in dataclasses.fields(spec):
    if field.name in _SIZES or field.name in _HOW_COMPUTED:
      continue
    if field.name in allowed and allowed[field.name] is None:
      continue
    value, wanted = getattr(spec, field.name), allowed.get(field.name, field.default)
    if value != wanted:
      raise ValueError(f"network.{field.name} = {value!r} cannot be exported as {model_type!r}, "
                       f"whose models have {wanted!r}.")


def first_id(value: Any) -> Any:
  """An id of a config.json, of which some give several."""
  return value[0] if isinstance(value, list) and value else value
