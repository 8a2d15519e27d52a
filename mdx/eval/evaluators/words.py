"""Texts of images, decoded by several rules: accuracy against network calls.

Contents: Words, FILES, similarity.

Convention: `report.images` draws the first images with what the first rule made of them call by
call, of two files.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mdx import samplers
from mdx import types
from mdx.data import pipeline
from mdx.data import sources
from mdx.data.sources import images
from mdx.eval import error_rates
from mdx.eval import image_texts
from mdx.eval import likelihood
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import rng

FILES = ("words.npz", "words.json")
_SHOWN = 10


def similarity(left: str, right: str) -> float:
  """1 - NED: one less the edit distance over the longer length; 1 of two empty texts."""
  return 1 - error_rates.distance(left, right) / max(len(left), len(right), 1)


class Words(types.Evaluator):
  """Held-out images of texts, read by each rule of `eval.rules` at each of its values.

  Results, for every rule and value: word_accuracy_RULE_VALUE, the share of texts that are right as
  a whole; similarity_RULE_VALUE, the mean of 1 - normalised edit distance; nfe_RULE_VALUE, network
  calls of the decoder a text. During training, word_accuracy of the first rule. A prompt is given,
  and no part of the text. With `eval.slots`, {kind: words}, also KIND_accuracy_RULE_VALUE: the
  share of the positions whose token is one of the words where the decoded token is the same.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._settings = parts, _settings(parts.config)
    self._slots = {kind: _ids(kind, words, parts.tokenizer)
                   for kind, words in parts.config["eval"].get("slots", {}).items()}

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for an objective without a context, or rules that do not fit it."""
    reader = objective.reader()
    if reader is None or not reader.reads_context:
      raise ValueError("eval.evaluators words reads texts of images, which objective "
                       f"{config['objective']['name']} does not; leave it out.")
    for setting in _settings(config):
      samplers.build(setting.fields, objective, mask_id=0, eos_id=0)
    for kind, words in config["eval"].get("slots", {}).items():
      if not isinstance(words, (list, tuple)) or not words or not all(
          isinstance(word, str) for word in words):
        raise ValueError(f"config.eval.slots.{kind} is {words!r:.60}; give a list of words.")

  @functools.cache
  def _decode(self, number: int, record: str):
    """(params, batch, frozen) -> decoded texts under the rule of this number."""
    parts = self._parts
    tokenizer, objective = parts.tokenizer, parts.objective
    sampler = samplers.build(self._settings[number].fields, objective, mask_id=tokenizer.mask_id,
                             eos_id=tokenizer.eos_id, other_eos_ids=tokenizer.other_eos_ids)
    key = rng.stream(rng.root(parts.config["seed"]), "words")
    decoded = image_texts.make_decode(objective, sampler, mask_id=tokenizer.mask_id, record=record)

    def decode(params, batch, frozen):
      batch = objective.look(frozen, batch, types.context(likelihood.LAST_STEP, frozen))
      found = decoded(params, batch, key)
      canvas = None if record == "none" else found.trajectory.canvas
      return {"tokens": found.tokens, "nfe": found.nfe} | (
          {} if canvas is None else {"canvas": canvas})

    return processes.Jitted(decode)

  def __call__(self, params, frozen, *, quick):
    """Decodes the held-out images; during training by the first rule, a part of them."""
    if quick:
      found, _ = self._measured(params, frozen, 0, "none",
                                self._parts.config["eval"]["num_batches"])
      return {"word_accuracy": found["word_accuracy"]}
    results = {}
    for number, setting in enumerate(self._settings):
      is_shown = number == 0 and isinstance(self._source, images.Pictures)
      found, first = self._measured(params, frozen, number, "canvas" if is_shown else "none", 0)
      results |= {f"{name}_{setting.rule}_{setting.value}": value for name, value in found.items()}
      if is_shown and jax.process_index() == 0:
        self._save(setting.rule, *first)
    return results

  @functools.cached_property
  def _source(self):
    return sources.build(pipeline.read_config(self._parts.config["data"]).source_configs()[0])

  def _measured(self, params, frozen, number: int, record: str, limit: int):
    """Figures of a rule, and (decoded, rows) of the first batch."""
    parts = self._parts
    batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i < limit)
    decode = self._decode(number, record)
    found, rows = likelihood.run_batches(lambda params, batch: decode(params, batch, frozen or {}),
                                         params, batches, mesh=parts.mesh)
    pairs, calls, slots = [], [], {kind: [] for kind in self._slots}
    for one, batch in zip(found, rows):
      for i in np.flatnonzero(batch["loss_mask"].any(axis=1)):
        begin = int(batch["loss_mask"][i].argmax())
        decoded, wanted = one["tokens"][i][begin:], batch["tokens"][i][begin:]
        pairs.append((self._text(decoded), self._text(wanted)))
        calls.append(one["nfe"][i])
        for kind, ids in self._slots.items():
          slots[kind] += list((decoded == wanted)[np.isin(wanted, ids)])
    shares = {f"{kind}_accuracy": float(np.mean(right)) for kind, right in slots.items() if right}
    return shares | {"word_accuracy": float(np.mean([a == b for a, b in pairs])),
            "similarity": float(np.mean([similarity(a, b) for a, b in pairs])),
            "nfe": float(np.mean(calls))}, (found[0], rows[0])

  def _text(self, tokens: np.ndarray) -> str:
    """The text before the first end; masks as "_"."""
    return image_texts.text_of(self._parts.tokenizer, tokens)

  def _save(self, rule: str, found, batch) -> None:
    workdir, grid = self._parts.workdir, self._source
    shown = np.flatnonzero(batch["loss_mask"].any(axis=1))[:_SHOWN]
    steps = lambda i: [*found["canvas"][i][:int(found["nfe"][i])], found["tokens"][i]]
    lines = [{"rule": rule, "text": self._text(batch["tokens"][i]),
              "steps": [self._text(canvas) for canvas in steps(i)]} for i in map(int, shown)]
    pixels = [np.clip(grid.join(batch["patches"][i]), 0, 255).round().astype(np.uint8)
              for i in shown]
    with files.replacing(workdir / FILES[0]) as path, open(path, "wb") as file:
      np.savez(file, original=np.stack(pixels))
    files.write_json(workdir / FILES[1], {"rows": lines})

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    lines = [f"{'rule':<28}{'calls':>8}{'words':>9}{'1 - NED':>9}"]
    for setting in self._settings:
      name = f"{setting.rule}_{setting.value}"
      if f"word_accuracy_{name}" not in results:
        return ""
      lines.append(f"{setting.rule + ', ' + setting.knob + ' ' + str(setting.value):<28}"
                   f"{results[f'nfe_{name}']:8.2f}{results[f'word_accuracy_{name}']:9.3f}"
                   f"{results[f'similarity_{name}']:9.3f}")
    return "\n".join(lines)


def _ids(kind: str, words: Sequence[str], tokenizer: Any) -> np.ndarray:
  """Ids of the words of a slot; ValueError for one that is not one token."""
  ids = [tokenizer.encode(word) for word in words]
  if any(len(found) != 1 for found in ids):
    raise ValueError(f"config.eval.slots.{kind} is {words!r:.60}; give words that are one token "
                     "each.")
  return np.concatenate(ids)


def _settings(config: Mapping[str, Any]) -> list[samplers.Setting]:
  """The rules of a config at each of their values, greedy, for rows of the data's length."""
  length = config["data"]["length"]
  common = dict(gen_length=length, steps=length, temperature=0.0)
  return samplers.settings(config["eval"].get("rules", {}), common, where="config.eval.rules")
