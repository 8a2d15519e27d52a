"""Configs resolved against the model that a run starts from.

Contents: resolve, adapted, trained, translated_run.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Mapping, Sequence

from mdx import interop
from mdx.build import source as source_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import adaptation
from mdx.networks import transformer
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import sites

_ARCHITECTURE = frozenset(f.name for f in dataclasses.fields(transformer.Transformer)) - {
    "vocab_multiple", "dtype", "scan_layers", "remat", "init_std", "attention_backend", "dropout",
    "attention_dropout", "drophead", "adaptations"}


def resolve(config: Mapping[str, Any]) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
  """The config and tokenizer of a run, from `init.checkpoint` if that is a directory of others."""
  config = {**config, "network": adapted(config["network"], config, config["init"]["checkpoint"])}
  given = {k: v for k, v in config["tokenizer"].items() if v not in (-1, "")}
  source = config["init"]["checkpoint"]
  found = source_lib.open_source(source) if source else None
  if isinstance(found, source_lib.Run) and config["init"].get("network"):
    config, given["path"] = _of_run(config, found)
    given = {"path": given["path"]}  # its special ids are there
  if not isinstance(found, source_lib.HuggingFace):
    if "path" not in given:
      raise ValueError("config.tokenizer.path is empty; give a tokenizer.json, char, byte, or a "
                       "tokenizer of mdx, such as asset:holmes_bpe512.json.")
    tokenizer = tokenizer_lib.build(given.pop("path"), **given)
    return {**config, "dtype": config["dtype"] or "float32"}, tokenizer
  given.pop("path", None)
  tokenizer = found.tokenizer(**given)
  network = {k: v for k, v in config["network"].items() if k not in _ARCHITECTURE}
  objective, reads = config["objective"], interop.objective_fields(source)
  if reads.get("name") == objective["name"]:
    objective = {**objective, **{k: v for k, v in reads.items() if k != "attention"}}
  return {**config, "network": network | found.network_of(tokenizer), "objective": objective,
          "tokenizer": {**config["tokenizer"], "path": source},
          "dtype": config["dtype"] or interop.compute_dtype(source)}, tokenizer


def _of_run(config: Mapping[str, Any], source: source_lib.Run) -> tuple[dict[str, Any], str]:
  """The config with the network of a run of ours, and the directory of its tokenizer."""
  stored = source.config["network"]
  network = {k: v for k, v in config["network"].items() if k not in _ARCHITECTURE}
  wanted = {"init": {}, "adaptations": network.pop("adaptations", ())}
  own = {k: v for k, v in stored.items() if k in _ARCHITECTURE or k not in network}
  path = str(source.file.parent)
  return {**config, "network": adapted(network | own, wanted, source.path),
          "tokenizer": {**config["tokenizer"], "path": path, "chat_template": ""}}, path


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
    like = source_lib.open_source(source).origin if source else ""
    if not like:
      raise ValueError("config.init.adapter is for a model of Hugging Face; give its directory as "
                       "init.checkpoint.")
    found.append(interop.adapter_fields(adapter, like))
    rank = found[-1].get("rank", 0)
    if wanted.get("rank", 0) not in (0, rank):
      raise ValueError(f"config.lora.rank {wanted['rank']} is not the rank {rank} of "
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
            fresh: Sequence[str] = (), trains_model: bool = True) -> dict[str, Any]:
  """Returns `config.optimizer`; where there are adaptations and it says nothing, of these alone.

  With them the parts that are new with the objective (the layers of a fine-tuning task), which
  are trained alone where the objective does not train the model.

  Args:
    config: the config.
    source: a model whose network is taken, with its adaptations; "": `init.checkpoint`.
    fresh: parts of the parameters that are new with the objective.
    trains_model: as `types.Objective.trains_model`.

  Raises:
    ValueError: parameters that cannot be trained would be.
  """
  optimizer, source = dict(config["optimizer"]), source or config["init"]["checkpoint"]
  if "network" in config:
    network = config["network"]
  else:
    network = source_lib.open_source(source).network if source else {}
  put = adaptation.build(adapted(network, config, source).get("adaptations", ()))
  patterns = [sites.pattern(one) for one in put if one.is_trained]
  if (patterns or not trains_model) and not optimizer.get("trainable"):
    optimizer["trainable"] = "|".join([*(f"{name}/.*" for name in fresh), *patterns])
  is_training = config.get("mode") not in ("eval", "export")
  for one in put if is_training else ():
    path = f"model/{sites.SITES[one.targets[0]]}/{one.replaces}"
    if not one.is_trained and re.fullmatch(optimizer.get("trainable") or ".*", path):
      raise ValueError(f"{type(one).__name__.lower()} weights (init.weights) cannot be trained; "
                       "train adapters on them with config.lora.rank, or leave them out.")
  return optimizer


def translated_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the stored config of a run in today's words: also of what is trained of adapters."""
  if "network" in config:
    config = {**config, "network": source_lib.translated(config["network"])}
  *fresh, last = config.get("optimizer", {}).get("trainable", "").split("|")
  if last != ".*/lora_[ab]":
    return dict(config)
  optimizer = {**config["optimizer"], "trainable": ""}
  return {**config, "optimizer": trained({**config, "optimizer": optimizer}, fresh=[
      pattern.removesuffix("/.*") for pattern in fresh])}
