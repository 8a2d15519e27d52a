"""Adapters in the format of the library PEFT: adapter_config.json and adapter_model.safetensors.

Contents: CONFIG, FILE, PREFIX, modules_of, module_name, matching, whole, placed, read_config,
fields, load, adapter_of, family_of, config_of. Kinds other than LoRA are in `peft_others`.

Convention: names of modules are those of the family of the model that is adapted, so one table
serves models and their adapters. PEFT's A is our `lora_a` transposed, its B our `lora_b`; a
factor of alpha / sqrt(rank) (its `use_rslora`; Kalajdzievski 2023, arXiv:2312.03732) is read as
another alpha.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdx.interop import family as family_lib
from mdx.interop import quantised
from mdx.interop import safetensors
from mdx.interop import weights
from mdx.networks import transformer
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import sites
from mdx.utils import patterns
from mdx.utils import readers
from mdx.utils import tree

CONFIG = "adapter_config.json"
FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Options that change the function, with the values that are computed; what is absent is neutral.
_PLAIN = dict(bias=("none", None), use_dora=(False, None), fan_in_fan_out=(False, None),
              modules_to_save=(None, []), lora_bias=(False, None), layer_replication=(None,),
              init_lora_weights=(True, False, None, "gaussian", "eva", "orthogonal", "pissa",
                                 "olora"))
# Read below, or of no matter once an adapter is trained.
_READ = frozenset(("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern",
                   "exclude_modules", "alpha_pattern", "layers_to_transform", "layers_pattern"))
_IDLE = frozenset(("task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
                   "revision", "inference_mode", "lora_dropout", "megatron_core", "eva_config",
                   "qalora_group_size", "runtime_config"))
_NEUTRAL = (None, False, {}, [])
_MAX_RANK = 2**16


class _Site(NamedTuple):
  """The adapter of one projection in one layer; `alpha` with what `use_rslora` makes of it."""
  rank: int
  alpha: float

  @property
  def scale(self) -> float:
    """Factor of the product."""
    return self.alpha / self.rank


class _Adapter(NamedTuple):
  """Adapters by projection and layer, as adapter_config.json has them.

  Attributes:
    sites: projection -> layer -> the adapter there; projections without any are absent.
    start: "pissa" or "olora" if the base model is read less its product at the start, else "".
  """
  sites: dict[str, dict[int, _Site]]
  start: str

  def is_plain(self, num_layers: int) -> bool:
    """Whether every layer has the same adapters, of one rank and alpha, that start at nothing."""
    layers = list(self.sites.values())
    is_whole = all(len(found) == num_layers for found in layers)
    return is_whole and not self.start and len({s for found in layers for s in found.values()}) == 1

  @property
  def rank(self) -> int:
    """Columns of A that hold every one of them, that of the start beside it."""
    most = max(site.rank for layers in self.sites.values() for site in layers.values())
    return most * (2 if self.start else 1)


def modules_of(family: family_lib.Family, spec: transformer.Transformer) -> dict[str, tuple]:
  """Returns projection -> (path of its map, its table entry)."""
  found = {}
  for path, tensor in family.tensors(spec).items():
    above, _, last = path.rpartition("/")
    name = above.rpartition("/")[2]
    if last == "kernel" and path.startswith("layers/") and name in sites.PROJECTIONS:
      found[name] = (above, tensor)
  return found


def module_name(tensor: family_lib.Tensor, layer: Any = "{layer}") -> str:
  """Returns the name of a module of a layer, in the family's words."""
  return tensor.name.removesuffix(".weight").format(layer=layer)


def fields(path: str, family: family_lib.Family, spec: transformer.Transformer) -> dict[str, Any]:
  """Returns the adaptation "lora" of an adapter, as a table of a config.

  Ranks and factors that differ are read as the largest rank, with columns of zeros, and factors
  within B. Of a start that is taken from the base model (PiSSA, Meng et al. 2024, arXiv:2404.02948;
  OLoRA, Buyukakyuz 2024, arXiv:2406.01775) as many columns more take the start away again.

  Args:
    path: its directory.
    family: of the model that it is for.
    spec: of that model.

  Raises:
    ValueError: no such file, another kind of adapter, or options that are not computed.
  """
  adapter = _read(path, family, spec)
  one = next(iter(next(iter(adapter.sites.values())).values()))
  return dict(name="lora", rank=adapter.rank, targets=tuple(adapter.sites),
              alpha=one.alpha if adapter.is_plain(spec.num_layers) else float(adapter.rank))


