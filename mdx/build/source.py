"""Sources of weights: runs of mdx, and Hugging Face directories.

Contents: Source, Run, HuggingFace, open_source, translated.

Convention: what a Hugging Face directory says of itself (network, tokenizer, how its model is
read) is taken from there, whatever a config has; how it is computed is the config's. Adaptations
(networks.adaptation) that a source does not have are put on while it is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Callable, Mapping, Protocol, Sequence

import jax

from mdx import checkpoint as checkpoint_lib
from mdx import interop
from mdx import sharding
from mdx import types
from mdx.data import hf_tokenizer
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import adaptation
from mdx.networks.adaptation import sites
from mdx.objectives.labels import finetune
from mdx.utils import console
from mdx.utils import readers
from mdx.utils import tree

Adaptations = Sequence[types.Adaptation]


class Source(Protocol):
  """A place that weights come from.

  Attributes:
    path: where it is.
    network: the stored network table, with its adaptations; {} if nothing there says it.
    origin: the Hugging Face directory that its model began from; "" if none is there.
  """
  path: str
  network: Mapping[str, Any]
  origin: str

  def describe(self, dtype: str = "", *, is_read: bool = False
               ) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
    """Returns network, objective, tokenizer, dtype and sharding of its model, and the tokenizer.

    Args:
      dtype: of activations; "" = that of training, or that of the stored weights.
      is_read: whether a model without a head, or of sentence-transformers, is described as one
        that gives states and embeddings alone.

    Raises:
      ValueError: nothing there describes a model.
    """

  def check(self, shapes: types.Params, adaptations: Adaptations, fresh: Sequence[str] = ()
            ) -> None:
    """Raises ValueError unless it has parameters of these shapes; reads no weights.

    Args:
      shapes: tree of shape structs.
      adaptations: those of the model.
      fresh: parts that it need not have; it may then have others.
    """

  def stored_types(self, shapes: types.Params, adaptations: Adaptations,
                   keep: Callable[[str], bool] = lambda path: True) -> types.Params:
    """Returns `shapes` with the types that are stored where `keep(path)`.

    Kernels that `adaptations` replace are as they are.
    """

  def load(self, shapes: types.Params, which: str, *, adaptations: Adaptations = (),
           adapter: str = "", seed: int = 0, fresh: Sequence[str] = ()) -> types.Params:
    """Returns the parameters of an objective, but for `fresh` parts.

    Args:
      shapes: tree of shape structs with shardings; values are cast to their types.
      which: "ema" or "raw", of a run.
      adaptations: those of the model.
      adapter: directory of a PEFT adapter for the source.
      seed: of new parameters of adaptations, where neither source nor adapter gives them.
      fresh: as in `check`.
    """


  def head(self, objective: types.Objective, shapes: types.Params, *, says: bool = False
           ) -> Callable[[], types.Params]:
    """Returns a function that reads fresh parts which the source has all the same.

    Args:
      objective: whose parts they are.
      shapes: as in `check`.
      says: whether a line says what becomes of a head of the source.

    Raises:
      ValueError: it has a head of another shape than its config.json says.
    """


class _Source:
  """The part of sources that does not depend on how weights are stored."""
  path: str
  network: Any
  origin: Any
  stored_types: Callable[..., types.Params]
  _check: Callable[..., None]
  _load: Callable[..., types.Params]

  def _base_form(self, shapes, adaptations):
    """The parameters that are stored of a model: without what is put on it while it is loaded."""
    stored = adaptation.build(self.network.get("adaptations", ()))
    for one in stored:
      if type(one) not in map(type, adaptations):
        raise ValueError(f"{self.path} has the adaptation {one}, which the config does not name; "
                         "put it on with config.lora, init.weights or config.adaptations, or merge "
                         "it first (mode export).")
    return sites.base_form(shapes, [one for one in adaptations
                                    if type(one) not in map(type, stored)])

  def check(self, shapes, adaptations, fresh=()):
    shapes = {k: v for k, v in shapes.items() if k not in fresh}
    self._check(self._base_form(shapes, adaptations), is_part=bool(fresh))

  def load(self, shapes, which, *, adaptations=(), adapter="", seed=0, fresh=()):
    shapes = {k: v for k, v in shapes.items() if k not in fresh}
    base, wanted = self._base_form(shapes, adaptations), tree.flatten(shapes)
    # Kernels that are replaced are read in the types that are stored.
    base = self.stored_types(base, (), lambda path: path not in wanted)
    loaded = self._load(base, which, lambda path, leaf: sites.start(
        path, leaf, wanted, adaptations), is_part=bool(fresh))
    leaves = {path.replace("/kernel/", "/"): leaf for path, leaf in tree.flatten(loaded).items()}
    rest = tree.nest({path: leaf for path, leaf in wanted.items() if path not in leaves})
    given = {}
    if adapter and rest:
      of_adapter = adaptation.build([interop.adapter_fields(adapter, self.origin)])
      is_given = lambda path: sites.owner(path, of_adapter) is not None
      given = {"model": interop.load_adapter(adapter, self.origin,
                                             tree.part(rest["model"], is_given))}
      rest = tree.part(rest, lambda path: not is_given(path))
    new = sites.fresh(rest, adaptations, seed)
    return sites.started(tree.merge(tree.nest(leaves), given, new), adaptations,
                         tree.flatten(new).__contains__)


@dataclasses.dataclass(frozen=True)
class Run(_Source):
  """A run of mdx: its workdir, one of its checkpoints, or an export."""
  path: str

  @functools.cached_property
  def file(self) -> pathlib.Path | None:
    """The config.json of the run, if there is one."""
    path = pathlib.Path(self.path)
    return next((p / "config.json" for p in (path, *list(path.absolute().parents)[:2])
                 if (p / "config.json").is_file()), None)

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """The stored config of the run; ValueError if there is none or it is none."""
    if self.file is None:
      raise ValueError(f"{self.path} has no config.json, nor the directories above it; give a "
                       "run's workdir, one of its checkpoints, or an export.")
    try:
      config = readers.read_json(self.file)["config"]
      model = config.get("model", config)  # of a run that fine-tuned a model
      return {**model, "network": translated(model["network"]), "init": config.get("init", {})}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"{self.file} is not the config of an mdx run "
                       f"({type(error).__name__}).") from None

  @property
  def network(self):
    return self.config["network"] if self.file else {}

  @property
  def origin(self):
    last = self._first()
    return last.path if isinstance(last, HuggingFace) else ""

  def found_origin(self) -> str:
    """Returns `origin`; ValueError if the run began from weights that are not there any more."""
    last = self._first()
    if isinstance(last, Run) and not pathlib.Path(last.path).exists():
      raise ValueError(f"{self.path} began from {last.path}, which is not there, so its form is "
                       "not known; put it back, or start from the folder that it is relative to.")
    return self.origin

  def _first(self) -> Run | HuggingFace:
    """The source that the run began from, also by way of other runs; itself if it has none."""
    source: Run | HuggingFace = self
    seen: set[str] = set()
    while isinstance(source, Run):
      before = source.config["init"].get("checkpoint", "") if source.file else ""
      if not before or before in seen:
        return source
      seen.add(before)
      source = open_source(before)
    return source

  def describe(self, dtype="", *, is_read=False):
    """As `Source`."""
    del is_read
    config = {**self.config, **({"dtype": dtype} if dtype else {})}
    assert self.file is not None  # `config` has been read
    return config, tokenizer_lib.load(self.file.parent)

  def head(self, objective, shapes, *, says=False):
    """As `Source`: the task of a run is another's."""
    del objective, shapes, says
    return dict

  def stored_types(self, shapes, adaptations, keep=lambda path: True):
    """As `Source`: a run stores parameters as they are trained."""
    del adaptations, keep
    return dict(shapes)

  @functools.cached_property
  def _is_tuned(self) -> bool:
    """Whether the run fine-tuned a model by a policy, which may have further parts."""
    return self.file is not None and "model" in readers.read_json(self.file)["config"]

  def _check(self, base, *, is_part):
    checkpoint_lib.check_params(self.path, base, is_part=is_part or self._is_tuned)

  def _load(self, base, which, put_on, *, is_part):
    return tree.map_with_path(put_on, checkpoint_lib.load_params(
        self.path, base, which, is_part=is_part or self._is_tuned))


