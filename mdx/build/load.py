"""A model from what describes it: a run, an export, or a Hugging Face directory.

Contents: Loaded, load, with_adapter, check_exists, describe, assemble.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mdx import interop
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.build import learned
from mdx.build import model_parts
from mdx.build import resolve as resolve_lib
from mdx.build import source as source_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import attribute_fit
from mdx.eval import best as best_lib
from mdx.utils import hub
from mdx.utils import memory
from mdx.utils import rng
from mdx.utils import tree


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
  """A model with its parameters, and the rule that decodes it.

  Attributes:
    objective: what it was trained with.
    params: its parameters, sharded over `mesh`.
    tokenizer: its tokenizer.
    mesh: the device mesh.
    max_length: longest row.
    source: where it came from, for people.
    config: what it was built from: network, objective, tokenizer, dtype, sharding.
    data: `config.data` that it was trained on, where it is a run.
    decoding: fields of a rule of `samplers` that the authors of a Hugging Face model, which
      this one is or began from, decode it with.
  """
  objective: types.Objective
  params: types.Params
  tokenizer: tokenizer_lib.Tokenizer
  mesh: jax.sharding.Mesh
  max_length: int
  source: str
  config: Mapping[str, Any]
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def sampler(self, **fields: Any) -> Any:
    """The decoding rule of some fields, as `new_sampler`; a learned one as it was trained."""
    return learned.under(self.new_sampler(**fields), self.objective, self.source)

  def decoding_params(self, sampler: Any) -> types.Params:
    """The parameters of the model, and those of a rule that `sampler` gave."""
    return {**self.params,
            **learned.load(sampler, self.objective, self.source, self.mesh)}

  def new_sampler(self, **fields: Any) -> Any:
    """The decoding rule of some fields of a rule of `samplers` and a `name`; a learned one is new.

    Without a name, that of `decoding`, whose fields are then the defaults; without this, the one
    that suits how the model was trained.
    """
    name = fields.pop("name", "")
    if not name:
      fields = {**self._published(fields.get("gen_length", 0)), **fields}
      reader = self.objective.reader()
      name = fields.pop("name", "") or (reader.sampler if reader else "confidence")
    if fields.get("cache") == "block" and self.config["network"].get("time_conditioning"):
      raise ValueError("sampler.cache block is exact only for models that are not told the time; "
                       "this one is: use cache none.")
    if path := samplers.select(dict(fields, name=name)).get("classifier"):
      attribute_fit.check(path, self)
    return samplers.build(dict(fields, name=name), self.objective, mask_id=self.tokenizer.mask_id,
                          eos_id=self.tokenizer.eos_id,
                          other_eos_ids=self.tokenizer.other_eos_ids)

  def _published(self, gen_length: int) -> dict[str, Any]:
    """`decoding` for answers of another length: as many steps a token, in blocks if they divide."""
    fields = dict(self.decoding)
    if fields and gen_length:
      fields["steps"] = max(1, fields["steps"] * gen_length // fields["gen_length"])
      if gen_length % fields.get("block_length", 1):
        fields.pop("block_length")
      fields["gen_length"] = gen_length
    return fields


def load(path: str, *, params: str = "", mesh: Mapping[str, int] | None = None,
         dtype: str = "", remat: str = "", init: Mapping[str, Any] | None = None,
         adapters: Mapping[str, Any] | None = None,
         adaptations: Sequence[Mapping[str, Any]] = (), seed: int = 0,
         trains: Callable[[str], bool] = lambda path: False) -> Loaded:
  """Loads a model.

  Args:
    path: a run's workdir, one of its checkpoints, an export, a Hugging Face directory, or the name
      of a model of the hub, ORGANISATION/MODEL or ORGANISATION/MODEL@REVISION (the extra `hub`).
    params: "ema" or "raw" weights of the last step; "" = those that were best on validation where
      a run keeps them, otherwise "ema".
    mesh: sizes of the mesh axes; default all devices on `data`.
    dtype: of the activations; default that of training, or that of the stored weights.
    remat: rematerialisation of the blocks in training; default that of the checkpoint.
    init: `adapter`, the directory of a PEFT adapter for this model; `weights`, "int8" for weights
      of one byte (the extra `int8`); `special_tokens`, "never" for none around a text, "" for those
      of the model's tokenizer.
    adapters: `rank`, `alpha` and `targets` of new adapters.
    adaptations: tables of further ones, as in `networks.adaptation`.
    seed: of their values.
    trains: path -> whether a parameter will be trained, and is float32; the others keep the type
      that a Hugging Face directory stores them in.

  Raises:
    ValueError: no such checkpoint, or one that cannot be read.
  """
  path = hub.local(str(path))
  check_exists(path)
  if not params:
    best = best_lib.directory(path)
    path, params = (best, "raw") if best else (path, "ema")
  devices = sharding.make_mesh(dict(mesh or {"data": -1}))
  init = dict(init or {})
  config, tokenizer = describe(path, dtype=dtype, remat=remat, is_read=True)
  if (special := init.get("special_tokens", "")) not in ("", "never"):
    raise ValueError(f"config.init.special_tokens is {special!r}; choose never, or '' for those "
                     "that the model's tokenizer puts around a text.")
  if special:
    tokenizer = dataclasses.replace(tokenizer, prefix_ids=(), suffix_ids=())
  put_on = {"init": init, "lora": dict(adapters or {}), "adaptations": adaptations}
  config = {**config, "network": resolve_lib.adapted(config["network"], put_on, str(path))}
  return assemble(config, tokenizer, devices, str(path), functools.partial(
      source_lib.open_source(path).load, which=params, seed=seed,
      adapter=init.get("adapter", "")), trains)


def with_adapter(model: Loaded, adapter: str) -> Loaded:
  """A model with a PEFT adapter beside its weights, whose arrays both share.

  Args:
    model: of a Hugging Face directory, without an adapter of this kind.
    adapter: its directory.

  Raises:
    ValueError: an adapter of another model, or one that the model has already.
  """
  put_on = {"init": {"adapter": adapter}}
  table = resolve_lib.adapted(model.config["network"], put_on, model.source)
  before, after = (dict(x).get("adaptations", ()) for x in (model.config["network"], table))
  if len(after) == len(before):
    raise ValueError(f"{model.source} has an adaptation {after[-1]['name']} already; put adapters "
                     "on the model that has none.")
  found = assemble({**model.config, "network": table}, model.tokenizer, model.mesh, model.source)
  shared = tree.flatten(model.params)
  own = tree.part(found.params, lambda path: path not in shared)["model"]
  origin = source_lib.open_source(model.source).origin
  params = tree.merge(model.params, {"model": interop.load_adapter(adapter, origin, own)})
  return dataclasses.replace(found, params=params, data=model.data, decoding=model.decoding)


def check_exists(path: str) -> None:
  """Raises ValueError if there is nothing at a path."""
  if not pathlib.Path(path).exists():
    raise ValueError(f"checkpoint {path} does not exist; give a run's workdir, an Orbax "
                     "checkpoint, an export or a Hugging Face directory.")


def describe(path: str, *, dtype: str = "", remat: str = "", is_read: bool = False
             ) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
  """`Loaded.config` and the tokenizer of a model; ValueError if nothing there describes one."""
  config, tokenizer = source_lib.open_source(path).describe(dtype, is_read=is_read)
  if remat:
    config = {**config, "network": {**config["network"], "remat": remat}}
  return config, tokenizer


def assemble(config: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer,
             mesh: jax.sharding.Mesh, source: str,
             load_params: Callable[..., Any] | None = None,
             trains: Callable[[str], bool] = lambda path: False) -> Loaded:
  """A model of a config; by default its parameters are shape structs with shardings.

  Args:
    config: network, objective, tokenizer, dtype, sharding.
    tokenizer: its tokenizer.
    mesh: where the parameters go.
    source: where it came from, for people.
    load_params: (shapes=tree of shape structs, adaptations=of the network) -> parameters.
    trains: path -> whether a parameter will be trained, see `load`.
  """
  # Caches and short rows need masks, whatever kernel the model was trained with.
  config = {**config, "network": {**config["network"], "attention_backend": "xla"}}
  spec, objective = model_parts.build_objective(config, tokenizer, mesh)
  reader = objective.reader()
  if reader and reader.sampler == "autoregressive" and reader.start_id < 0:
    tokenizer = dataclasses.replace(tokenizer, prefix_ids=(), suffix_ids=())
  shapes = sharding.with_shardings(jax.eval_shape(objective.init, rng.root(0)),
                                   objective.parts(), mesh, config["sharding"])
  if load_params is not None:
    shapes = source_lib.open_source(source).stored_types(shapes, spec.adaptations,
                                                         lambda path: not trains(path))
    memory.announce(source, shapes)
  names = ("network", "objective", "tokenizer", "dtype", "sharding")
  origin, params = source_lib.open_source(source).origin, shapes
  if load_params is not None:
    with jax.set_mesh(mesh):
      params = load_params(shapes=shapes, adaptations=spec.adaptations)
  return Loaded(objective=objective, params=params, tokenizer=tokenizer, mesh=mesh,
               max_length=spec.max_length, source=source,
               config={k: config[k] for k in names}, data=dict(config.get("data", {})),
               decoding=interop.decoding(origin) if origin else {})
