"""Adapters in the format of the library PEFT: adapter_config.json and adapter_model.safetensors.

Contents: CONFIG, FILE, fields, adapter_of, family_of, config_of.

Convention: names of modules are those of the family of the model that is adapted, so one table
serves models and their adapters. PEFT's A is our `lora_a` transposed, its B our `lora_b`; a
factor of alpha / sqrt(rank) (its `use_rslora`; Kalajdzievski 2023, arXiv:2312.03732) is read as
another alpha.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from typing import Any

from mdx.interop import family as family_lib
from mdx.networks import transformer
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import sites
from mdx.utils import readers

CONFIG = "adapter_config.json"
FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Options that change the function, with the values that are computed.
_PLAIN = dict(bias=("none", None), use_dora=(False, None), fan_in_fan_out=(False, None),
              rank_pattern=({}, None), alpha_pattern=({}, None), layers_to_transform=(None,),
              modules_to_save=(None, []), lora_bias=(False, None), layer_replication=(None,),
              megatron_config=(None,), alora_invocation_tokens=(None,), use_qalora=(False, None),
              target_parameters=(None, []), exclude_modules=(None, []))


def _modules(family: family_lib.Family, spec: transformer.Transformer) -> dict[str, tuple]:
  """Projection -> (path of its map, its table entry)."""
  found = {}
  for path, tensor in family.tensors(spec).items():
    above, _, last = path.rpartition("/")
    name = above.rpartition("/")[2]
    if last == "kernel" and path.startswith("layers/") and name in sites.PROJECTIONS:
      found[name] = (above, tensor)
  return found


def _module_name(tensor: family_lib.Tensor, layer: Any = "{layer}") -> str:
  return tensor.name.removesuffix(".weight").format(layer=layer)


def fields(path: str, family: family_lib.Family, spec: transformer.Transformer) -> dict[str, Any]:
  """Returns the adaptation "lora" of an adapter, as a table of a config.

  Args:
    path: its directory.
    family: of the model that it is for.
    spec: of that model.

  Raises:
    ValueError: no such file, another kind of adapter, or options that are not computed.
  """
  file = pathlib.Path(path) / CONFIG
  if not file.exists():
    raise ValueError(f"{file} cannot be read (it is not there); init.adapter is a directory with "
                     f"{CONFIG} and {FILE}.")
  config = readers.read_json(file, "fetch it again")
  if not isinstance(config, dict) or config.get("peft_type") != "LORA":
    kind = config.get("peft_type") if isinstance(config, dict) else None
    raise ValueError(f"{file}: peft_type {kind!r} is not known; expected LORA.")
  for key, values in _PLAIN.items():
    if config.get(key) not in values:
      raise ValueError(f"{file}: {key} = {config[key]!r} is not supported; expected {values[0]!r}.")
  rank, alpha = config.get("r"), config.get("lora_alpha")
  if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or alpha <= 0:
    raise ValueError(f"{file}: r = {rank!r} and lora_alpha = {alpha!r}; expected positive numbers.")
  wanted = config.get("target_modules")
  targets = tuple(name for name, (_, tensor) in _modules(family, spec).items()
                  if _is_target(_module_name(tensor, 0), wanted))
  if not targets:
    raise ValueError(f"{file}: target_modules {wanted!r} match none of the projections of a "
                     f"{family.model_type!r} model, such as "
                     f"{_module_name(next(iter(_modules(family, spec).values()))[1], 0)}.")
  return dict(name="lora", rank=rank, targets=targets,
              alpha=float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0))


def adapter_of(spec: transformer.Transformer) -> lora.LoRA | None:
  """Returns the adaptation of a model that the format holds."""
  return next((one for one in spec.adaptations if isinstance(one, lora.LoRA)), None)


def _is_target(module: str, wanted: Any) -> bool:
  if isinstance(wanted, str):
    return wanted == "all-linear" or bool(re.fullmatch(wanted, module))
  return any(module == name or module.endswith(f".{name}") for name in wanted or ())


def family_of(family: family_lib.Family) -> family_lib.Family:
  """The family's adapters as a family of their own: the tensors of an adapter file."""

  def tensors(spec):
    table, modules = {}, _modules(family, spec)
    for name in adapter_of(spec).targets:
      if name not in modules:
        raise ValueError(f"a {family.model_type!r} model has no projection {name!r}; leave it out "
                         "of lora.targets.")
      above, tensor = modules[name]
      if tensor.part != (0, 1):
        raise ValueError(f"{_module_name(tensor)} holds several projections in one matrix, whose "
                         f"adapter {FILE} cannot tell apart; merge it (export.format=huggingface).")
      for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
        table[f"{above}/{ours}"] = family_lib.Tensor(
            f"{_PREFIX}{_module_name(tensor)}.{theirs}.weight", transpose=True)
    return table

  return dataclasses.replace(family, tensors=tensors, beside=())


def config_of(family: family_lib.Family, spec: transformer.Transformer, base: str,
              is_causal: bool) -> dict[str, Any]:
  """adapter_config.json of the adapters of `spec`, for the model `base`."""
  modules, adapter = _modules(family, spec), adapter_of(spec)
  names = [_module_name(modules[name][1]) for name in adapter.targets]
  # Every linear module of theirs, the head too: a bare last name may be that of others.
  linear = {_module_name(t) for path, t in family.tensors(spec).items() if path.endswith("/kernel")}
  last = sorted({name.rpartition(".")[2] for name in names})
  is_exact = {name for name in linear if _is_target(name, last)} == set(names)
  pattern = "|".join(re.escape(name).replace(re.escape("{layer}"), r"\d+") for name in names)
  alpha = adapter.alpha or adapter.rank
  return dict(
      peft_type="LORA", base_model_name_or_path=base, r=adapter.rank,
      lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
      target_modules=last if is_exact else f"({pattern})", bias="none", lora_dropout=0.0,
      fan_in_fan_out=False, inference_mode=True, init_lora_weights=True, use_rslora=False,
      use_dora=False, modules_to_save=None, task_type="CAUSAL_LM" if is_causal else None)
