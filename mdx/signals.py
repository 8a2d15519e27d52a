"""Recordings and images through a loaded model: transcripts, texts of images, embeddings.

Contents: Recording, Image, transcribe, read_images, encode.

Convention: what is given is made to rows as the model's training made them: `config.data` of its
run says frames, patches and sizes. Programs are kept in the model by the shapes of their rows.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import sharding
from mdx.build import load as load_lib
from mdx.data import images as images_lib
from mdx.data import pipeline
from mdx.data import sources
from mdx.data.sources import files as files_lib
from mdx.data.sources import images as pictures_lib
from mdx.data.sources import speech
from mdx.eval import image_texts
from mdx.objectives.signals import connector
from mdx.objectives.signals import ctc
from mdx.report import denoising
from mdx.report import samples
from mdx.train import progress as progress_lib
from mdx.utils import processes
from mdx.utils import readers
from mdx.utils import rng
from mdx.utils import streams

Recording = str | tuple[np.ndarray, int] | np.ndarray
Image = str | np.ndarray
Programs = dict[Any, Any]  # of a model, which keeps them
_SOME_FILE = "asset:digits.npz"  # in place of those of training, which need not be here


def transcribe(model: Any, programs: Programs, recordings: Sequence[Recording], *, rate: int,
               batch_size: int, progress: bool) -> list[str]:
  """`Model.transcribe`."""
  objective = model.objective
  if not isinstance(objective, ctc.CTC):
    raise ValueError(f"transcribe needs a run of configs/ctc.py, and {model.source} is one of "
                     f"{model.config['objective']['name']}.")

  found: list[str] = []
  records = _recordings(model, recordings, rate)
  for ids, is_real in _run(model, programs, "transcribe", objective.best, model.params,
                           _batches(model, records, batch_size), len(records), progress):
    found += [model.tokenizer.decode(row) for row in objective.labels_of(ids, is_real)]
  return found[:len(records)]


def encode(model: Any, programs: Programs, given: Sequence[Any], *, rate: int = 0,
           batch_size: int, progress: bool) -> np.ndarray:
  """Means of the last states of recordings or images, float32 [N, D]."""
  objective = model.objective

  reader = objective.reader()
  if reader is not None and reader.reads_context:
    raise ValueError(f"{model.source} reads texts beside images; encode images with the encoder "
                     "that it was trained with.")

  def mean(params, batch):
    is_real = objective.is_state(batch)
    states = jnp.where(is_real[..., None], objective.states(params, batch).astype(jnp.float32), 0)
    return states.sum(axis=1) / jnp.maximum(is_real.sum(axis=1), 1)[:, None]

  records = _recordings(model, given, rate) if objective.signal == "frames" else [
      {"x": patches} for patches in _patches(model, given)]
  found = list(_run(model, programs, "encode", mean, model.params,
                    _batches(model, records, batch_size), len(records), progress))
  width = objective.network.width
  return np.concatenate(found)[:len(records)] if found else np.zeros((0, width), np.float32)


def read_images(model: Any, programs: Programs, images: Sequence[Image],
                prompts: Sequence[Any] | str | None, *, encoder: Any, seed: int, batch_size: int,
                record: str, progress: bool, fields: dict[str, Any]) -> samples.Samples:
  """`Model.read_images`."""
  objective, tokenizer = model.objective, model.tokenizer
  reader = objective.reader()
  if reader is None or not reader.reads_context or not objective.signal:
    raise ValueError(f"read_images needs a run of configs/mdiff4str.py or configs/llava.py, and "
                     f"{model.source} is one of {model.config['objective']['name']}.")
  is_connected = isinstance(objective, connector.Connected)
  if isinstance(prompts, str) or prompts is None:
    prompts = [prompts or ""] * len(images)
  if len(prompts) != len(images) or not is_connected and any(map(len, prompts)):
    raise ValueError(f"{len(prompts)} prompts for {len(images)} images; give one each, or one for "
                     "all." if is_connected else f"{model.source} reads the text of an image and "
                     "takes no prompt; leave it out.")
  length = model.data["length"]
  ids = [model.prompt_ids(prompt) if len(prompt) else np.zeros(0, np.int32) for prompt in prompts]
  if longest := next((i for i, row in enumerate(ids) if len(row) >= length), None):
    raise ValueError(f"prompt {longest} has {len(ids[longest])} tokens, and a row with its answer "
                     f"has {length}; shorten it.")
  patches = _patches(model, images)
  if is_connected and encoder is None:
    encoder = programs.get("encoder of images") or _encoder_of(model)
    programs["encoder of images"] = encoder
  if "gen_length" in fields:
    raise ValueError(f"gen_length is {fields['gen_length']}; texts of images have the {length} "
                     "tokens of the rows of training: leave it out.")
  sampler = model.sampler(**{"steps": length, "temperature": 0.0, **fields, "gen_length": length})
  decode = image_texts.make_decode(objective, sampler, mask_id=tokenizer.mask_id, record=record)

  def read(given, batch):
    params, of_encoder, key = given
    if is_connected:
      batch = batch | {"features": encoder.objective.states(
          of_encoder, {"patches": batch["patches"]})}
    return decode(params, batch, key)

  def batches():
    size = sharding.padded_rows(min(len(images), batch_size), batch_size, model.mesh)
    for first in range(0, len(images), size):
      chosen = [min(i, len(images) - 1) for i in range(first, first + size)]
      tokens = np.full((size, length), tokenizer.pad_id, np.int32)
      for row, i in zip(tokens, chosen):
        row[:len(ids[i])] = ids[i]
      num_given = np.array([len(ids[i]) for i in chosen])[:, None]
      yield {"tokens": tokens, "loss_mask": np.arange(length)[None] >= num_given,
             "segment_ids": np.ones((size, length), np.int32),
             "patches": np.stack([patches[i] for i in chosen]),
             "example_index": np.arange(first, first + size, dtype=np.int32)}

  rows: list[samples.Sample] = []
  name = f"read_images {sampler!r} {record} {id(encoder)}"
  given = model.decoding_params(sampler), encoder.params if is_connected else {}, rng.root(seed)
  for result in _run(model, programs, name, read, given, batches(), len(images), progress):
    for row in range(min(len(result.tokens), len(images) - len(rows))):
      tokens = result.tokens[row][len(ids[len(rows)]):]
      trace = None if result.trajectory is None else denoising.from_trajectory(
          result.trajectory, row, tokenizer.mask_id, prompt="")
      rows.append(samples.Sample(ids[len(rows)], tokens, image_texts.text_of(tokenizer, tokens),
                                 int(result.nfe[row]), 0.0, trace))
  return samples.Samples(rows, lambda i: tokenizer.decode([i]), tokenizer.mask_id)


def _run(model: Any, programs: Programs, name: str, fn: Any, given: Any, batches: Iterator[Any],
         total: int, progress: bool) -> Iterator[Any]:
  """Yields the host results of fn(given, batch) for all batches, by one program."""
  run, done = programs.setdefault(("signals", name), jax.jit(fn)), 0
  with jax.set_mesh(model.mesh), progress_lib.bar(total, "reading", enabled=progress) as told:
    for batch in batches:
      num_rows = sharding.num_rows(batch)
      batch = {"example_index": np.arange(done, done + num_rows, dtype=np.int32), **batch}
      done += num_rows
      yield processes.fetch(run(given, sharding.place_batch(batch, model.mesh)))
      told(min(done, total))


def _batches(model: Any, records: Sequence[dict[str, Any]], batch_size: int) -> Iterator[Any]:
  size = sharding.padded_rows(min(len(records), batch_size), batch_size, model.mesh)
  return pipeline.batches_of(model.data, records, model.tokenizer, batch_size=size)


def _form(model: Any) -> Any:
  """The source of the data that a model was trained on, whose files need not be here."""
  if not model.data:
    raise ValueError(f"{model.source} does not say how its rows were made; load the run itself.")
  fields = dict(pipeline.read_config(model.data).source_configs()[0])
  if issubclass(sources.SOURCES[fields["name"]], files_lib.Files):
    fields |= {"path": _SOME_FILE, "validation_path": None}
  if fields["name"] == "speech":
    fields["labels"], fields["words"] = "none", ()
  return sources.build(fields)


def _recordings(model: Any, recordings: Sequence[Recording], rate: int) -> list[dict[str, Any]]:
  """Records of frames, float32 [n, channels] each."""
  source, found = _form(model), []
  if isinstance(recordings, (str, np.ndarray)) or (
      isinstance(recordings, tuple) and len(recordings) == 2 and np.isscalar(recordings[1])):
    raise ValueError("recordings are given in a list, of files, pairs (samples, rate), or frames "
                     "float32 [n, channels].")
  for i, given in enumerate(recordings):
    where = given if isinstance(given, str) else f"recording {i}"
    try:
      if isinstance(given, np.ndarray):
        x = np.asarray(given, np.float32)
        if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
          raise ValueError(f"an array of shape {x.shape}; expected finite frames [n, channels], or "
                           "a pair (samples, rate).")
      else:
        if not isinstance(source, speech.Speech):
          raise ValueError("the model was trained on frames that mdx did not make of sound; give "
                           f"frames float32 [n, {model.data['channels']}].")
        wave, own = speech.read_audio(streams.read_bytes(given), given) if isinstance(
            given, str) else (np.asarray(given[0], np.float32), int(given[1]))
        if not (wanted := source.rate or rate):
          raise ValueError("the run does not say the rate of its recordings (data.source.rate); "
                           "give rate=, the samples a second that they had.")
        if own != wanted:
          raise ValueError(f"{own} samples a second, but training had {wanted}; resample it.")
        x = source.frames(wave, own)
    except ValueError as e:
      raise ValueError(f"{where}: {e}") from None
    found.append({"x": x, "where": where})
  return found


def _patches(model: Any, images: Sequence[Image]) -> list[np.ndarray]:
  """Patches float32 [P, C] of each image."""
  grid, found = _form(model), []
  if isinstance(images, (str, np.ndarray)):
    raise ValueError("images are given in a list, of files or arrays uint8 [height, width] or "
                     "[height, width, colors].")
  if not isinstance(grid, pictures_lib.Pictures):
    raise ValueError("the model was trained on patches that mdx did not cut from images; encode "
                     "them with mode eval.")
  for i, given in enumerate(images):
    where = given if isinstance(given, str) else f"image {i}"
    if isinstance(given, str):
      image = images_lib.decode(streams.read_bytes(given), where, grid.colors)
    else:
      image = np.asarray(given)
      image = image[..., None] if image.ndim == 2 else image
      if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"{where}: {image.dtype} of shape {np.shape(given)}; expected uint8 "
                         "[height, width] or [height, width, colors].")
    found.append(grid.cut(images_lib.fitted(image, grid, getattr(grid, "fit", "error"), where)))
  return found


def _encoder_of(model: Any) -> Any:
  """The frozen encoder of images that a run was trained with."""
  name, folder = model.objective.encoder, pathlib.Path(model.source)
  while not (folder / "config.json").exists() and folder != folder.parent:
    folder = folder.parent
  given = {}
  if (folder / "config.json").exists():
    config = readers.read_object(folder / "config.json").get("config", {})
    given = (config.get("frozen") or {}).get(name) or {}
  path = given.get("checkpoint") or str(folder / "frozen" / name)
  try:
    return load_lib.load(path, params=given.get("params", "ema"),
                         mesh=dict(zip(model.mesh.axis_names, model.mesh.devices.shape)))
  except ValueError as e:
    raise ValueError(f"the encoder of images of {model.source} is not found ({e}); give "
                     "encoder=mdx.load(RUN).") from None
