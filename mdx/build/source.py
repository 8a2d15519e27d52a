"""Models to start from: checkpoints of ours, and Hugging Face directories.

Contents: tokenizer_of, network_of, variant, trained, resolve, stored_types, check_params,
load_params, find_config, origin.

Convention: what a Hugging Face directory says of itself (network, tokenizer, how its model is
read) is taken from there, whatever the config has; how it is computed is the config's. Adapters
(networks.lora) and int8 weights (networks.quantized) are put on a model while it is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any, Callable, Mapping, Sequence

import jax

from mdx import checkpoint as checkpoint_lib
from mdx import interop
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.networks.adaptation import int8 as quantized
from mdx.networks.adaptation import lora
from mdx.utils import tree

_VARIANT = ("weights", "lora_rank", "lora_alpha", "lora_targets")
_ARCHITECTURE = frozenset(f.name for f in dataclasses.fields(transformer.Transformer)) - {
    "vocab_multiple", "dtype", "scan_layers", "remat", "init_std", "attention_backend", *_VARIANT}


def tokenizer_of(path: str, *, chat_template: str = "", **ids: int) -> tokenizer_lib.Tokenizer:
  """The tokenizer of a Hugging Face directory; one of bare ids where there is none.

  Args:
    path: the directory.
    chat_template: as `tokenizer.build` takes it.
    **ids: special ids, over those of the directory.

  Every row of the embedding is an id. A mask that the directory does not have is one more.
  """
  if (pathlib.Path(path) / tokenizer_lib.FILE_NAME).is_file():
    return tokenizer_lib.load(path)
  rows = interop.network_fields(path)["vocab_size"]
  ids = interop.special_ids(path) | ids
  if not (pathlib.Path(path) / "tokenizer.json").is_file():
    return tokenizer_lib.of_ids(rows, str(path), **ids)
  return tokenizer_lib.build(str(path), None, chat_template=chat_template, num_ids=rows, **ids)


def network_of(path: str, tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Any]:
  """Fields of the transformer of a directory, with a row for every id of the tokenizer."""
  fields = interop.network_fields(path)
  return fields | {"vocab_size": max(fields["vocab_size"], tokenizer.vocab_size)}


def variant(config: Mapping[str, Any], source: str) -> dict[str, Any]:
  """Network fields of the adapters and int8 weights that a config puts on a model.

  Args:
    config: with `init` (`adapter`, `weights`) and, where it trains, `lora` (`rank`, `alpha`,
      `targets`).
    source: the model, or "" for a new one.

  Raises:
    ValueError: an adapter that is none or is for another model, or weights of an unknown kind.
  """
  init, wanted = config["init"], config.get("lora", {})
  adapter, kind, fields = init.get("adapter", ""), init.get("weights", ""), {}
  if kind not in ("", "int8"):
    raise ValueError(f"config.init.weights is {kind!r}; choose int8, or '' for those stored.")
  if kind:
    quantized.check()
    if not source:
      raise ValueError("config.init.weights int8 is for a model that is loaded; give "
                       "init.checkpoint.")
    fields["weights"] = kind
  if wanted.get("rank"):
    fields |= dict(lora_rank=wanted["rank"], lora_alpha=wanted.get("alpha", 0.0),
                   lora_targets=tuple(wanted.get("targets", ()) or lora.PROJECTIONS))
  if adapter:
    like = origin(source)
    if not like:
      raise ValueError("config.init.adapter is for a model of Hugging Face; give its directory as "
                       "init.checkpoint.")
    found = interop.adapter_fields(adapter, like)
    if wanted.get("rank", 0) not in (0, found["lora_rank"]):
      raise ValueError(f"config.lora.rank {wanted['rank']} is not the rank {found['lora_rank']} of "
                       f"{adapter}; use 0, the adapter's.")
    fields |= found
  return fields


def trained(config: Mapping[str, Any], source: str = "",
            fresh: Sequence[str] = ()) -> dict[str, Any]:
  """`config.optimizer`; where there are adapters and it says nothing, they alone are trained.

  With them the parts that are new with the objective (the layers of a fine-tuning task).

  Args:
    config: the config.
    source: a model whose network is taken, with its adapters.
    fresh: parts of the parameters that are new with the objective.

  Raises:
    ValueError: int8 weights would be trained.
  """
  optimizer = dict(config["optimizer"])
  has_adapters = (config.get("lora", {}).get("rank") or config["init"].get("adapter")
                  or (source and _own_network(source).get("lora_rank")))
  if has_adapters and not optimizer.get("trainable"):
    optimizer["trainable"] = "|".join([*(f"{name}/.*" for name in fresh), ".*/lora_[ab]"])
  is_training = config.get("mode") not in ("eval", "export")
  if is_training and config["init"].get("weights") and re.fullmatch(
      optimizer.get("trainable") or ".*", "model/layers/mlp/up/kernel_int8"):
    raise ValueError("int8 weights (init.weights) cannot be trained; train adapters on them with "
                     "config.lora.rank, or leave init.weights out.")
  return optimizer


def resolve(config: Mapping[str, Any]) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
  """The config and tokenizer of a run, from `init.checkpoint` if that is a directory of others."""
  extra = variant(config, config["init"]["checkpoint"])
  config = {**config, "network": {**config["network"], **extra}}
  given = {k: v for k, v in config["tokenizer"].items() if v not in (-1, "")}
  source = config["init"]["checkpoint"]
  if source and config["init"].get("network") and not interop.is_hf_dir(source):
    config, given["path"] = _of_run(config, source)
    given = {"path": given["path"]}  # its special ids are there
  if not source or not interop.is_hf_dir(source):
    tokenizer = tokenizer_lib.build(given.pop("path"), **given)
    return {**config, "dtype": config["dtype"] or "float32"}, tokenizer
  given.pop("path", None)
  tokenizer = tokenizer_of(source, **given)
  network = {k: v for k, v in config["network"].items() if k not in _ARCHITECTURE}
  objective, reads = config["objective"], interop.objective_fields(source)
  if reads.get("name") == objective["name"]:
    objective = {**objective, **{k: v for k, v in reads.items() if k != "attention"}}
  return {**config, "network": network | network_of(source, tokenizer), "objective": objective,
          "tokenizer": {**config["tokenizer"], "path": source},
          "dtype": config["dtype"] or interop.compute_dtype(source)}, tokenizer


def _of_run(config: Mapping[str, Any], source: str) -> tuple[dict[str, Any], str]:
  """The config with the network of a run of ours, and the directory of its tokenizer."""
  file = find_config(source)
  if file is None:
    raise ValueError(f"init.checkpoint {source} has no config.json, nor the directories above it; "
                     "give a run's workdir, one of its checkpoints, or an export.")
  try:
    stored = json.loads(file.read_text(encoding="utf-8"))["config"]
    stored = stored.get("model", stored)["network"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{file} is not the config of an mdx run ({type(error).__name__}).") from None
  network = {k: v for k, v in config["network"].items() if k not in _ARCHITECTURE}
  own = {k: v for k, v in stored.items() if k in _ARCHITECTURE or k not in network}
  path = str(file.parent)
  return {**config, "network": network | own,
          "tokenizer": {**config["tokenizer"], "path": path, "chat_template": ""}}, path


def _model_shapes(source: str, shapes: Mapping[str, Any]) -> Any:
  others = sorted(set(shapes) - {"model"})
  if others:
    raise ValueError(f"this objective has parameters {others[0]!r}, which the Hugging Face "
                     f"directory {source} has not; use another objective.")
  return shapes["model"]


def check_params(source: str, shapes: Mapping[str, Any], fresh: Sequence[str] = ()) -> None:
  """Raises ValueError unless `source` has parameters of these shapes; reads no weights.

  Args:
    source: a Hugging Face directory or a checkpoint of ours.
    shapes: tree of shape structs.
    fresh: parts that it need not have; it may then have others.
  """
  shapes = {k: v for k, v in shapes.items() if k not in fresh}
  base = _stored_form(source, shapes)
  if interop.is_hf_dir(source):
    interop.check(source, _model_shapes(source, base))
  else:
    checkpoint_lib.check_params(source, base, is_part=bool(fresh))


def _stored_form(source: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters that `source` has of a model: without what is put on it while it is loaded."""
  own = _own_network(source)
  keeps_adapters = bool(own.get("lora_rank"))
  if keeps_adapters and not any(map(lora.is_adapter, tree.flatten(shapes))):
    raise ValueError(f"{source} has adapters of rank {own['lora_rank']}; give config.lora the same "
                     "rank to train them on, or merge them first (mode export).")
  leaves = {path: leaf for path, leaf in tree.flatten(shapes).items()
            if keeps_adapters or not lora.is_adapter(path)}
  if own.get("weights") != "int8":
    leaves = quantized.float_paths(leaves)
  return tree.nest(leaves)