def read_config(path: str) -> Any:
  """Returns adapter_config.json of a directory; ValueError if there is none."""
  file = pathlib.Path(path) / CONFIG
  if not file.exists():
    raise ValueError(f"{file} cannot be read (it is not there); init.adapter is a directory with "
                     f"{CONFIG} and {FILE}.")
  return readers.read_json(file, "fetch it again")


def _read(path: str, family: family_lib.Family, spec: transformer.Transformer) -> _Adapter:
  file, config = pathlib.Path(path) / CONFIG, read_config(path)
  if not isinstance(config, dict) or config.get("peft_type") != "LORA":
    kind = config.get("peft_type") if isinstance(config, dict) else None
    raise ValueError(f"{file}: peft_type {kind!r} is not known; expected LORA, IA3 or "
                     "PROMPT_TUNING.")
  for key, value in config.items():
    values = _NEUTRAL if key not in _PLAIN.keys() | _READ | _IDLE else _PLAIN.get(key)
    if values and not any(value == v and type(value) is type(v) for v in values):
      raise ValueError(f"{file}: {key} = {value!r:.60} is not supported; expected {values[0]!r}.")
  try:
    modules = {name: [module_name(tensor, layer) for layer in range(spec.num_layers)]
               for name, (_, tensor) in modules_of(family, spec).items()}
    sites_of = _sites(config, modules)
  except ValueError as error:
    raise ValueError(f"{file}: {error}") from None
  if not sites_of:
    wanted = config.get("target_modules")
    raise ValueError(f"{file}: target_modules {wanted!r:.200} match none of the projections of a "
                     f"{family.model_type!r} model, such as "
                     f"{module_name(next(iter(modules_of(family, spec).values()))[1], 0)}.")
  start = config.get("init_lora_weights")
  return _Adapter(sites_of, start if start in ("pissa", "olora") else "")


