"""Configs: from a literal table to a frozen dataclass; checks, dump and hash.

Contents: build, construct, check, check_number, did_you_mean, did_you_mean_key, parse_arg,
parse_variant, to_dict, flatten, identity, run_hash, first_hash, differences.

Convention: every error here is a ValueError of one line, raised before any device is touched.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import numbers
from typing import Any, Mapping

# Keys that may change between two starts of one run: they say where and how it
# runs or what is reported, not what is computed.
_NOT_IDENTITY = ("mode", "mesh", "sharding", "microbatches", "log_steps", "eval_steps",
                 "checkpoint_steps", "export", "checkpoint", "tensorboard", "compile", "remat",
                 "profile_steps")
# A run that on_error would change has stopped; the others say where rollouts are decoded.
_NOT_IDENTITY_EITHER = ("data.on_error", "rollout.mesh", "rollout.mesh.data", "rollout.mesh.fsdp",
                        "rollout.mesh.tensor")
_ABSENT = "absent"
# Keys that release 0.1 did not have, with the value at which they change nothing.
_LATER: dict[str, Any] = {"frozen": {}, "eval.evaluators": [], "adaptations": [],
                          "optimizer.masks": [], "data.on_error": "stop", "init.special_tokens": "",
                          "batch_warmup": [], **dict.fromkeys((
                              "data.source.subset", "data.source.revision",
                              "data.source.train_split", "data.source.validation_split"), "")}


def build(table: Mapping[str, type], cfg: Mapping[str, Any], *, what: str = "", **extra) -> Any:
  """Builds `table[cfg["name"]]` from the remaining keys of `cfg`.

  Args:
    table: name -> frozen dataclass.
    cfg: mapping with `name`; the other keys are fields of the dataclass.
    what: what is being built, for messages ("objective").
    **extra: fields that do not come from the config (networks).

  Raises:
    ValueError: unknown name (lists the choices), unknown keyword, or a field
      without a default that is not given.
  """
  what = what or "component"
  try:
    cfg = dict(cfg)
  except (TypeError, ValueError):
    raise ValueError(f"{what} is {cfg!r}; expected a table, dict(name=..., ...).") from None
  name = cfg.pop("name", None)
  if not isinstance(name, str) or name not in table:
    raise ValueError(f"unknown {what} name {name!r}; choose from {', '.join(sorted(table))}."
                     + did_you_mean(str(name), table))
  return construct(table[name], {"name": name, **cfg}, what=what, **extra)


def construct(cls: type, cfg: Mapping[str, Any], *, what: str, **extra) -> Any:
  """Builds a frozen dataclass from a table of its fields.

  Args:
    cls: the dataclass.
    cfg: values of its fields, and its `name` for messages; lists become tuples.
    what: kind of thing, for messages.
    **extra: fields that do not come from the config; those that the class lacks are left out.

  Raises:
    ValueError: an unknown field, or one without a default that is not given.
  """
  cfg = dict(cfg)
  what = f"{what} {cfg.pop('name')!r}" if "name" in cfg else what
  own = {f.name for f in dataclasses.fields(cls) if f.init}
  extra = {k: v for k, v in extra.items() if k in own}
  fields = [f for f in dataclasses.fields(cls) if f.init and f.name not in extra]
  choices = sorted(f.name for f in fields)
  unknown = [k for k in cfg if k not in choices]
  if unknown:
    raise ValueError(f"{what} has no field {unknown[0]!r}; its fields are "
                     f"{', '.join(choices) or 'none'}."
                     + (did_you_mean(unknown[0], choices) or " If the config was written for "
                        "another name, use one that is written for this."))
  missing = [f.name for f in fields if f.name not in cfg and f.default is dataclasses.MISSING
             and f.default_factory is dataclasses.MISSING]
  if missing:
    raise ValueError(f"{what} needs a value for {', '.join(missing)}.")
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items()}
  for field in fields:
    if field.name in values:
      _check_type(values[field.name], field, f"{what} {field.name}")
  return cls(**values, **extra)


_LARGEST = {"int": 2 ** 31 - 1, "float": 2.0 ** 53}  # counts are int32 on the devices
_TYPES = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text"}


def _check_type(value: Any, field: dataclasses.Field, where: str) -> None:
  """Raises ValueError for a value that is none of a field's plain types; others are not checked.

  Numbers have an ordinary size; a field with the metadata `takes_inf` may be infinite.
  """
  kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
  kinds = kind.split(" | ")
  if kinds[0].startswith("tuple[") and len(kinds) == 1:
    _check_items(value, kinds[0], where)
  if not set(kinds) <= {*_TYPES, "None"}:
    return
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  fits = {"None": value is None, "bool": isinstance(value, bool), "str": isinstance(value, str),
          "int": isinstance(value, numbers.Integral) and not isinstance(value, bool),
          "float": is_number}
  expected = " or ".join(_TYPES.get(kind, kind) for kind in kinds)
  if not any(fits[kind] for kind in kinds):
    raise ValueError(f"{where} must be {expected}, got {value!r:.60}.")
  limit = _LARGEST[kinds[0]] if kinds[0] in _LARGEST else 0
  if is_number and abs(value) == math.inf and field.metadata.get("takes_inf"):
    return
  if is_number and not abs(value) <= limit and value != field.default:
    raise ValueError(f"{where} must be {expected} of an ordinary size, got {value!r:.60}.")


def _check_items(value: Any, kind: str, where: str) -> None:
  """Raises ValueError for what is no tuple, or has items of another type than a field says."""
  item = kind.removeprefix("tuple[").removesuffix(", ...]")
  words = {"int": "whole numbers", "float": "numbers", "str": "texts"}
  if not isinstance(value, tuple):
    raise ValueError(f"{where} must be a list{' of ' * (item in words)}{words.get(item, '')}, got "
                     f"{value!r:.60}.")
  of = {"int": numbers.Integral, "float": numbers.Real, "str": str}.get(item, object)
  wrong = [x for x in value if not isinstance(x, of)]
  if wrong:
    raise ValueError(f"{where} must be a list of {words[item]}, got {wrong[0]!r:.60} in it.")


def check_number(value: Any, where: str, low: float, high: float, *, whole: bool = True) -> None:
  """Raises ValueError unless a value is a number in [low, high]; nan never is.

  Args:
    value: as a config has it.
    where: its name, such as "config.updates".
    low, high: the interval.
    whole: only whole numbers pass.
  """
  kind: Any = numbers.Integral if whole else numbers.Real
  if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
    raise ValueError(f"{where} must be a {'whole ' * whole}number of at least {low:g} and at most "
                     f"{high:.12g}, got {value!r:.60}.")


def check(owner: Any, where: str, *, choices: Mapping[str, Any] | None = None,
          at_least: Mapping[str, float] | None = None,
          between: Mapping[str, str] | None = None) -> None:
  """Checks fields of an object in one wording; nan never passes.

  Args:
    owner: object whose fields are checked.
    where: its place in a config, such as "objective".
    choices: field -> allowed values.
    at_least: field -> smallest value.
    between: field -> interval, such as "(0, 1]".

  Raises:
    ValueError: "objective.mask_rate must lie in (0, 1], got 2."
  """
  for field, allowed in (choices or {}).items():
    if (value := getattr(owner, field)) not in allowed:
      raise ValueError(f"{where}.{field} is {value!r}; choose from {', '.join(map(str, allowed))}."
                       + did_you_mean(str(value), [str(x) for x in allowed]))
  for field, low in (at_least or {}).items():
    if not (value := getattr(owner, field)) >= low:
      raise ValueError(f"{where}.{field} must be at least {low}, got {value}.")
  for field, interval in (between or {}).items():
    low, high = (float(x) for x in interval[1:-1].split(","))
    value = getattr(owner, field)
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
      raise ValueError(f"{where}.{field} must lie in {interval}, got {value}.")


# Names of other libraries for fields of ours.
_ELSEWHERE = {"max_new_tokens": "gen_length", "max_gen_toks": "gen_length",
              "max_tokens": "gen_length", "max_completion_tokens": "gen_length",
              "max_completion_length": "gen_length", "gen_len": "gen_length",
              "max_length": "gen_length", "diffusion_steps": "steps", "num_steps": "steps",
              "num_inference_steps": "steps", "cfg_scale": "guidance_scale",
              "cfg": "guidance_scale", "remasking": "confidence", "alg": "confidence",
              "alg_temp": "order_temperature",
              "lr": "learning_rate", "max_steps": "steps", "num_train_steps": "steps",
              "hidden_size": "width", "d_model": "width", "n_embd": "width",
              "num_hidden_layers": "num_layers", "n_layers": "num_layers", "n_layer": "num_layers",
              "num_attention_heads": "num_heads", "n_heads": "num_heads", "n_head": "num_heads",
              "intermediate_size": "mlp_width", "ffn_dim": "mlp_width",
              "num_key_value_heads": "num_kv_heads", "max_seq_length": "length",
              "seq_len": "length", "block_size": "length", "train_batch_size": "batch_size",
              "per_device_train_batch_size": "batch_size", "warmup": "warmup_steps",
              "max_grad_norm": "clip_norm", "grad_clip": "clip_norm", "max_position_embeddings":
              "max_length", "gradient_accumulation_steps": "microbatches", "ema": "ema_decay"}


def did_you_mean(word: str, choices) -> str:
  """A hint for a mistyped name, or one of another library, or ""."""
  choices = list(choices)
  known = [_ELSEWHERE[word]] if _ELSEWHERE.get(word) in choices else []
  close = known or difflib.get_close_matches(word, choices, n=1)
  return f" Did you mean {close[0]!r}?" if close else ""


def did_you_mean_key(word: str, config: Mapping[str, Any], table: str = "") -> str:
  """As `did_you_mean`, over the keys of a config and of the tables in it, as dotted names.

  Args:
    word: the mistyped name.
    config: the config.
    table: dotted name of the table that has no such key, whose keys come first; "" = the config.
  """
  keys, prefix = list(flatten(config)), f"{table}." if table else ""
  own = {key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)}
  if table and did_you_mean(word, own):
    return did_you_mean(word, own).replace("mean '", f"mean '{prefix}")
  known = [key for name in (word, _ELSEWHERE.get(word)) for key in keys
           if key.split(".")[-1] == name]
  if known:
    return f" Did you mean {' or '.join(known[:3])}?"
  return did_you_mean(word, own) or did_you_mean(
      word, {key.split(".")[-1] for key in keys} | set(keys))


def parse_arg(arg: str | None, **defaults) -> dict[str, Any]:
  """Parses `file.py:key=value,flag` into typed values.

  Args:
    arg: text after the colon; a bare word sets that key to True.
    **defaults: allowed keys with their defaults, whose types are kept.

  Raises:
    ValueError: unknown key or a value of the wrong type.
  """
  values = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    key, given, text = item.partition("=")
    if key not in defaults:
      raise ValueError(f"unknown config argument {key!r}; this config takes "
                       f"{', '.join(sorted(defaults)) or 'none'}." + did_you_mean(key, defaults))
    default = defaults[key]
    try:
      if isinstance(default, bool):
        values[key] = {"": True, "true": True, "false": False}[text.lower()]
      elif not given:
        raise ValueError
      else:
        values[key] = type(default)(text)
    except (KeyError, ValueError):
      raise ValueError(f"config argument {key}: expected {type(default).__name__}, "
                       f"got {text!r}.") from None
  return values


def parse_variant(arg: str | None, variants, **defaults) -> tuple[str, dict[str, Any]]:
  """Parses `file.py:VARIANT,key=value` into the variant ("": none) and the values of the keys.

  Raises:
    ValueError: several variants, or as `parse_arg`.
  """
  values = parse_arg(arg, **defaults, **dict.fromkeys(variants, False))
  chosen = [name for name in variants if values.pop(name)]
  if len(chosen) > 1:
    raise ValueError(f"this config takes one variant, got {' and '.join(chosen)}; choose from "
                     f"{', '.join(variants)}.")
  return (chosen or [""])[0], values


def to_dict(cfg: Any) -> Any:
  """Turns a ConfigDict (or nested mapping) into plain dicts and lists."""
  if hasattr(cfg, "to_dict"):
    cfg = cfg.to_dict()
  if isinstance(cfg, Mapping):
    return {str(k): to_dict(v) for k, v in cfg.items()}
  if isinstance(cfg, (list, tuple)):
    return [to_dict(v) for v in cfg]
  return cfg


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
  """Returns {"objective.name": ...} of a nested config."""
  flat = {}
  for key, value in to_dict(cfg).items():
    if isinstance(value, dict) and value:
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def identity(cfg: Any, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The values of a config that say what a run computes, by dotted key.

  A value that is its default is left out, and of keys without a known one what is neutral: "",
  None, an empty list or table, and also 0 and False but in tables with a `name`, which are built
  by classes with defaults of their own. So a key that a later release adds with such a value
  changes no identity.

  Args:
    cfg: the config.
    defaults: dotted key -> value of what is built where the key is absent.
  """
  defaults = to_dict(defaults or {})
  kept = {k: v for k, v in to_dict(cfg).items() if k not in _NOT_IDENTITY}
  flat, found = flatten(kept), {}
  for key in _NOT_IDENTITY_EITHER:
    flat.pop(key, None)
  for key, value in flat.items():
    above = key.split(".")[:-1]
    is_built = any(".".join((*above[:i + 1], "name")) in flat for i in range(len(above)))
    if key in defaults:
      is_neutral = defaults[key] == value and type(defaults[key]) is type(value)
    else:
      is_neutral = not value and not (is_built and isinstance(value, (bool, int, float)))
    if not is_neutral:
      found[key] = value
  return found