def _own_network(source: str) -> dict[str, Any]:
  """`config.network` of the run that a checkpoint of ours belongs to."""
  file = None if interop.is_hf_dir(source) else find_config(source)
  if file is None:
    return {}
  config = json.loads(file.read_text(encoding="utf-8")).get("config", {})
  return config.get("model", config).get("network", {})


def stored_types(source: str, shapes: Mapping[str, Any],
                 keep: Callable[[str], bool]) -> dict[str, Any]:
  """`shapes` with bfloat16 where a Hugging Face directory stores parameters so, and `keep(path)`.

  Kernels that become int8 are as they are.
  """
  if not interop.is_hf_dir(source):
    return dict(shapes)
  base = _stored_form(source, {"model": shapes["model"]})["model"]
  types = {f"model/{path}": leaf for path, leaf in
           tree.flatten(interop.stored_types(source, base)).items()}
  return tree.map_with_path(
      lambda path, leaf: types[path] if path in types and keep(path) else leaf, shapes)


def load_params(source: str, shapes: Mapping[str, Any], which: str, *, adapter: str = "",
                seed: int = 0, fresh: Sequence[str] = ()) -> dict[str, Any]:
  """Loads the parameters of an objective, but for `fresh` parts.

  Args:
    source: a Hugging Face directory, or what `checkpoint.load_params` takes.
    shapes: tree of shape structs with shardings; values are cast to their types.
    which: "ema" or "raw", of a checkpoint of ours.
    adapter: directory of a PEFT adapter for `source`.
    seed: of new adapters, where `shapes` has some and neither source nor adapter gives them.
    fresh: as in `check_params`.
  """
  shapes = {k: v for k, v in shapes.items() if k not in fresh}
  base, wanted = _stored_form(source, shapes), tree.flatten(shapes)
  if interop.is_hf_dir(source):
    base = stored_types(source, base, lambda path: path not in wanted)  # of kernels to quantise
    finish = lambda path, x: _quantised(f"model/{path}", x, wanted)
    loaded = {"model": interop.load(source, _model_shapes(source, base), finish)}
  else:
    loaded = tree.map_with_path(lambda path, x: _quantised(path, x, wanted),
                                checkpoint_lib.load_params(source, base, which,
                                                           is_part=bool(fresh)))
  leaves = {path.replace("/kernel/kernel_", "/kernel_"): leaf
            for path, leaf in tree.flatten(loaded).items()}
  rest = tree.nest({path: leaf for path, leaf in wanted.items() if path not in leaves})
  if adapter and rest:
    rest = {"model": interop.load_adapter(adapter, origin(source), rest["model"])}
  elif rest:
    rest = lora.fresh(rest, seed)
  return tree.merge(tree.nest(leaves), rest)


def _quantised(path: str, leaf: jax.Array, wanted: Mapping[str, Any]) -> Any:
  if path in wanted or f"{path}_int8" not in wanted:
    return leaf
  kernel, scale = quantized.quantize(leaf)
  return {"kernel_int8": jax.device_put(kernel, wanted[f"{path}_int8"].sharding),
          "kernel_scale": jax.device_put(scale, wanted[f"{path}_scale"].sharding)}


def find_config(path: str | pathlib.Path) -> pathlib.Path | None:
  """The config.json of a run that a workdir, an export or one checkpoint of it belongs to."""
  path = pathlib.Path(path)
  return next((p / "config.json" for p in (path, *list(path.absolute().parents)[:2])
               if (p / "config.json").is_file()), None)


def origin(source: str) -> str:
  """The Hugging Face directory that a run began from, also by way of other runs; "" if none."""
  seen = set()
  while source and source not in seen:
    if interop.is_hf_dir(source):
      return source
    seen.add(source)
    file = find_config(source)
    if file is None:
      return ""
    config = json.loads(file.read_text(encoding="utf-8")).get("config", {})
    source = config.get("init", {}).get("checkpoint", "")
  return ""
