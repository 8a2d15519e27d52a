"""Mode search: the nearest texts of a corpus to queries.

Contents: run.

Convention: the workdir is the index: the embeddings and texts of the corpus, what built them, and
the structure of a library where one is used.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mdx import config as config_lib
from mdx import embedding as embedding_lib
from mdx import model as model_lib
from mdx.build import values
from mdx.data.sources import listed
from mdx.eval import neighbors
from mdx.modes import embed
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers

_TEXTS, _ABOUT, _RESULTS = "texts.json", "index.json", "results.jsonl"


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Builds the index of `config.path` in the workdir, and answers queries from it.

  Raises:
    ValueError: no corpus and no index, an index of another model, or queries that cannot be.
  """
  config = config_lib.to_dict(config)
  values.check(config)
  path = pathlib.Path(workdir)
  neighbors.check(config["index"], config["similarity"])
  options, queries = embed.options_of(config), _queries(config)
  if not config["init"]["checkpoint"]:
    raise ValueError("mode search needs --config.init.checkpoint, the model that embeds.")
  corpus = None
  if config["path"]:
    corpus = listed.read(config["path"], field=config["field"], id_field=config["id_field"],
                         has_header=config["has_header"])
  elif not (path / _ABOUT).is_file():
    raise ValueError(f"{path} has no index; build one with --config.path=CORPUS.jsonl.")
  model = model_lib.load(config["init"]["checkpoint"], mesh=config["mesh"], dtype=config["dtype"])
  if corpus:
    _build(model, corpus, path, options, config)
  about = readers.read_object(path / _ABOUT, "model", "options", "index", "similarity")
  options = options or about["options"]
  made = embedding_lib.identity(model, embedding_lib.settings_of(model, **options))
  if made != about["model"]:
    raise ValueError(f"{path} has the index of another model, or of other options: it was built by "
                     f"{about['source']} with {about['options'] or 'its own options'}; use those, "
                     "or a new --workdir.")
  corpus = listed.Listed(*readers.read_json(path / _TEXTS))
  vectors = neighbors.prepared(np.load(path / embed.FILE), about["similarity"])
  index = neighbors.INDEXES[about["index"]](vectors, path / f"index.{about['index']}")
  if not queries.texts:
    console.say(f"{len(corpus.texts)} texts are in the index {path}; ask with --config.query=TEXT.")
    return {"num_rows": len(corpus.texts), "num_queries": 0}
  asked = neighbors.prepared(model.encode(queries.texts, kind="query", batch_size=config[
      "batch_size"], **options), about["similarity"])
  scores, rows = index.search(asked, min(config["top_k"], len(corpus.texts)))
  answers = [{"id": own, "query": text, "found": [
      {"id": corpus.ids[i], "score": float(s), "text": corpus.texts[i]} for s, i in zip(*of_one)]}
             for own, text, of_one in zip(queries.ids, queries.texts, zip(scores, rows))]
  if jax.process_index() == 0:
    files.write_text(path / _RESULTS, "".join(
        json.dumps(x, ensure_ascii=False) + "\n" for x in answers))
  for answer in answers[:config["num_shown"]]:
    console.say(f"{answer['query']}")
    for one in answer["found"]:
      console.say(f"  {one['score']:7.4f}  {one['id']}  {' '.join(one['text'].split()):.100}")
  return {"num_rows": len(corpus.texts), "num_queries": len(answers)}


def _queries(config: Mapping[str, Any]) -> listed.Listed:
  """The queries of a config: one text, or those of a file; none where only an index is built."""
  if config["query"] and config["queries"]:
    raise ValueError("config.query is one query and config.queries a file of them; give one.")
  if config["queries"]:
    return listed.read(config["queries"], field=config["field"], id_field="",
                       has_header=config["has_header"])
  if config["query"] and not config["query"].strip():
    raise ValueError("config.query is empty; give a text.")
  return listed.Listed(["0"], [config["query"]]) if config["query"] else listed.Listed([], [])


def _build(model: model_lib.Model, corpus: listed.Listed, path: pathlib.Path,
           options: Mapping[str, Any], config: Mapping[str, Any]) -> None:
  """Writes the index of a corpus, unless it is there."""
  kept = {"index": config["index"], "similarity": config["similarity"]}
  if (path / _ABOUT).is_file():
    known = readers.read_object(path / _ABOUT)
    if wrong := next((k for k in kept if known.get(k) != kept[k]), None):
      raise ValueError(f"{path} has an index with {wrong} {known.get(wrong)}, and config.{wrong} "
                       f"is {kept[wrong]}; give a new --workdir.")
  embed.write(model, corpus, path, options, kind="document", batch_size=config["batch_size"])
  if jax.process_index() == 0:
    files.write_text(path / _TEXTS, json.dumps([corpus.ids, corpus.texts], ensure_ascii=False))
    about = readers.read_object(path / embed.ABOUT)
    files.write_json(path / _ABOUT, {k: about[k] for k in ("model", "source", "options")} | kept)
