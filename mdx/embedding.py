"""`Model.encode`: texts in, embeddings out; batches, prompts, progress and identity.

Contents: settings_of, encode, identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mdx import config as config_lib
from mdx.build import load as load_lib
from mdx.eval import embedders
from mdx.eval import inspection
from mdx.train import progress as progress_lib
from mdx.utils import checksum
from mdx.utils import console

_ROUND = 8  # rows are padded to multiples of this length


def settings_of(model: load_lib.Loaded, *, prompt: Any = None, **options: Any
                ) -> embedders.Settings:
  """The settings of a model with what is asked for over its own.

  Args:
    model: whose `Objective.embedder` gives the defaults.
    prompt: a prompt for every kind of text, several that are averaged, or kind -> prompt; None =
      the model's.
    **options: further fields of `eval.embedders.Settings`; None = the model's.

  Raises:
    ValueError: an unknown field, or one that does not fit the model.
  """
  fields = dict(model.objective.embedder().settings)
  fields |= {k: v for k, v in options.items() if v is not None}
  if isinstance(prompt, Mapping):
    fields |= {"prompts": dict(prompt)}
  elif prompt is not None:
    several = isinstance(prompt, (list, tuple)) and prompt and all(
        isinstance(p, str) for p in prompt)
    if not isinstance(prompt, str) and not several:
      raise ValueError(f"prompt is {prompt!r:.60}; expected a text, a list of texts, or a table "
                       "kind -> text.")
    fields |= {"prompts": dict.fromkeys((*embedders.KINDS, "all"), prompt), "default_kind": "all"}
  found = embedders.Settings.of(fields)
  _check(model, found)
  return found


def _check(model: load_lib.Loaded, settings: embedders.Settings) -> None:
  """Raises ValueError unless a model can be read with some settings; compiles nothing."""
  settings.check(model.objective.network, model.max_length)
  if not settings.takes_suffix and settings.pooling_value.part(1) and not (
      model.objective.embedder().pooling_part):
    raise ValueError("pooling latent has trained parameters, which this model lacks; choose "
                     "another.")
  embed = embedders.make_embed(model.objective, settings)
  if not settings.dim:
    return
  rows = {name: jax.ShapeDtypeStruct((1, 2), dtype) for name, dtype in (
      ("tokens", np.int32), ("segment_ids", np.int32), ("counted", bool))}
  with jax.set_mesh(model.mesh):
    width = jax.eval_shape(embed, model.params, rows).shape[1]
  if settings.dim > width:
    raise ValueError(f"embedding.dim {settings.dim} is more than the {width} columns of the "
                     "embeddings; use at most that.")


def encode(model: load_lib.Loaded, compiled: dict, texts: Sequence[str] | str, *, kind: str = "",
           batch_size: int = 32, progress: bool = False, **options: Any) -> np.ndarray:
  """Embeddings of texts; see `Model.encode`."""
  settings = settings_of(model, **options)
  texts = [texts] if isinstance(texts, str) else list(texts)
  key = ("embed", repr(dataclasses.replace(settings, prompts={}, dim=0, normalize=False)))
  if key not in compiled:
    compiled[key] = jax.jit(embedders.make_embed(model.objective, settings))
  start, tokenizer = model.objective.embedder().start_ids, model.tokenizer
  begin = tokenizer.prefix_ids
  begin = tuple(begin) if not start or begin[:1] == start[:1] else (*start, *begin)
  prompts = settings.prompts_of(kind)
  readings = [embedders.rows_of(texts, prompt, settings, tokenizer, begin=begin,
                                end=tokenizer.suffix_ids, max_length=model.max_length)
              for prompt in prompts]
  if cut := sum(any(row.is_cut for row in rows) for rows in zip(*readings)):
    console.say(f"{cut} of {len(texts)} texts are longer than the "
                f"{settings.max_length or model.max_length} tokens of a row and lose their end.")
  bar = progress_lib.Progress(len(texts) * len(prompts), enabled=progress, what="embedding")
  total, done = np.zeros((0, 0), np.float32), 0
  for rows in readings if texts else ():
    with jax.set_mesh(model.mesh):
      found = np.stack(inspection.run(
          compiled[key], model.params, [row.ids for row in rows], max_length=model.max_length,
          pad_id=tokenizer.pad_id, batch_size=batch_size, mesh=model.mesh, round_to=_ROUND,
          counted=[row.counted for row in rows], told=lambda n, done=done: bar.update(done + n)))
    total, done = (total + found if total.size else found), done + len(texts)
  bar.close()
  return embedders.finished(total / len(prompts), settings)


def identity(model: load_lib.Loaded, settings: embedders.Settings) -> str:
  """Hash of a model's weights, its tokenizer and how it embeds."""
  return config_lib.run_hash({
      "network": model.config["network"], "weights": checksum.of_items({"params": model.params}),
      "tokenizer": model.tokenizer.fingerprint, "attention": repr(
          model.objective.embedder().attention),
      "settings": dataclasses.asdict(settings) | {"pooling": repr(settings.pooling_value),
                                                  "suffix": settings.takes_suffix}})