@dataclasses.dataclass(frozen=True)
class HuggingFace(_Source):
  """A directory of config.json, safetensors and, if wanted, tokenizer.json."""
  path: str
  network = {}

  @property
  def origin(self):
    return self.path

  def found_origin(self) -> str:
    """Returns `origin`."""
    return self.path

  def tokenizer(self, *, chat_template: str = "", **ids: int) -> tokenizer_lib.Tokenizer:
    """Returns the tokenizer of the directory; one of bare ids where there is none.

    Every row of the embedding is an id. A mask that the directory does not have is one more.

    Args:
      chat_template: as `tokenizer.build` takes it.
      **ids: special ids, over those of the directory.
    """
    path = self.path
    if (pathlib.Path(path) / tokenizer_lib.FILE_NAME).is_file():
      return tokenizer_lib.load(path)
    ends = interop.end_ids(path)
    rows = interop.network_fields(path)["vocab_size"]
    ids = interop.special_ids(path) | ids
    if not hf_tokenizer.is_in(path):
      return _ended(tokenizer_lib.of_ids(rows, path, **ids), ends)
    found = tokenizer_lib.build(path, None, chat_template=chat_template, num_ids=rows, **ids)
    prefix_ids, suffix_ids = hf_tokenizer.around(found.vocab.definition())
    return _ended(dataclasses.replace(found, prefix_ids=prefix_ids, suffix_ids=suffix_ids), ends)

  def network_of(self, tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Any]:
    """Returns fields of the transformer, with a row for every id of the tokenizer."""
    fields = interop.network_fields(self.path)
    return fields | {"vocab_size": max(fields["vocab_size"], tokenizer.vocab_size)}

  def describe(self, dtype="", *, is_read=False):
    """As `Source`."""
    objective = dict(interop.objective_fields(self.path))
    if is_read and (self._around or not objective and (
        interop.network_fields(self.path).get("head") == "none")):
      objective = interop.encoder_fields(self.path)
    if not objective:
      if interop.network_fields(self.path).get("head") == "none":
        raise ValueError(f"{self.path} holds a model without a head, which writes no tokens; begin "
                         "a fine-tuning with it (configs/finetune.py), or give one with a head.")
      raise ValueError(f"{self.path} holds a discriminator, which tells replaced tokens from "
                       "others and writes none; give a model that does, or use mdx.interop.load.")
    rows, tokenizer = interop.network_fields(self.path)["vocab_size"], self.tokenizer()
    if tokenizer.mask_id >= rows and objective["name"] not in ("ar", "encoder"):
      raise ValueError(f"{self.path} has no mask token among its {rows} ids, so there is nothing "
                       "to unmask; give a masked diffusion model, with `mask_token_id` in its "
                       "config.json.")
    is_ours = (pathlib.Path(self.path) / tokenizer_lib.FILE_NAME).is_file()
    if objective["name"] == "ar" and not is_ours:  # ours are trained with a start token everywhere
      objective["start"] = "missing" if objective.get("start_id", -1) in tokenizer.prefix_ids else (
          "never")
    dtype = dtype or interop.compute_dtype(self.path)
    network = {"name": "transformer", "dtype": dtype} | self.network_of(tokenizer)
    return {"network": network, "dtype": dtype, "sharding": dict(sharding.DEFAULT_TABLE),
            "objective": objective, "tokenizer": {"path": self.path}}, tokenizer

  def head(self, objective, shapes, *, says=False):
    """As `Source`: that of a class which labels texts or words, where the form and labels agree."""
    found = interop.label_head(self.path)
    if found is None:
      return dict
    name, head, reading = found
    is_labelled = isinstance(objective, finetune.Labelled)
    reason = "has another form than the task's" if not is_labelled or not head.form or (
        head.form != objective.head_form) else _unlike(interop.label_names(self.path), objective)
    if says:
      console.say(f"{self.path}: the head of {name} {reason}, so its body alone is taken." if reason
                  else f"{self.path}: the head of {name} is kept, for {len(objective.labels)} "
                  "labels.")
    read = None if reason else reading(shapes["task"])
    return dict if read is None else lambda: {"task": read()}

  def stored_types(self, shapes, adaptations, keep=lambda path: True):
    """As `Source`."""
    base = self._base_form({"model": shapes["model"]}, adaptations)["model"]
    stored = {f"model/{path}": leaf for path, leaf in
              tree.flatten(interop.stored_types(self.path, base)).items()}
    return tree.map_with_path(
        lambda path, leaf: stored[path] if path in stored and keep(path) else leaf, shapes)

  def _check(self, base, *, is_part):
    del is_part
    interop.check(self.path, self._model_of(base))

  def _load(self, base, which, put_on, *, is_part):
    del which, is_part
    found = {"model": interop.load(self.path, self._model_of(base),
                                   lambda path, leaf: put_on(f"model/{path}", leaf))}
    if "dense" in base and self._around:
      stored = interop.sentence_transformers.load_dense(self._around)
      if problems := tree.difference(base["dense"], stored):
        raise ValueError(f"{self.path}: its Dense modules are not what they say: {problems[0]}; "
                         "fetch them again.")
      found["dense"] = jax.tree.map(lambda like, x: jax.device_put(x, like.sharding),
                                    base["dense"], stored)
    return found

  @property
  def _around(self) -> pathlib.Path | None:
    """The directory of sentence-transformers that the model belongs to."""
    return interop.sentence_transformers.directory_of(self.path)

  def _model_of(self, shapes):
    others = sorted(set(shapes) - {"model"} - ({"dense"} if self._around else set()))
    if others:
      raise ValueError(f"this objective has parameters {others[0]!r}, which the Hugging Face "
                       f"directory {self.path} has not; use another objective.")
    return shapes["model"]


