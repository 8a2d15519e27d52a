"""Models to start from: checkpoints of ours, and Hugging Face directories.

Contents: tokenizer_of, network_of, translated, translated_run, adapted, trained, resolve,
stored_types, check_params, load_params, find_config, origin.

Convention: what a Hugging Face directory says of itself (network, tokenizer, how its model is
read) is taken from there, whatever the config has; how it is computed is the config's.
Adaptations (networks.adaptation) that a checkpoint does not have are put on while it is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any, Callable, Mapping, Sequence

from mdx import checkpoint as checkpoint_lib
from mdx import interop
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import adaptation
from mdx.networks import transformer
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import sites
from mdx.utils import tree

_ARCHITECTURE = frozenset(f.name for f in dataclasses.fields(transformer.Transformer)) - {
    "vocab_multiple", "dtype", "scan_layers", "remat", "init_std", "attention_backend", "dropout",
    "attention_dropout", "drophead", "adaptations"}


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


def translated(network: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a stored network table in today's words: `adaptations`, not fields of two of them."""
  old = dict(weights="float", lora_rank=0, lora_alpha=0.0, lora_targets=tuple(sites.PROJECTIONS))
  given = {**old, **{k: v for k, v in network.items() if k in old}}
  found = [dict(name="int8")] if given["weights"] == "int8" else []
  if given["lora_rank"]:
    found.append(dict(name="lora", rank=given["lora_rank"], alpha=given["lora_alpha"],
                      targets=tuple(given["lora_targets"])))
  rest = {k: v for k, v in network.items() if k not in old}
  return rest | ({"adaptations": tuple(found)} if found else {})


def translated_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the stored config of a run in today's words: also of what is trained of adapters."""
  if "network" in config:
    config = {**config, "network": translated(config["network"])}
  *fresh, last = config.get("optimizer", {}).get("trainable", "").split("|")
  if last != ".*/lora_[ab]":
    return dict(config)
  optimizer = {**config["optimizer"], "trainable": ""}
  return {**config, "optimizer": trained({**config, "optimizer": optimizer}, fresh=[
      pattern.removesuffix("/.*") for pattern in fresh])}


def adapted(network: Mapping[str, Any], config: Mapping[str, Any], source: str) -> dict[str, Any]:
  """Returns a network table with the adaptations that a config puts on a model.

  Args:
    network: the table; an adaptation of its own gives way to one of the same name.
    config: with `init` (`adapter`, `weights`) and, where it trains, `lora` (`rank`, `alpha`,
      `targets`) and `adaptations`.
    source: the model, or "" for a new one.

  Raises:
    ValueError: an adapter that is none or is for another model, or weights of an unknown kind.
  """
  init, wanted, found = config["init"], config.get("lora", {}), []
  adapter, kind = init.get("adapter", ""), init.get("weights", "")
  if kind not in ("", "int8"):
    raise ValueError(f"config.init.weights is {kind!r}; choose int8, or '' for those stored.")
  if kind:
    int8.check()
    if not source:
      raise ValueError("config.init.weights int8 is for a model that is loaded; give "
                       "init.checkpoint.")
    found.append(dict(name="int8"))
  if adapter:
    like = origin(source)
    if not like:
      raise ValueError("config.init.adapter is for a model of Hugging Face; give its directory as "
                       "init.checkpoint.")
    found.append(interop.adapter_fields(adapter, like))
    if wanted.get("rank", 0) not in (0, found[-1]["rank"]):
      raise ValueError(f"config.lora.rank {wanted['rank']} is not the rank {found[-1]['rank']} of "
                       f"{adapter}; use 0, the adapter's.")
  elif wanted.get("rank"):
    targets = tuple(wanted.get("targets", ()) or sites.PROJECTIONS)
    found.append(dict(name="lora", rank=wanted["rank"], alpha=wanted.get("alpha", 0.0),
                      targets=targets))
  found += config.get("adaptations", ())
  names = {one["name"] for one in found}
  found = [one for one in network.get("adaptations", ()) if one["name"] not in names] + found
  return {**network, "adaptations": tuple(found)} if found else dict(network)


def trained(config: Mapping[str, Any], source: str = "",
            fresh: Sequence[str] = ()) -> dict[str, Any]:
  """Returns `config.optimizer`; where there are adaptations and it says nothing, of these alone.

  With them the parts that are new with the objective (the layers of a fine-tuning task).

  Args:
    config: the config.
    source: a model whose network is taken, with its adaptations; "": `init.checkpoint`.
    fresh: parts of the parameters that are new with the objective.

  Raises:
    ValueError: parameters that cannot be trained would be.
  """
  optimizer, source = dict(config["optimizer"]), source or config["init"]["checkpoint"]
  network = config["network"] if "network" in config else _own_network(source)
  put = adaptation.build(adapted(network, config, source).get("adaptations", ()))
  patterns = [sites.pattern(one) for one in put if one.is_trained]
  if patterns and not optimizer.get("trainable"):
    optimizer["trainable"] = "|".join([*(f"{name}/.*" for name in fresh), *patterns])
  is_training = config.get("mode") not in ("eval", "export")
  for one in put if is_training else ():
    path = f"model/{sites.SITES[one.targets[0]]}/{one.replaces}"
    if not one.is_trained and re.fullmatch(optimizer.get("trainable") or ".*", path):
      raise ValueError(f"{type(one).__name__.lower()} weights (init.weights) cannot be trained; "
                       "train adapters on them with config.lora.rank, or leave them out.")
  return optimizer


