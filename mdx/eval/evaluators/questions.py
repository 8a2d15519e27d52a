"""Questions that a model answers in its own words, of a source that has some.

Contents: Questions, Asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.data import pipeline
from mdx.data import sources
from mdx.eval import rouge
from mdx.samplers import batching
from mdx.samplers import loop
from mdx.utils import processes
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """Fields of `config.eval.questions`.

  Attributes:
    num_questions: of each kind, the first so many; 0 = all.
    gen_length: tokens of an answer; 0 = those of the longest, and its end.
  """
  num_questions: int = 256
  gen_length: int = 0

  def __post_init__(self):
    config_lib.check(self, "eval.questions", at_least=dict(num_questions=0, gen_length=0))


class Questions(types.Evaluator):
  """Answers decoded greedily after their prompts, against the right ones.

  Of every kind of `Source.probes("validation")`: exact_KIND, the share of answers that are the
  right text, and its `_stderr`; rouge1_KIND and rougeL_KIND, the mean recalls of `eval.rouge`;
  and exact_mean, the mean of exact_KIND over the kinds. A model that is not read from left to right
  fills in one position a step, the most confident first. Nothing is measured during training.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._asked = parts, _asked(parts.config)
    self._program = None

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for a source without questions, or a model that writes no text."""
    _asked(config)
    if objective.reader() is None:
      raise ValueError(f"eval.evaluators has questions, and a model trained with "
                       f"{type(objective).__name__} writes no text; use another objective.")
    if not _probes(config):
      raise ValueError("eval.evaluators has questions, and data.source has none; use a source that "
                       "has (unlearning, habits, people).")

  def __call__(self, params, frozen, *, quick):
    """Decodes the questions."""
    del frozen
    if quick:
      return {}
    found, parts = {}, self._parts
    for kind, pairs in _probes(parts.config).items():
      pairs = pairs[:self._asked.num_questions or None]
      encoded = [tuple(map(parts.tokenizer.encode, pair)) for pair in pairs]
      texts = self._answers(params, encoded)
      gold = [answer.strip() for _, answer in pairs]
      scores = {"exact": [float(a == b) for a, b in zip(texts, gold)],
                "rouge1": [rouge.unigram_recall(a, b) for a, b in zip(texts, gold)],
                "rougeL": [rouge.subsequence_recall(a, b) for a, b in zip(texts, gold)]}
      found |= {f"{name}_{kind}": float(np.mean(values)) for name, values in scores.items()}
      found[f"exact_{kind}_stderr"] = math.sqrt(
          found[f"exact_{kind}"] * (1 - found[f"exact_{kind}"]) / len(pairs))
    return found | {"exact_mean": float(np.mean([found[f"exact_{kind}"]
                                                 for kind in _probes(parts.config)]))}

  def _answers(self, params: types.Params, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
               ) -> list[str]:
    """The text that the model writes after each prompt."""
    parts, has_end = self._parts, self._parts.config["data"]["append_eos"]
    tokenizer, objective = parts.tokenizer, parts.objective
    reader = objective.reader()
    size = self._asked.gen_length or max(len(answer) for _, answer in pairs) + has_end
    rule = "autoregressive" if reader.sampler == "autoregressive" else "confidence"
    sampler = samplers.build(dict(name=rule, gen_length=size, steps=size, temperature=0.0),
                             objective, mask_id=tokenizer.mask_id, eos_id=tokenizer.eos_id,
                             other_eos_ids=tokenizer.other_eos_ids)
    prompts, before = batching.cut_starts([prompt for prompt, _ in pairs], reader.start_id)
    rows = parts.config["batch_size"]
    texts = [""] * len(pairs)
    for batch in batching.batches(prompts, gen_length=size, batch_size=rows,
                                  max_length=parts.max_length, mask_id=tokenizer.mask_id,
                                  pad_id=tokenizer.pad_id):
      arrays = {"canvas": batch.canvas, "row_index": batch.row_index}
      if before is not None:
        arrays["before"] = before[batch.row_index]
      if batch.positions is not None:
        arrays |= {"positions": batch.positions, "segment_ids": batch.segment_ids}
      decode = processes.Jitted(lambda params, rows, start=batch.start: loop.decode_rows(
          objective, sampler, params, rng.root(0), rows, start=start, record="none").tokens)
      tokens = processes.fetch(decode(params, sharding.place_batch(arrays, parts.mesh)))
      for row, i in enumerate(batch.members):
        own = tokens[row, batch.start:]
        ends = np.flatnonzero(tokenizer.ends(own))
        own = own[:ends[0]] if ends.size else own if has_end else own[:len(pairs[i][1])]
        texts[i] = tokenizer.decode(own).strip()
    return texts

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return "\n".join(
        f"questions, {kind:<9}{100 * results[f'exact_{kind}']:.1f} +- "
        f"{100 * results[f'exact_{kind}_stderr']:.1f} % exact, ROUGE-1 "
        f"{results[f'rouge1_{kind}']:.3f}, ROUGE-L {results[f'rougeL_{kind}']:.3f}"
        for kind in _probes(self._parts.config) if f"exact_{kind}" in results)


def _asked(config: Mapping[str, Any]) -> Asked:
  return config_lib.construct(Asked, config["eval"].get("questions", {}), what="eval.questions")


def _probes(config: Mapping[str, Any]) -> Mapping[str, Sequence[tuple[str, str]]]:
  """The questions of the only source, or of the first of a mixture."""
  first = pipeline.read_config(config["data"]).source_configs()[0]
  return sources.build(first).probes("validation")
