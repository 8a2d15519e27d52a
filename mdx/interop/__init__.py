"""Hugging Face directories in and out: config.json, safetensors and the files beside them.

Contents: FAMILIES, is_hf_dir, load_config, network_fields, objective_fields, compute_dtype,
encoder_fields, special_ids, end_ids, family_key, check, stored_types, load, save, is_read_with,
suited, body_of, HEADS, label_head, label_names, adapter_fields, load_adapter, save_adapter,
decoding.

Convention: a family is one file with a name table that serves both directions. Everything
that can be wrong with a directory is found from config.json and file headers, before a
tensor is read; every error is one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
from typing import Any, Callable, Mapping

import jax
import numpy as np

from mdx.interop import family as family_lib
from mdx.interop import hf_a2d
from mdx.interop import hf_bert
from mdx.interop import hf_deberta
from mdx.interop import hf_distilbert
from mdx.interop import hf_dream
from mdx.interop import hf_electra
from mdx.interop import hf_llada
from mdx.interop import hf_llada2
from mdx.interop import hf_llama
from mdx.interop import hf_mdlm
from mdx.interop import hf_modernbert
from mdx.interop import hf_moe
from mdx.interop import hf_nomic
from mdx.interop import hf_qwen
from mdx.interop import hf_roberta
from mdx.interop import hf_sdar
from mdx.interop import peft
from mdx.interop import peft_others
from mdx.interop import safetensors
from mdx.interop import sentence_transformers
from mdx.interop import settings
from mdx.interop import weights
from mdx.networks import transformer
from mdx.networks.adaptation import sites
from mdx.utils import console
from mdx.utils import files as files_lib
from mdx.utils import readers
from mdx.utils import tree

FAMILIES = {f.key: f for f in (
    hf_llada.FAMILY, hf_dream.FAMILY, hf_sdar.FAMILY, hf_llama.FAMILY, hf_qwen.QWEN2, hf_qwen.QWEN3,
    hf_bert.FAMILY, hf_roberta.FAMILY, hf_electra.FAMILY, hf_modernbert.FAMILY, hf_llama.MISTRAL,
    hf_roberta.XLM, hf_roberta.CAMEMBERT, hf_llama.EUROBERT, *hf_a2d.FAMILIES, hf_moe.QWEN3,
    hf_moe.SDAR, hf_moe.LLADA, hf_llada2.FAMILY, hf_distilbert.FAMILY, hf_deberta.FAMILY,
    hf_nomic.FAMILY, *hf_mdlm.FAMILIES)}
CONFIG, load_config, HEADS = settings.CONFIG, settings.load_config, family_lib.HEADS
label_names = settings.label_names
_TIE = "tie_word_embeddings"
# What stands beside config.json and the weights: tokenizer, chat template, the model's code.
_BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")


def is_hf_dir(path: str | pathlib.Path) -> bool:
  """Whether a path is (or claims to be) a model directory of Hugging Face.

  A run's workdir and an exported checkpoint of ours are not: their config.json is another.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return False
  if any((path / name).is_file() for name in (safetensors.FILE, safetensors.INDEX)):
    return True
  try:
    config = readers.read_json(path / CONFIG)
  except ValueError:
    return False
  return isinstance(config, dict) and ("model_type" in config or "architectures" in config)


def _family(config: Mapping[str, Any]) -> family_lib.Family:
  kind, classes = config.get("model_type"), config.get("architectures") or []
  alike = [f for f in FAMILIES.values() if kind in (None, "", f.model_type, f.key)]
  found = next((f for f in alike if set(classes) & {*f.architectures, *f.bodies, *f.labelled}),
               FAMILIES.get(kind) if kind else None)
  if found is None:
    raise ValueError(f"model_type {kind!r} (architectures {classes}) is not known; choose from "
                     f"{', '.join(FAMILIES)}.")
  if body := next((name for name in classes if name in found.bodies), None):
    return family_lib.body(found, body)
  if name := next((name for name in classes if name in found.labelled), None):
    return family_lib.labelling(found, name)
  if classes and not set(classes) & set(found.architectures):
    raise ValueError(f"architectures {classes} of model_type {found.model_type!r} are not known; "
                     "expected " + " or ".join(
                         (*found.architectures, *found.bodies, *found.labelled)) + ".")
  return found


