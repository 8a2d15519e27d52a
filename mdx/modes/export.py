"""Mode export: weights, config and tokenizer of a model, for mdx or for others.

Contents: FORMATS, run.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Mapping

import jax
import tokenizers

from mdx import config as config_lib
from mdx import embedding
from mdx import interop
from mdx import model as model_lib
from mdx import objectives
from mdx import sharding
from mdx.build import model_parts
from mdx.build import source as source_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.networks.adaptation import sites
from mdx.train import state as state_lib
from mdx.utils import console
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import rng

FORMATS = ("orbax", "huggingface", "sentence_transformers", "peft")


def run(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Writes `init.checkpoint`, or the workdir's own model, into `export.path`.

  Raises:
    ValueError: no path, an unknown format, or a model that the format does not hold.
  """
  config = config_lib.to_dict(config)
  wanted, which = config["export"], config["init"]["params"]
  if wanted["format"] not in FORMATS:
    raise ValueError(f"config.export.format is {wanted['format']!r}; choose from "
                     f"{', '.join(FORMATS)}.")
  if not wanted["path"]:
    raise ValueError("mode export needs --config.export.path=DIRECTORY, a new directory.")
  path, source = pathlib.Path(wanted["path"]), config["init"]["checkpoint"] or str(workdir)
  files.check_new(path)
  if wanted["format"] == "peft":
    _peft(source, config, path)
  elif wanted["format"] == "orbax":
    _served(model_lib.load(source, params=which, mesh=config["mesh"],
                           trains=state_lib.everything)).save(str(path))
  elif wanted["format"] == "sentence_transformers":
    _sentences(model_lib.load(source, params=which, mesh=config["mesh"], init=config["init"]),
               config, path)
  elif interop.is_hf_dir(source) and not config["init"].get("adapter"):
    _copy(source, config, path)
  else:
    _hugging_face(model_lib.load(source, params=which, mesh=config["mesh"], init=config["init"]),
                  config, path)
  console.say(f"wrote the weights of {source} to {path}")
  return {}


def _served(model: model_lib.Model) -> model_lib.Model:
  """The model without the parts that only its training needs."""
  own = model.config["objective"]
  fields = model.objective.served(own)
  parts = model.objective.parts()
  params = {name: params for name, params in model.params.items() if parts[name].is_served}
  if fields == own and params.keys() == model.params.keys():
    return model
  return dataclasses.replace(
      model, objective=objectives.build(fields, model.objective.network, model.tokenizer),
      params=params, config={**model.config, "objective": dict(fields)})


def _peft(source: str, config: Mapping[str, Any], path: pathlib.Path) -> None:
  model = model_lib.load(source, params=config["init"]["params"], mesh=config["mesh"])
  spec, _ = model_parts.build_objective(model.config, model.tokenizer, model.mesh)
  like = source_lib.open_source(source).found_origin()
  if not like:
    raise ValueError(f"{source} has no adapters of a model of Hugging Face, so none can be written "
                     "as export.format peft; use huggingface.")
  with jax.set_mesh(model.mesh):
    interop.save_adapter(path, model.params["model"], spec, like=like)


