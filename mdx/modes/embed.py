"""Mode embed: embeddings of the texts of a file.

Contents: run, options_of, write.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mdx import config as config_lib
from mdx import embedding as embedding_lib
from mdx import model as model_lib
from mdx.build import values
from mdx.data.sources import listed
from mdx.eval import embedders
from mdx.train import progress as progress_lib
from mdx.utils import checksum
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers

FILE, IDS, ABOUT = "embeddings.npy", "ids.json", "embeddings.json"
_PART = 1024  # texts that are embedded, and kept, together
_ANSWERS = {"": None, "yes": True, "no": False}


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Embeds the texts of `config.path`; writes embeddings.npy, ids.json and embeddings.json.

  Raises:
    ValueError: no file, one that cannot be embedded, or options that do not fit the model.
  """
  config = config_lib.to_dict(config)
  values.check(config)
  if not config["path"] or not config["init"]["checkpoint"]:
    raise ValueError("mode embed needs --config.path=FILE with texts, and "
                     "--config.init.checkpoint, a run, an export or a Hugging Face directory.")
  options = options_of(config)
  found = listed.read(config["path"], field=config["field"], id_field=config["id_field"],
                      has_header=config["has_header"])
  model = model_lib.load(config["init"]["checkpoint"], mesh=config["mesh"], dtype=config["dtype"])
  embeddings = write(model, found, pathlib.Path(workdir), options, kind=config["kind"],
                     batch_size=config["batch_size"])
  console.say(f"{len(embeddings)} texts embedded in {embeddings.shape[1]} dimensions by "
              f"{model.source}; see {pathlib.Path(workdir) / FILE}")
  return {"num_rows": len(embeddings), "dim": embeddings.shape[1]}


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """The options of `Model.encode` that config.embedding gives, without those left to the model.

  Raises:
    ValueError: an option that no model has.
  """
  given = dict(config["embedding"])
  if given["normalize"] not in _ANSWERS:
    raise ValueError(f"config.embedding.normalize is {given['normalize']!r}; choose yes, no, or '' "
                     "for the model's own.")
  neutral = {"pooling": "", "prompt": "", "attention": "", "layer": -1, "normalize": "", "dim": 0,
             "max_length": 0}
  found = {k: v for k, v in given.items() if v != neutral[k]}
  if "normalize" in found:
    found["normalize"] = _ANSWERS[found["normalize"]]
  embedders.Settings.of({k: v for k, v in found.items() if k != "prompt"})
  return found


def write(model: model_lib.Model, found: listed.Listed, path: pathlib.Path,
          options: Mapping[str, Any], *, kind: str, batch_size: int) -> np.ndarray:
  """Embeds texts into a directory; one that was interrupted goes on, to the same bytes.

  Args:
    model: of the embeddings.
    found: texts and ids.
    path: the directory.
    options: of `Model.encode`.
    kind: of the texts.
    batch_size: rows read together.

  Returns:
    float32 [N, D], in the order of the texts.

  Raises:
    ValueError: the directory has other embeddings.
  """
  settings = embedding_lib.settings_of(model, **options)
  settings.prompts_of(kind)
  about = {"model": embedding_lib.identity(model, settings), "source": model.source,
           "options": dict(options), "kind": kind, "num_rows": len(found.texts),
           "batch_size": batch_size, "texts": checksum.of_json([found.ids, found.texts])}
  if (path / ABOUT).exists():
    known = readers.read_object(path / ABOUT)
    wrong = next((k for k in about if k != "source" and known.get(k) != json.loads(
        json.dumps(about[k]))), None)
    if wrong:
      raise ValueError(f"{path} has embeddings of another {wrong}; give a new --workdir.")
    if (path / FILE).exists():
      return np.load(path / FILE)
  parts = path / "embeddings.parts"
  is_first = jax.process_index() == 0
  if is_first:
    parts.mkdir(parents=True, exist_ok=True)
    files.write_json(path / ABOUT, about)
  bar = progress_lib.Progress(len(found.texts), enabled=is_first, what="embedding")
  all_parts = []
  for first in range(0, len(found.texts), _PART):
    file = parts / f"{first:09d}.npy"
    if file.exists() and jax.process_count() == 1:
      all_parts.append(np.load(file))
    else:
      all_parts.append(model.encode(found.texts[first:first + _PART], kind=kind,
                                    batch_size=batch_size, **options))
      if is_first:
        _save(file, all_parts[-1])
    bar.update(min(first + _PART, len(found.texts)))
  bar.close()
  embeddings = np.concatenate(all_parts)
  if is_first:
    files.write_text(path / IDS, json.dumps(found.ids, ensure_ascii=False) + "\n")
    _save(path / FILE, embeddings)
    shutil.rmtree(parts)
  return embeddings


def _save(path: pathlib.Path, array: np.ndarray) -> None:
  """Writes an array that is never seen half-written."""
  with files.replacing(path) as temporary, open(temporary, "wb") as file:
    np.save(file, array)