def _describe(path: str | pathlib.Path):
  """The config of a directory, its family and the model that it describes."""
  path = pathlib.Path(path)
  config = load_config(path)
  try:
    family, spec = _model_of(config)
  except ValueError as error:
    raise ValueError(f"{path / CONFIG}: {error}") from None
  files = [file for file in (path / CONFIG, path / safetensors.FILE, path / safetensors.INDEX)
           if file.is_file()]
  is_tied, left = _as_stored(str(path), tuple(file.stat().st_mtime_ns for file in files))
  if not is_tied:
    config = {**config, _TIE: False}
    family, spec = _model_of(config)
  patterns = tuple(map(re.escape, left))
  return config, dataclasses.replace(family, beside=family.beside + patterns), spec


def _model_of(config: Mapping[str, Any]) -> tuple[family_lib.Family, transformer.Transformer]:
  try:
    family = _family(config)
    return family, transformer.Transformer(**family.to_fields(config))
  except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
    raise ValueError(f"it is not the config of a model ({type(error).__name__}: "
                     f"{readers.reason(error)}); fetch it again.") from None


@functools.lru_cache(maxsize=64)
def _as_stored(path: str, times: tuple[int, ...]) -> tuple[bool, tuple[str, ...]]:
  """Whether head and embedding are one, where config.json says so, and tensors that are not used.

  As `transformers`, which does not tie two that are both stored and differ.
  """
  del times  # of the files, for the cache
  config = load_config(path)
  family, spec = _model_of(config)
  try:
    reader = safetensors.Reader(path)
  except ValueError:  # said where weights are asked for
    return True, ()
  with reader:
    left = weights.unlike(family, spec, reader)
    is_tied = "embed/embedding" not in left
    if not is_tied:
      console.say(f"{path}: {left['embed/embedding'][0]} is stored and differs from the embedding, "
                  "so it is the head, whatever tie_word_embeddings says.")
      left = weights.unlike(*_model_of({**config, _TIE: False}), reader)
  return is_tied, tuple(name for names in left.values() for name in names)


def family_key(path: str | pathlib.Path) -> str:
  """Name in `FAMILIES` of the family of a directory."""
  return _describe(path)[1].key


def network_fields(path: str | pathlib.Path) -> dict[str, Any]:
  """Fields of `transformer.Transformer` that config.json gives, `vocab_size` included.

  Raises:
    ValueError: an unknown model type, or an option that the transformer does not have.
  """
  config, family, _ = _describe(path)
  return family.to_fields(config)


def objective_fields(path: str | pathlib.Path) -> dict[str, Any]:
  """`name` and fields of the objective that such a model is read with; {} if it writes no text."""
  config, family, _ = _describe(path)
  try:
    return family.objective(config)
  except ValueError as error:
    raise ValueError(f"{pathlib.Path(path) / CONFIG}: {error}") from None


def encoder_fields(path: str | pathlib.Path) -> dict[str, Any]:
  """`name` and fields of the objective that a directory is only read with: for embeddings.

  What sentence-transformers says beside the model counts, where it is there.
  """
  config, _, _ = _describe(path)
  family = next(f for f in FAMILIES.values() if config.get("model_type") == f.model_type
                or set(config.get("architectures") or ()) & {*f.architectures, *f.bodies})
  reads = family.objective(config).get("name")
  around = sentence_transformers.directory_of(path)
  return {"name": "encoder", "attention": {"name": "causal" if reads == "ar" else "full"}} | (
      sentence_transformers.read(around) if around else {})


def body_of(spec: transformer.Transformer, is_causal: bool
            ) -> tuple[transformer.Transformer, str, str]:
  """A model without its head, and the `model_type` and class of the first family that holds it.

  Args:
    spec: of the model; its head is left out.
    is_causal: whether it reads from left to right.

  Raises:
    ValueError: none does.
  """
  spec = dataclasses.replace(spec, head="none", head_transform=False, head_bias=False, tied=True)
  reasons: list[str] = []
  for family in FAMILIES.values():
    for name in family.bodies:
      try:
        config = family_lib.body(family, name).to_config(spec)
        if (family.objective(config).get("name") == "ar") == is_causal:
          return spec, family.model_type, name
      except ValueError as error:
        reasons.append(str(error))
  raise ValueError("no family of Hugging Face has such a model without its head: "
                   f"{' '.join(reasons)}")