def _copy(source: str, config: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes one Hugging Face directory into another; any model, also one that writes no text."""
  mesh = sharding.make_mesh(config["mesh"])
  spec = transformer.Transformer(**interop.network_fields(source),
                                 vocab_multiple=8 * mesh.shape["tensor"])
  shapes = sharding.with_shardings(
      {"model": jax.eval_shape(spec.network().init, rng.root(0))},
      {"model": spec.network().part}, mesh)["model"]
  wanted = config["export"]
  with jax.set_mesh(mesh):
    params = interop.load(source, interop.stored_types(source, shapes))
    interop.save(path, params, spec, like=source,
                 dtype=wanted["dtype"], model_type=wanted["model_type"],
                 ids=_ids(source) if wanted["model_type"] else None)


def _ids(source: str) -> dict[str, Any]:
  """Special ids of a directory, with every end token."""
  ids, ends = interop.special_ids(source), interop.end_ids(source)
  return ids | ({"eos_id": list(ends)} if len(ends) > 1 else {})


def _hugging_face(model: model_lib.Model, config: Mapping[str, Any], path: pathlib.Path) -> None:
  """A model of ours; as the directory that it began from, where its family holds it still."""
  wanted, like = config["export"], source_lib.open_source(model.source).found_origin()
  spec, _ = model_parts.build_objective(model.config, model.tokenizer, model.mesh)
  params, objective = model.params["model"], model.config["objective"]
  with jax.set_mesh(model.mesh):
    params = sites.merge(params, spec.adaptations)
  spec = dataclasses.replace(spec, adaptations=())
  objective = model.objective.served(objective)
  model_type = wanted["model_type"]
  if not model_type and like and interop.is_read_with(like, objective):
    model_type = interop.family_key(like)
  model_type = model_type or interop.suited(spec, objective)
  ids, files = ({}, {}) if like else _own_tokenizer(model.tokenizer)
  if objective["name"] != "ar":
    ids["mask_id"] = model.tokenizer.mask_id
  elif like:  # the row of the mask is ours: no causal model has one
    spec = dataclasses.replace(spec, vocab_size=interop.network_fields(like)["vocab_size"])
  entries = {}
  reader = model.objective.reader()
  if reader and reader.attention.period:
    entries["block_size"] = reader.attention.period
  options = dict(model_type=model_type, dtype=wanted["dtype"], ids=ids, files=files)
  with jax.set_mesh(model.mesh):
    interop.save(path, params, spec, like=like, entries=entries, **options)
    for name, (shares, other) in model.objective.also_served(model.params).items():
      interop.save(path / name, other, spec.scaled(**shares), **options)


def _own_tokenizer(tokenizer: tokenizer_lib.Tokenizer) -> tuple[dict[str, Any], dict[str, str]]:
  """Special ids and files of a tokenizer that did not come from where the weights did."""
  ends = tokenizer.eos_ids
  ids = {"pad_id": tokenizer.pad_id} | ({"eos_id": ends[0] if len(ends) == 1 else list(ends)}
                                        if ends else {})
  found = {"mdx_tokenizer.json": tokenizer.to_json()}
  if tokenizer.vocab.kind == "huggingface":
    found["tokenizer.json"] = tokenizer.vocab.definition()
  if tokenizer.chat_template:
    found["chat_template.jinja"] = tokenizer.chat_template
  return ids, found


def _sentences(model: model_lib.Model, config: Mapping[str, Any], path: pathlib.Path) -> None:
  """A directory of sentence-transformers: the model without its head, and how it embeds."""
  wanted, like = config["export"], source_lib.open_source(model.source).found_origin()
  how, settings = model.objective.embedder(), embedding.settings_of(model)
  is_causal = isinstance(how.attention, attention_lib.Causal)
  if how.start_ids or how.pooling_part or not (is_causal or isinstance(
      how.attention, attention_lib.Full)):
    raise ValueError("sentence-transformers holds encoders, and decoders that were trained to "
                     f"embed; {model.source} is read with {how.attention}"
                     f"{' behind a start token' * bool(how.start_ids)}. Use export.format orbax.")
  if not like and model.tokenizer.vocab.kind != "huggingface":
    raise ValueError(f"the tokenizer {model.tokenizer.name} is not of Hugging Face, whose form "
                     "sentence-transformers reads; use export.format orbax.")
  spec, _ = model_parts.build_objective(model.config, model.tokenizer, model.mesh)
  with jax.set_mesh(model.mesh):
    params = sites.merge(model.params["model"], spec.adaptations)
  spec, model_type, body = interop.body_of(dataclasses.replace(spec, adaptations=()), is_causal)
  if like and interop.load_config(like).get("model_type") in interop.FAMILIES:
    model_type = interop.load_config(like)["model_type"]
    body = interop.FAMILIES[model_type].bodies[0]
  params = {name: own for name, own in params.items() if name not in interop.HEADS}
  ids, found = ({}, {}) if like else _own_tokenizer(model.tokenizer)
  if not like:
    found["tokenizer_config.json"] = json.dumps(_named(model.tokenizer), indent=2) + "\n"
  dense = model.params.get("dense", {})
  found |= interop.sentence_transformers.written(
      dataclasses.asdict(settings), model.config["objective"].get("dense", ()),
      processes.fetch(dense), spec.width, spec.max_length)
  with jax.set_mesh(model.mesh):
    interop.save(path, params, spec, like=like, model_type=model_type, body=body,
                 dtype=wanted["dtype"], ids=ids, files=found)


def _named(tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Any]:
  """tokenizer_config.json with the special tokens by name."""
  backend = tokenizers.Tokenizer.from_str(tokenizer.vocab.definition())
  named = {"pad_token": tokenizer.pad_id, "mask_token": tokenizer.mask_id,
           "eos_token": tokenizer.eos_id}
  return {"tokenizer_class": "PreTrainedTokenizerFast"} | {
      key: backend.id_to_token(i) for key, i in named.items()
      if i is not None and i >= 0 and backend.id_to_token(i) is not None}