def run_hash(cfg: Any, defaults: Mapping[str, Any] | None = None) -> str:
  """Hash of `identity(cfg, defaults)`; a workdir belongs to one hash."""
  return _hash(identity(cfg, defaults))


def first_hash(cfg: Any) -> str:
  """Hash of release 0.1, over all keys that it had; names of shared base models are made of it."""
  kept = {k: v for k, v in to_dict(cfg).items() if k not in _NOT_IDENTITY}
  return _hash(_without(kept, _LATER))


def _without(table: dict[str, Any], later: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """A table without keys that came later and stand at their neutral value."""
  found = {}
  for key, value in table.items():
    path = prefix + key
    if path in later and value == later[path]:
      continue
    found[key] = _without(value, later, f"{path}.") if isinstance(value, dict) else value
  return found


def _hash(value: Any) -> str:
  text = json.dumps(value, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, defaults: Mapping[str, Any] | None = None) -> list[str]:
  """Names the keys in which two configs differ, and both values."""
  a, b = identity(old, defaults), identity(new, defaults)
  shown = [flatten(cfg) for cfg in (old, new)]
  show = lambda table, k: table.get(k, _ABSENT)
  return [f"{k}: {show(shown[0], k)!r} -> {show(shown[1], k)!r}"
          for k in sorted(a.keys() | b.keys()) if a.get(k, _ABSENT) != b.get(k, _ABSENT)]