def is_read_with(path: str | pathlib.Path, objective: Mapping[str, Any]) -> bool:
  """Whether the model of a directory is read with such an objective."""
  return _reads_alike(objective_fields(path), objective)


def _reads_alike(reads: Mapping[str, Any], objective: Mapping[str, Any]) -> bool:
  how = lambda fields: (fields.get("name"), fields.get("shift", False),
                        fields.get("clean_stream", "block"))
  return how(reads) == how(objective)


def suited(spec: transformer.Transformer, objective: Mapping[str, Any]) -> str:
  """The `model_type` of the first family that holds such a model, read with such an objective.

  Raises:
    ValueError: none does.
  """
  reasons = []
  for family in FAMILIES.values():
    try:
      config = family.to_config(spec)
    except ValueError as error:
      reasons.append(str(error))
      continue
    reads = family.objective(config)
    if not reads or _reads_alike(reads, objective):  # a discriminator is read with none
      return family.key
    shifted = "shifted " if reads.get("shift") else ""
    reasons.append(f"Models of type {family.model_type!r} are read with {shifted}{reads['name']}.")
  raise ValueError(f"no family of Hugging Face has such a model: {' '.join(reasons)}")


def compute_dtype(path: str | pathlib.Path) -> str:
  """Type to compute with that loses nothing of the stored weights.

  Returns:
    "bfloat16" if all matrices are stored so, else "float32".
  """
  _, family, _ = _describe(path)
  with safetensors.Reader(path) as reader:
    dtypes = {reader.dtype(n) for n in reader.names
              if len(reader.shape(n)) > 1 and not weights.is_beside(family, n)}
  return "bfloat16" if dtypes == {safetensors.DTYPES["BF16"]} else "float32"


def special_ids(path: str | pathlib.Path) -> dict[str, int]:
  """Special ids that a directory names, as arguments of `tokenizer.build`.

  Raises:
    ValueError: an id is not a row of the embedding.
  """
  return settings.special_ids(path, _describe(path)[2].vocab_size)


def end_ids(path: str | pathlib.Path) -> tuple[int, ...]:
  """Every id that ends a text of a directory's model; ValueError as `special_ids`."""
  return settings.end_ids(path, _describe(path)[2].vocab_size)


def check(path: str | pathlib.Path, shapes: Any) -> None:
  """Raises ValueError unless `path` has weights of these shapes; reads no weights."""
  with _opened(path, shapes):
    pass


@contextlib.contextmanager
def _opened(path, shapes):
  """Yields the reader of a directory and the entries of some parameters, which are checked."""
  _, family, spec = _describe(path)
  with safetensors.Reader(path) as reader:
    table = weights.entries(family, spec, shapes, reader.names)
    weights.check(family, reader, table)
    yield reader, table


def stored_types(path: str | pathlib.Path, shapes: Any) -> Any:
  """`shapes` with bfloat16 where the directory stores a parameter so."""
  with _opened(path, shapes) as (reader, table):
    return weights.stored_types(reader, table, shapes)


def load(path: str | pathlib.Path, shapes: Any,
         finish: Callable[[str, jax.Array], Any] = lambda path, x: x) -> Any:
  """Loads the parameters of one network.

  Args:
    path: directory with config.json and safetensors.
    shapes: tree of shape structs, with shardings where there is a mesh. Rows beyond the
      model's vocabulary are zero.
    finish: (path, parameter) -> what takes its place; called before the next one is read.

  Raises:
    ValueError: see `check`.
  """
  with _opened(path, shapes) as (reader, table):
    return weights.load(reader, table, shapes, finish)


def label_head(path: str | pathlib.Path) -> tuple[str, family_lib.LabelHead, Any] | None:
  """The head of a directory that labels texts or words, if it has one.

  Returns:
    Its class, the head, and a function of shape structs {path: ...} of a part `task` that checks
    them and returns a function that reads them.
  """
  config, family, _ = _describe(path)
  name = next((name for name in config.get("architectures") or () if name in family.labelled), None)
  if name is None:
    return None
  head = family.labelled[name]
  return name, head, functools.partial(weights.head, path, head.tensors)