def _unlike(names: Sequence[str], objective: finetune.Labelled) -> str:
  """Says how the labels of a head are not those of an objective; "" where they are.

  Names that `transformers` gave, LABEL_0 and so on, stand for labels by number.
  """
  is_named = any(name != f"LABEL_{i}" for i, name in enumerate(names))
  if len(names) == len(objective.labels) and (not is_named or tuple(names) == objective.labels):
    return ""
  return f"has the labels {', '.join(names):.80}, not {', '.join(objective.labels):.80}"


def _ended(tokenizer: tokenizer_lib.Tokenizer, ends: Sequence[int]) -> tokenizer_lib.Tokenizer:
  return dataclasses.replace(tokenizer, other_eos_ids=tuple(
      i for i in ends if i != tokenizer.eos_id))


def open_source(path: str | pathlib.Path) -> Run | HuggingFace:
  """The source at a path, which need not exist yet."""
  path = interop.sentence_transformers.model_path(path)
  return HuggingFace(str(path)) if interop.is_hf_dir(path) else Run(str(path))


def translated(network: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a stored network table in today's words: `adaptations`, not fields of two of them."""
  old = dict(weights="float", lora_rank=0, lora_alpha=0.0, lora_targets=tuple(sites.PROJECTIONS))
  given = {**old, **{k: v for k, v in network.items() if k in old}}
  found: list[dict[str, Any]] = [dict(name="int8")] if given["weights"] == "int8" else []
  if given["lora_rank"]:
    found.append(dict(name="lora", rank=given["lora_rank"], alpha=given["lora_alpha"],
                      targets=tuple(given["lora_targets"])))
  rest = {k: v for k, v in network.items() if k not in old}
  return rest | ({"adaptations": tuple(found)} if found else {})