def resolve(config: Mapping[str, Any]) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
  """The config and tokenizer of a run, from `init.checkpoint` if that is a directory of others."""
  config = {**config, "network": adapted(config["network"], config, config["init"]["checkpoint"])}
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
    stored = translated(stored.get("model", stored)["network"])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{file} is not the config of an mdx run ({type(error).__name__}).") from None
  network = {k: v for k, v in config["network"].items() if k not in _ARCHITECTURE}
  wanted = {"init": {}, "adaptations": network.pop("adaptations", ())}
  own = {k: v for k, v in stored.items() if k in _ARCHITECTURE or k not in network}
  path = str(file.parent)
  return {**config, "network": adapted(network | own, wanted, source),
          "tokenizer": {**config["tokenizer"], "path": path, "chat_template": ""}}, path


def _model_shapes(source: str, shapes: Mapping[str, Any]) -> Any:
  others = sorted(set(shapes) - {"model"})
  if others:
    raise ValueError(f"this objective has parameters {others[0]!r}, which the Hugging Face "
                     f"directory {source} has not; use another objective.")
  return shapes["model"]


def check_params(source: str, shapes: Mapping[str, Any], adaptations: Sequence[types.Adaptation],
                 fresh: Sequence[str] = ()) -> None:
  """Raises ValueError unless `source` has parameters of these shapes; reads no weights.

  Args:
    source: a Hugging Face directory or a checkpoint of ours.
    shapes: tree of shape structs.
    adaptations: those of the model.
    fresh: parts that it need not have; it may then have others.
  """
  shapes = {k: v for k, v in shapes.items() if k not in fresh}
  base = _stored_form(source, shapes, adaptations)
  if interop.is_hf_dir(source):
    interop.check(source, _model_shapes(source, base))
  else:
    checkpoint_lib.check_params(source, base, is_part=bool(fresh))


def _stored_form(source: str, shapes: Mapping[str, Any],
                 adaptations: Sequence[types.Adaptation]) -> dict[str, Any]:
  """The parameters that `source` has of a model: without what is put on it while it is loaded."""
  stored = adaptation.build(_own_network(source).get("adaptations", ()))
  for one in stored:
    if type(one) not in map(type, adaptations):
      raise ValueError(f"{source} has the adaptation {one}, which the config does not name; put it "
                       "on with config.lora, init.weights or config.adaptations, or merge it first "
                       "(mode export).")
  return sites.base_form(shapes, [one for one in adaptations if type(one) not in map(type, stored)])


def _own_network(source: str) -> dict[str, Any]:
  """`config.network` of the run that a checkpoint of ours belongs to."""
  file = None if not source or interop.is_hf_dir(source) else find_config(source)
  if file is None:
    return {}
  config = json.loads(file.read_text(encoding="utf-8")).get("config", {})
  return translated(config.get("model", config).get("network", {}))


def stored_types(source: str, shapes: Mapping[str, Any], adaptations: Sequence[types.Adaptation],
                 keep: Callable[[str], bool]) -> dict[str, Any]:
  """`shapes` with bfloat16 where a Hugging Face directory stores parameters so, and `keep(path)`.

  Kernels that `adaptations` replace are as they are.
  """
  if not interop.is_hf_dir(source):
    return dict(shapes)
  base = _stored_form(source, {"model": shapes["model"]}, adaptations)["model"]
  stored = {f"model/{path}": leaf for path, leaf in
            tree.flatten(interop.stored_types(source, base)).items()}
  return tree.map_with_path(
      lambda path, leaf: stored[path] if path in stored and keep(path) else leaf, shapes)


def load_params(source: str, shapes: Mapping[str, Any], which: str, *,
                adaptations: Sequence[types.Adaptation] = (), adapter: str = "", seed: int = 0,
                fresh: Sequence[str] = ()) -> dict[str, Any]:
  """Loads the parameters of an objective, but for `fresh` parts.

  Args:
    source: a Hugging Face directory, or what `checkpoint.load_params` takes.
    shapes: tree of shape structs with shardings; values are cast to their types.
    which: "ema" or "raw", of a checkpoint of ours.
    adaptations: those of the model.
    adapter: directory of a PEFT adapter for `source`.
    seed: of new parameters of adaptations, where neither source nor adapter gives them.
    fresh: as in `check_params`.
  """
  shapes = {k: v for k, v in shapes.items() if k not in fresh}
  base, wanted = _stored_form(source, shapes, adaptations), tree.flatten(shapes)
  put_on = lambda path, leaf: sites.start(path, leaf, wanted, adaptations)
  if interop.is_hf_dir(source):
    # The stored types of kernels that are replaced.
    base = stored_types(source, base, (), lambda path: path not in wanted)
    finish = lambda path, leaf: put_on(f"model/{path}", leaf)
    loaded = {"model": interop.load(source, _model_shapes(source, base), finish)}
  else:
    loaded = tree.map_with_path(put_on, checkpoint_lib.load_params(source, base, which,
                                                                   is_part=bool(fresh)))
  leaves = {path.replace("/kernel/", "/"): leaf for path, leaf in tree.flatten(loaded).items()}
  rest = tree.nest({path: leaf for path, leaf in wanted.items() if path not in leaves})
  given = {}
  if adapter and rest:
    like = origin(source)
    of_adapter = adaptation.build([interop.adapter_fields(adapter, like)])
    given = {"model": interop.load_adapter(adapter, like, tree.part(
        rest["model"], lambda path: sites.owner(path, of_adapter) is not None))}
    rest = tree.part(rest, lambda path: sites.owner(path, of_adapter) is None)
  return tree.merge(tree.nest(leaves), given, sites.fresh(rest, adaptations, seed))


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
