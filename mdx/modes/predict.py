"""Mode predict: labels for the rows of a file, by a fine-tuned model.

Contents: run.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from mdx import config as config_lib
from mdx import model as model_lib
from mdx.build import values
from mdx.data.sources import labelled
from mdx.objectives.labels import finetune
from mdx.train import progress as progress_lib
from mdx.utils import console
from mdx.utils import files


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Labels the rows of `config.path`; writes predictions.jsonl.

  Raises:
    ValueError: no file, a column that it lacks, or a model that labels nothing.
  """
  config = config_lib.to_dict(config)
  values.check(config)
  if not config["path"] or not config["init"]["checkpoint"]:
    raise ValueError("mode predict needs --config.path=FILE with new rows, and "
                     "--config.init.checkpoint, a run of configs/finetune.py.")
  model = model_lib.load(config["init"]["checkpoint"], mesh=config["mesh"], dtype=config["dtype"])
  fields = tuple(config["fields"] or model.data.get("source", {}).get("fields", ("text",)))
  records = list(labelled.table_records(config["path"], fields=fields, label="",
                                        has_header=config["has_header"]))
  is_words = isinstance(model.objective, finetune.Tagging)
  texts = [" ".join(r["texts"]).split() if is_words else r["texts"] for r in records]
  target = pathlib.Path(workdir) / "predictions.jsonl"
  target.parent.mkdir(parents=True, exist_ok=True)
  progress = progress_lib.Progress(len(texts), enabled=jax.process_index() == 0, what="labelling")
  lines, size = [], config["batch_size"]
  for first in range(0, len(texts), size):
    found = model.predict(texts[first:first + size], batch_size=size)
    for record, text, one in zip(records[first:], texts[first:], found):
      given = {"words": text} if is_words else dict(zip(fields, record["texts"]))
      lines.append(given | {"predicted": one.label} | (
          {"probabilities": one.probabilities} if one.probabilities else {}))
    progress.update(len(lines))
  progress.close()
  if jax.process_index() == 0:
    files.write_text(target, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
  console.say(f"{len(lines)} rows labelled by {model.source}; see {target}")
  return {"num_rows": len(lines)}