def adapter_fields(adapter: str, path: str | pathlib.Path) -> dict[str, Any]:
  """Returns the adaptation of a PEFT adapter for a directory, as a table of a config."""
  config, family, spec = _describe(path)
  return peft_others.kind_of(adapter, _is_causal(family, config)).fields(adapter, family, spec)


def _is_causal(family: family_lib.Family, config: Mapping[str, Any]) -> bool:
  return family.objective(config).get("name") == "ar"


def load_adapter(adapter: str, path: str | pathlib.Path, shapes: Any) -> Any:
  """Loads a PEFT adapter.

  Args:
    adapter: its directory.
    path: the Hugging Face directory of the model that it is for.
    shapes: tree of shape structs of the adapters of one network.

  Raises:
    ValueError: it is for another model.
  """
  config, family, spec = _describe(path)
  kind = peft_others.kind_of(adapter, _is_causal(family, config))
  return kind.load(adapter, path, family, spec, shapes)


def save_adapter(path: str | pathlib.Path, params: Any, spec: transformer.Transformer, *,
                 like: str | pathlib.Path) -> None:
  """Writes a PEFT adapter.

  Args:
    path: a new directory; appears under its name when it is complete.
    params: of one network, with its adapters. Every process of a job must call.
    spec: the network's hyper-parameters.
    like: the Hugging Face directory of the model that they are for.

  Raises:
    ValueError: the directory is not empty, or the format does not hold such adapters.
    OSError: it cannot be written.
  """
  path = pathlib.Path(path).absolute()
  files_lib.check_new(path)
  put = peft.adapter_of(spec) or peft_others.adaptation_of(spec)
  if put is None:
    raise ValueError("the model has no adapters that the format peft holds; train some with "
                     "config.lora.rank, or use export.format=huggingface.")
  params = tree.part(params, lambda path: sites.owner(path, (put,)) is not None)
  config, family, _ = _describe(like)
  is_causal = _is_causal(family, config)
  if kind := peft_others.KINDS_OF.get(type(put)):
    params, table = kind.tensors(put, family, spec, params)
    described = kind.config(put, family, spec) | dict(
        base_model_name_or_path=str(like), inference_mode=True,
        task_type="CAUSAL_LM" if is_causal else None)
  else:
    table = weights.entries(peft.family_of(family), spec, params)
    described = peft.config_of(family, spec, str(like), is_causal)
  tensors = weights.pending(table, params, {})
  texts = {peft.CONFIG: json.dumps(described, indent=2) + "\n"}
  _write_directory(path, tensors, peft.FILE, texts)


def decoding(path: str | pathlib.Path) -> dict[str, Any]:
  """Fields of a rule of `samplers` that the authors of such a model decode it with."""
  config, family, _ = _describe(path)
  return family.decoding(config)