def _sites(config: Mapping[str, Any],
           modules: Mapping[str, list[str]]) -> dict[str, dict[int, _Site]]:
  """projection -> layer -> the adapter there."""
  names = [name for layers in modules.values() for name in layers]
  targets = matching(config.get("target_modules"), names)
  targets &= _of_layers(config, names)
  targets -= matching(config.get("exclude_modules"), names)
  ranks, alphas = (_by_pattern(config, key, pattern, names) for key, pattern in
                   (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")))
  found = {}
  for projection, layers in modules.items():
    for layer, name in enumerate(layers):
      rank, alpha = ranks[name], alphas[name]
      is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
      if (not isinstance(rank, int) or not 1 <= rank <= _MAX_RANK or not is_number
          or not 0 < alpha <= 1e9):
        raise ValueError(f"r = {rank!r:.40} and lora_alpha = {alpha!r:.40}; expected positive "
                         "numbers.")
      if name in targets:
        alpha = float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
        found.setdefault(projection, {})[layer] = _Site(rank, alpha)
  return found


def matching(wanted: Any, names: Sequence[str]) -> set[str]:
  """Returns the modules that target_modules or exclude_modules name."""
  if wanted == "all-linear":
    return set(names)
  if isinstance(wanted, str):
    return {name for name, is_one in zip(names, patterns.full_matches(wanted, names)) if is_one}
  if wanted is not None and not (isinstance(wanted, list) and all(
      isinstance(x, str) for x in wanted)):
    raise ValueError(f"the modules {wanted!r:.60} are neither names nor an expression.")
  return {name for name in names if any(name == x or name.endswith(f".{x}") for x in wanted or ())}


def _of_layers(config: Mapping[str, Any], names: Sequence[str]) -> set[str]:
  """The modules in the layers of layers_to_transform, which counts where modules are listed."""
  wanted, within = config.get("layers_to_transform"), config.get("layers_pattern")
  if wanted in (None, []) or isinstance(config.get("target_modules"), str):
    return set(names)
  wanted = wanted if isinstance(wanted, list) else [wanted]
  if not all(isinstance(i, int) and not isinstance(i, bool) for i in wanted):
    raise ValueError(f"layers_to_transform is {wanted!r:.60}; expected numbers of layers.")
  within = [within] if isinstance(within, str) else within or [r"[^.]*"]
  layers = "|".join(map(str, wanted))
  found = set()
  for pattern in map(str, within):
    expression = rf"(?:.*?\.)?(?:{pattern})\.(?:{layers})\..*"
    found |= matching(expression, names)
  return found


def _by_pattern(config: Mapping[str, Any], key: str, pattern: str,
                names: Sequence[str]) -> dict[str, Any]:
  """The value of each module: that of the first expression that matches its end, or `key`'s."""
  table = config.get(pattern) or {}
  if not isinstance(table, dict):
    raise ValueError(f"{pattern} is {table!r:.60}; expected expressions and their values.")
  found = dict.fromkeys(names, config.get(key))
  for expression, value in reversed(table.items()):
    is_name = re.fullmatch(r"[\w-]+", expression, re.ASCII)
    hit = ({name for name in names if name.rpartition(".")[2] == expression} if is_name else
           matching(rf"(?:.*\.)?(?:{expression})", names))
    found |= dict.fromkeys(hit, value)
  return found


def load(path: str, base: str | pathlib.Path, family: family_lib.Family,
         spec: transformer.Transformer, shapes: Any) -> Any:
  """Reads an adapter.

  Args:
    path: its directory.
    base: the directory of the model that it is for.
    family: of that model.
    spec: of that model.
    shapes: tree of shape structs of the adapters of one network; {}: they are only checked.

  Raises:
    ValueError: a tensor is missing, too many or of another shape.
  """
  adapter, modules = _read(path, family, spec), modules_of(family, spec)
  widths = sites.of_spec(spec)
  with contextlib.ExitStack() as stack:
    reader = stack.enter_context(safetensors.Reader(path, FILE))
    below = stack.enter_context(quantised.open_reader(base)) if adapter.start else None
    expected = {}
    for name, layers in adapter.sites.items():
      width, outer = widths[name].shape
      for layer, site in layers.items():
        for part, shape in (("A", (site.rank, width)), ("B", (outer, site.rank))):
          expected[_tensor_name(modules[name][1], part, layer)] = shape
    _check(reader, expected)
    factor = 1.0 if adapter.is_plain(spec.num_layers) else None
    found = {}
    for name, layers in adapter.sites.items() if shapes else ():
      above, tensor = modules[name]
      (width, outer), most = widths[name].shape, adapter.rank
      a = np.zeros((spec.num_layers, width, most), np.float32)
      b = np.zeros((spec.num_layers, most, outer), np.float32)
      for layer, site in layers.items():
        pair = [whole(reader, _tensor_name(tensor, part, layer)).T for part in "AB"]
        a[layer, :, :site.rank] = pair[0]
        b[layer, :site.rank] = pair[1] * (factor or site.scale)
        if below is not None:
          old = [name for name in (tensor.name, *tensor.also)
                 if name.format(layer=layer) in below.names][0].format(layer=layer)
          start = _STARTS[adapter.start](whole(below, old), site.rank)
          taken = slice(most // 2, most // 2 + site.rank)
          a[layer, :, taken] = start[1].T
          b[layer, taken] = -start[0].T * (site.scale if adapter.start == "olora" else 1.0)
      found |= {f"{above}/lora_a": a, f"{above}/lora_b": b}
  return tree.map_with_path(lambda path, leaf: placed(found[path], leaf), shapes)


def _tensor_name(tensor: family_lib.Tensor, part: str, layer: Any = "{layer}") -> str:
  if tensor.part != (0, 1, 1):
    raise ValueError(f"{module_name(tensor)} holds several projections in one matrix, whose "
                     f"adapter {FILE} cannot tell apart; merge it (export.format=huggingface).")
  return f"{PREFIX}{module_name(tensor, layer)}.lora_{part}.weight"


def _check(reader: safetensors.Reader, expected: Mapping[str, tuple[int, ...]]) -> None:
  missing = sorted(expected.keys() - set(reader.names))
  if missing:
    raise ValueError(f"{reader.path} lacks tensor {missing[0]!r}, which its {CONFIG} asks for.")
  for name in reader.names:
    if name not in expected:
      raise ValueError(f"{reader.where(name)} has no place in the model that {CONFIG} describes.")
    if reader.shape(name) != expected[name]:
      raise ValueError(f"{reader.where(name)} has shape {reader.shape(name)}; this model expects "
                       f"{expected[name]}, by r and rank_pattern of {CONFIG}.")
    reader.dtype(name)


def whole(reader: safetensors.Reader, name: str) -> np.ndarray:
  """Returns a tensor as float32; ValueError for numbers that are none."""
  value = reader.read(name, (slice(None),) * len(reader.shape(name))).astype(np.float32)
  weights.check_numbers(value, reader.where(name))
  return value


def _pissa(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """[out, rank] and [rank, in], whose product is the nearest to a kernel [out, in]."""
  left, values, right = np.linalg.svd(kernel, full_matrices=False)
  return left[:, :rank] * values[:rank], right[:rank]


def _olora(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """The first columns and rows of the QR decomposition of a kernel [out, in]."""
  left, right = np.linalg.qr(kernel)
  return left[:, :rank], right[:rank]


_STARTS = {"pissa": _pissa, "olora": _olora}


def placed(value: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns a value on the devices of a shape struct, in its type."""
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.make_array_from_callback(leaf.shape, sharding,
                                      lambda index: value[index].astype(leaf.dtype))


def adapter_of(spec: transformer.Transformer) -> lora.LoRA | None:
  """Returns the adaptation of a model that the format holds."""
  # Not a kind of LoRA with parameters of its own, which the format would lose.
  return next((one for one in spec.adaptations if type(one) is lora.LoRA), None)


def _is_target(module: str, wanted: Any) -> bool:
  return bool(matching(wanted, [module]))


def family_of(family: family_lib.Family) -> family_lib.Family:
  """The family's adapters as a family of their own: the tensors of an adapter file."""

  def tensors(spec):
    table, modules, adapter = {}, modules_of(family, spec), adapter_of(spec)
    if adapter.reads_kernel:
      raise ValueError(f"an adapter with lora.start={adapter.start} is for the kernels that its "
                       "run changed, not for the base model; merge it (export.format=huggingface).")
    for name in adapter.targets:
      if name not in modules:
        raise ValueError(f"a {family.model_type!r} model has no projection {name!r}; leave it out "
                         "of lora.targets.")
      above, tensor = modules[name]
      for part in "AB":
        table[f"{above}/lora_{part.lower()}"] = family_lib.Tensor(_tensor_name(tensor, part),
                                                                  transpose=True)
    return table

  return dataclasses.replace(family, tensors=tensors, beside=())


def config_of(family: family_lib.Family, spec: transformer.Transformer, base: str,
              is_causal: bool) -> dict[str, Any]:
  """adapter_config.json of the adapters of `spec`, for the model `base`."""
  modules, adapter = modules_of(family, spec), adapter_of(spec)
  names = [module_name(modules[name][1]) for name in adapter.targets]
  # Every linear module of theirs, the head too: a bare last name may be that of others.
  linear = {module_name(tensor) for path, tensor in family.tensors(spec).items()
            if path.endswith("/kernel")}
  last = sorted({name.rpartition(".")[2] for name in names})
  is_exact = matching(last, sorted(linear)) == set(names)
  pattern = "|".join(re.escape(name).replace(re.escape("{layer}"), r"\d+") for name in names)
  alpha = adapter.alpha or adapter.rank
  return dict(
      peft_type="LORA", base_model_name_or_path=base, r=adapter.rank,
      lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
      target_modules=last if is_exact else f"({pattern})", bias="none", lora_dropout=0.0,
      fan_in_fan_out=False, inference_mode=True, init_lora_weights=True,
      use_rslora=adapter.scaling == "sqrt",
      use_dora=False, modules_to_save=None, task_type="CAUSAL_LM" if is_causal else None)
