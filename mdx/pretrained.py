"""Models to start from: checkpoints of ours, and Hugging Face directories.

Contents: tokenizer_of, network_of, resolve, check_params, load_params, find_config, origin.

Convention: what a Hugging Face directory says of itself (network, tokenizer, how its model is
read) is taken from there, whatever the config has; how it is computed is the config's.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Mapping, Sequence

from mdx import checkpoint as checkpoint_lib
from mdx import interop
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer

_ARCHITECTURE = frozenset(f.name for f in dataclasses.fields(transformer.Transformer)) - {
    "vocab_multiple", "dtype", "scan_layers", "remat", "init_std", "attention_backend"}


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
  return tokenizer_lib.build(str(path), chat_template=chat_template, num_ids=rows, **ids)


def network_of(path: str, tokenizer: tokenizer_lib.Tokenizer) -> dict[str, Any]:
  """Fields of the transformer of a directory, with a row for every id of the tokenizer."""
  fields = interop.network_fields(path)
  return fields | {"vocab_size": max(fields["vocab_size"], tokenizer.vocab_size)}


def resolve(config: Mapping[str, Any]) -> tuple[dict[str, Any], tokenizer_lib.Tokenizer]:
  """The config and tokenizer of a run, from `init.checkpoint` if that is a directory of others."""
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
  if interop.is_hf_dir(source):
    interop.check(source, _model_shapes(source, shapes))
  else:
    checkpoint_lib.check_params(source, shapes, is_part=bool(fresh))


def load_params(source: str, shapes: Mapping[str, Any], which: str, *,
                as_stored: bool = False, fresh: Sequence[str] = ()) -> dict[str, Any]:
  """Loads the parameters of an objective, but for `fresh` parts.

  Args:
    source: a Hugging Face directory, or what `checkpoint.load_params` takes.
    shapes: tree of shape structs with shardings.
    which: "ema" or "raw", of a checkpoint of ours.
    as_stored: bfloat16 parameters of a Hugging Face directory stay so.
    fresh: as in `check_params`.
  """
  shapes = {k: v for k, v in shapes.items() if k not in fresh}
  if interop.is_hf_dir(source):
    return {"model": interop.load(source, _model_shapes(source, shapes), as_stored=as_stored)}
  return checkpoint_lib.load_params(source, shapes, which, is_part=bool(fresh))


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