def save(path: str | pathlib.Path, params: Any, spec: transformer.Transformer, *,
         model_type: str = "", like: str | pathlib.Path = "", dtype: str = "", body: str = "",
         ids: Mapping[str, Any] | None = None, entries: Mapping[str, Any] | None = None,
         files: Mapping[str, str | bytes] | None = None,
         max_shard_bytes: int = 4 * 2 ** 30) -> None:
  """Writes a Hugging Face directory.

  Args:
    path: a new directory; appears under its name when it is complete.
    params: parameters of one network, of any sharding. Every process of a job must call.
    spec: its hyper-parameters.
    model_type: key of `FAMILIES`; may be left out with `like`.
    like: the directory that the model came from. It gives the config.json (except what
      `spec` changes), the stored type of every tensor, and the tokenizer, chat template and
      code beside them. A `model_type` of another family takes only the last.
    dtype: "float32", "bfloat16" or "float16" for all tensors; "" = as in `like`, else as `params`.
    body: class without a head of the family `model_type`; "" = one with a head, or as `like`.
    ids: special ids as `special_ids` gives them; these too replace those of `like`.
    entries: further entries of config.json, over all others.
    files: name -> content of further files (tokenizer.json), over those of `like`.
    max_shard_bytes: size at which another file is begun.

  Raises:
    ValueError: the directory is not empty, or the family has no such model.
    OSError: it cannot be written.
  """
  path = pathlib.Path(path).absolute()
  files_lib.check_new(path)
  if dtype not in ("", "float32", "bfloat16", "float16"):
    raise ValueError(f"dtype is {dtype!r}; choose from float32, bfloat16, float16.")
  old, family, _ = _describe(like) if like else ({}, None, None)
  if family is None or model_type not in ("", family.key) or body not in (
      "", *family.architectures):
    old, family = {}, _family({"model_type": model_type, "architectures": [body] if body else []})
  config = {**_config(family, spec, old, ids or {}), **(entries or {})}
  with contextlib.ExitStack() as stack:
    reader = stack.enter_context(safetensors.Reader(like)) if like else None
    table = weights.entries(family, spec, params, reader.names if old and reader else ())
    dtypes = {name: reader.dtype(name, of_any_kind=True) for name in reader.names} if reader else {}
    if dtype:
      dtypes = dict.fromkeys([n for e in table.values() for n in e.names.values()], np.dtype(dtype))
    tensors = weights.pending(table, params, dtypes)
    tensors += weights.beside(family, reader) if old and reader else []
    _write(path, config, tensors, like, files or {}, max_shard_bytes)


def _write(path, config, tensors, like, files, max_shard_bytes) -> None:
  largest = max(tensors, key=lambda tensor: tensor.num_bytes)
  config["dtype" if "dtype" in config else "torch_dtype"] = largest.dtype.name
  texts = dict(files) | {CONFIG: json.dumps(config, indent=2) + "\n"}
  _write_directory(path, tensors, safetensors.FILE, texts, like, max_shard_bytes)


def _write_directory(path, tensors, file, texts, like="", max_shard_bytes=4 * 2 ** 30) -> None:
  """Writes the directory under another name, and renames it when it is complete."""
  beside = _beside(like)
  if jax.process_index():
    safetensors.write(path, tensors, is_writer=False, max_shard_bytes=max_shard_bytes)
    return
  temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
  try:
    temporary.mkdir(parents=True)
    safetensors.write(temporary, tensors, max_shard_bytes=max_shard_bytes, name=file)
    for source in beside:
      shutil.copyfile(source, temporary / source.name)
    for name, text in texts.items():
      (temporary / name).parent.mkdir(exist_ok=True)
      content = text if isinstance(text, bytes) else text.encode("utf-8")
      (temporary / name).write_bytes(content)
    temporary.replace(path)
  except OSError as error:
    shutil.rmtree(temporary, ignore_errors=True)
    raise OSError(f"{path} could not be written ({error.strerror or error}); free some space, or "
                  "give another directory.") from None


def _config(family: family_lib.Family, spec: transformer.Transformer, old: Mapping[str, Any],
            ids: Mapping[str, int]) -> dict[str, Any]:
  """config.json of `spec`: that of `old` where it says the same, else with our entries over it."""
  new = family.to_config(spec)
  if old and family.to_fields(old) == family.to_fields({**old, **new}):
    new = {}
  return {**old, **new, **{settings.SPECIAL_IDS[key]: value for key, value in ids.items()}}


def _check_link(file: pathlib.Path) -> None:
  """Raises ValueError for a link out of a directory that came from elsewhere.

  Links of the hub's cache, from snapshots/REVISION to the blobs beside, are as good as files.
  """
  folder, target = file.parent.resolve(), file.resolve()
  if not any(target.is_relative_to(own) for own in (folder, folder.parent.parent / "blobs")):
    raise ValueError(f"{file} is a link to {target}, out of its directory, and would be copied "
                     "into the export; replace it by a file, or remove it.")


def _beside(like) -> list[pathlib.Path]:
  """Files of a directory that an export has too, such as those of the tokenizer."""
  found = [file for pattern in (_BESIDE if like else ())
           for file in sorted(pathlib.Path(like).glob(pattern))
           if file.is_file() and file.name not in (CONFIG, safetensors.INDEX)]
  for file in found:
    _check_link(file)
  return found
