"""Directories of sentence-transformers: the modules behind a Hugging Face model, in and out.

Contents: MODULES, directory_of, model_path, read, load_dense, written.

Convention: modules.json names a Transformer, a Pooling, any Dense and at most one Normalize, in
this order. What is written has the names and keys of every release since 2.0; those that release 6
gives them are read too.

Reference: Reimers & Gurevych 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from mdx.interop import safetensors
from mdx.utils import readers

MODULES = "modules.json"
_PROMPTS, _ROW = "config_sentence_transformers.json", "sentence_bert_config.json"
# Ours -> theirs, and the key of the releases before 6.
_POOLINGS = {"first": ("cls", "pooling_mode_cls_token"),
             "mean": ("mean", "pooling_mode_mean_tokens"),
             "max": ("max", "pooling_mode_max_tokens"),
             "weighted_mean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
             "last": ("lasttoken", "pooling_mode_lasttoken")}
_OTHER = "pooling_mode_mean_sqrt_len_tokens"
_ACTIVATIONS = {"identity": "torch.nn.modules.linear.Identity",
                "tanh": "torch.nn.modules.activation.Tanh",
                "relu": "torch.nn.modules.activation.ReLU",
                "gelu": "torch.nn.modules.activation.GELU"}
_DOCUMENTS = ("passage", "corpus")  # other names of the prompt for documents
_LONGEST = 10**6  # a longer model_max_length stands for none


def _modules(path: pathlib.Path) -> list[dict[str, Any]]:
  """The entries of modules.json, whose `type` is the last word of the class."""
  found = readers.read_json(path / MODULES, "fetch it again")
  try:
    return [{"type": module["type"].rpartition(".")[2], "path": module.get("path", "")}
            for module in sorted(found, key=lambda module: module.get("idx", 0))]
  except (TypeError, KeyError, AttributeError):
    raise ValueError(f"{path / MODULES}: expected a list of modules with type and path; fetch it "
                     "again.") from None


def model_path(path: str | pathlib.Path) -> pathlib.Path:
  """The Hugging Face directory of a path: that of its Transformer module, or the path itself."""
  path = pathlib.Path(path)
  if not (path / MODULES).is_file():
    return path
  first = (_modules(path) or [{"path": ""}])[0]
  return path / first["path"] if first["path"] else path


def directory_of(path: str | pathlib.Path) -> pathlib.Path | None:
  """The directory with modules.json that a Hugging Face directory belongs to, or None."""
  path = pathlib.Path(path)
  return next((own for own in (path, path.parent) if (own / MODULES).is_file() and
               model_path(own).resolve() == path.resolve()), None)


def _object(file: pathlib.Path) -> dict[str, Any]:
  """The object of a JSON file; {} if there is none."""
  found = readers.read_json(file, "fetch it again") if file.is_file() else {}
  if not isinstance(found, dict):
    raise ValueError(f"{file} holds no object; fetch it again.")
  return found


def read(path: str | pathlib.Path) -> dict[str, Any]:
  """Fields `embedding` and `dense` of objective encoder that a directory says.

  Raises:
    ValueError: a module, a pooling or an activation that is not known.
  """
  path = pathlib.Path(path)
  modules, dense = _modules(path), []
  kinds = [module["type"] for module in modules]
  middle = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
  if kinds[:2] != ["Transformer", "Pooling"] or set(middle) - {"Dense"}:
    raise ValueError(f"{path / MODULES} has the modules {', '.join(kinds) or 'none'}; expected "
                     "Transformer, Pooling, any Dense, and Normalize or not.")
  pooling = path / modules[1]["path"] / "config.json"
  settings = _object(pooling)
  for module in modules[2:2 + len(middle)]:
    dense.append(_dense(path / module["path"]))
  found = {"pooling": _pooling(settings, pooling), "normalize": kinds[-1] == "Normalize",
           "include_prompt": settings.get("include_prompt", True)}
  row = _object(model_path(path) / _ROW) or _object(path / _ROW)
  longest = row.get("max_seq_length") or _object(
      model_path(path) / "tokenizer_config.json").get("model_max_length") or 0
  found |= {"max_length": longest if 0 < longest < _LONGEST else 0,
            "lower_case": bool(row.get("do_lower_case"))}
  said = _object(path / _PROMPTS)
  prompts = dict(said.get("prompts") or {})
  other = next((name for name in _DOCUMENTS if name in prompts), "")
  if other and "document" not in prompts:
    prompts["document"] = prompts[other]
  if said.get("default_prompt_name") not in (None, *prompts):
    raise ValueError(f"{path / _PROMPTS}: default_prompt_name {said['default_prompt_name']!r} is "
                     "none of its prompts; correct it.")
  return {"embedding": found | {"prompts": prompts, "default_kind":
                                said.get("default_prompt_name") or ""}, "dense": tuple(dense)}


def _pooling(settings: Mapping[str, Any], file: pathlib.Path) -> str:
  """Our name of the pooling of 1_Pooling/config.json."""
  modes = settings.get("pooling_mode") or [
      theirs for theirs, key in (*_POOLINGS.values(), ("mean_sqrt_len_tokens", _OTHER))
      if settings.get(key)]
  modes = [modes] if isinstance(modes, str) else list(modes)
  ours = {theirs: name for name, (theirs, _) in _POOLINGS.items()}
  if len(modes) != 1 or modes[0] not in ours:
    raise ValueError(f"{file} has the pooling {' and '.join(map(str, modes)) or 'none'}; expected "
                     f"one of {', '.join(ours)}.")
  if modes[0] == "weightedmean" and not settings.get("include_prompt", True):
    raise ValueError(f"{file}: weights by position that count a prompt which is left out are not "
                     "known; set include_prompt.")
  return ours[modes[0]]


def _dense(path: pathlib.Path) -> dict[str, Any]:
  """The entry of a Dense module in objective.dense."""
  said = _object(path / "config.json")
  ours = {theirs: name for name, theirs in _ACTIVATIONS.items()}
  name = said.get("activation_function", _ACTIVATIONS["tanh"])
  if name not in ours or said.get("module_input_name", "sentence_embedding") != (
      "sentence_embedding"):
    raise ValueError(f"{path / 'config.json'}: a map of {said.get('module_input_name', 'states')} "
                     f"with the activation {name!r} is not known; expected one of embeddings with "
                     f"{', '.join(ours)}.")
  try:
    return {"num_inputs": said["in_features"], "num_outputs": said["out_features"],
            "has_bias": bool(said.get("bias", True)), "activation": ours[name]}
  except KeyError as error:
    raise ValueError(f"{path / 'config.json'} lacks {error}; fetch it again.") from None


def load_dense(path: str | pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """The parameters of the Dense modules: kernel float32 [in, out] and bias [out] of "0", "1", ...

  Raises:
    ValueError: a module without safetensors.
  """
  path, found = pathlib.Path(path), {}
  folders = [path / m["path"] for m in _modules(path) if m["type"] == "Dense"]
  for number, folder in enumerate(folders):
    file = folder / safetensors.FILE
    if not file.is_file():
      raise ValueError(f"{folder} has no {safetensors.FILE}; load it with sentence-transformers "
                       "and save it again.")
    tensors = safetensors_numpy.load(file.read_bytes())
    found[str(number)] = {
        ours: np.asarray(value.T if ours == "kernel" else value, np.float32)
        for ours, value in (("kernel", tensors.get("linear.weight")),
                            ("bias", tensors.get("linear.bias"))) if value is not None}
  return found


def written(settings: Mapping[str, Any], dense: Sequence[Mapping[str, Any]],
            params: Mapping[str, Any], width: int, max_length: int) -> dict[str, str | bytes]:
  """Files of a directory, by name, beside those of its model.

  Args:
    settings: all fields of `eval.embedders.Settings`.
    dense: entries of objective.dense.
    params: their parameters, of "0", "1", ...
    width: of the model's states.
    max_length: of the model's rows.

  Raises:
    ValueError: settings that the library does not have.
  """
  pooling, prompts = settings["pooling"], settings["prompts"]
  pooling = pooling["name"] if isinstance(pooling, Mapping) and len(pooling) == 1 else pooling
  unlike = {"attention": "", "layer": -1, "dim": 0}
  wrong = [f"{name} {settings[name]!r}" for name, value in unlike.items()
           if settings[name] != value]
  if not isinstance(pooling, str) or pooling not in _POOLINGS:
    wrong.append(f"pooling {pooling!r}")
  if pooling == "weighted_mean" and not settings["include_prompt"]:
    wrong.append("pooling weighted_mean whose first position stands behind the prompt")
  plain = {}
  for name, prompt in prompts.items():
    plain[name] = prompt.removesuffix("{text}") if isinstance(prompt, str) else "{text}"
    if "{text}" in plain[name]:
      wrong.append(f"prompt {prompt!r:.40}")
  if wrong:
    raise ValueError(f"sentence-transformers has no {wrong[0]}; set what it has: one of "
                     f"{', '.join(_POOLINGS)}, prompts before the text, the last layer, all "
                     "columns.")
  entry = lambda i, path, kind: {"idx": i, "name": str(i), "path": path,
                                 "type": f"sentence_transformers.models.{kind}"}
  modules = [entry(0, "", "Transformer"), entry(1, "1_Pooling", "Pooling")]
  modes = {key: name == pooling for name, (_, key) in _POOLINGS.items()} | {_OTHER: False}
  files: dict[str, Any] = {"1_Pooling/config.json": {
      "word_embedding_dimension": width, **modes, "include_prompt": settings["include_prompt"]}}
  for i, layer in enumerate(dense):
    folder = f"{len(modules)}_Dense"
    modules.append(entry(len(modules), folder, "Dense"))
    files[f"{folder}/config.json"] = {
        "in_features": layer["num_inputs"], "out_features": layer["num_outputs"],
        "bias": layer["has_bias"], "activation_function": _ACTIVATIONS[layer["activation"]]}
    own = {"linear.weight": np.ascontiguousarray(np.asarray(params[str(i)]["kernel"]).T)}
    if layer["has_bias"]:
      own["linear.bias"] = np.asarray(params[str(i)]["bias"])
    files[f"{folder}/{safetensors.FILE}"] = safetensors_numpy.save(own)
  if settings["normalize"]:
    modules.append(entry(len(modules), f"{len(modules)}_Normalize", "Normalize"))
    files[f"{modules[-1]['path']}/config.json"] = {}
  files |= {MODULES: modules, _ROW: {"max_seq_length": settings["max_length"] or max_length,
                                     "do_lower_case": settings["lower_case"]},
            _PROMPTS: {"prompts": plain, "default_prompt_name": settings["default_kind"] or None,
                       "similarity_fn_name": "cosine"}}
  return {name: value if isinstance(value, bytes) else json.dumps(value, indent=2) + "\n"
          for name, value in files.items()}
