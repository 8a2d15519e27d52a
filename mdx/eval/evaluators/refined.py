"""Targets of held-out sources, by refinement of random tokens.

Contents: Refined, Refinement.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import samplers
from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.objectives.diffusion import seq2seq
from mdx.samplers import loop
from mdx.utils import processes
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
  """Fields of `config.eval.refined`.

  Attributes:
    steps: of refinement.
    temperature: of the draw of tokens; 0 is greedy.
    refined_share: share of the tokens that a step after the first draws anew.
    num_lengths: most likely lengths that a target is written in; the writing with the largest mean
      log-probability of its tokens is taken.
  """
  steps: int = 8
  temperature: float = 0.0
  refined_share: float = 1.0
  num_lengths: int = 1

  def __post_init__(self):
    config_lib.check(self, "eval.refined", at_least=dict(steps=1, num_lengths=1, temperature=0),
                     between=dict(refined_share="(0, 1]"))


def settings_of(config: Mapping[str, Any]) -> Refinement:
  """`config.eval.refined`; ValueError for values without meaning."""
  found = config_lib.construct(Refinement, config["eval"].get("refined", {}), what="eval.refined")
  if found.num_lengths > config["data"]["length"]:
    raise ValueError(f"eval.refined.num_lengths {found.num_lengths} exceeds data.length "
                     f"{config['data']['length']}, the number of lengths; lower it.")
  return found


class Refined(types.Evaluator):
  """Targets written by refinement, against the held-out ones.

  Results: exact_match, the share of targets that are right as a whole; token_accuracy, the share of
  positions of the longer of both that are equal; length_accuracy, of targets of the right length.
  """
  has_curve = True

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._settings = parts, settings_of(parts.config)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for another objective, or settings without meaning."""
    if not isinstance(objective, seq2seq.Seq2Seq):
      raise ValueError("eval.evaluators refined writes targets of sources, which objective "
                       f"{config['objective']['name']} does not; leave it out.")
    settings_of(config)

  @functools.cached_property
  def _decode(self):
    """(params, batch) -> tokens int32 [B, L] and their number [B]."""
    parts, own = self._parts, self._settings
    objective, tokenizer, length = parts.objective, parts.tokenizer, parts.config["data"]["length"]
    sampler = samplers.build(
        dict(name="refinement", gen_length=length, steps=own.steps, temperature=own.temperature,
             refined_share=own.refined_share), objective, mask_id=tokenizer.mask_id)
    key = rng.stream(rng.root(parts.config["seed"]), "refined")

    def decode(params, batch):
      return decoded(objective, sampler, params, key, batch, own.num_lengths)

    return processes.Jitted(decode)

  def __call__(self, params, frozen, *, quick):
    """Writes the targets of the validation split; of a part of it during training."""
    del frozen
    parts, limit = self._parts, self._parts.config["eval"]["num_batches"] if quick else 0
    batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i < limit)
    found, rows = likelihood.run_batches(self._decode, params, batches, mesh=parts.mesh)
    exact, right, total, lengths = [], 0, 0, []
    for one, batch in zip(found, rows):
      wanted = batch["loss_mask"].sum(axis=1)
      for i in np.flatnonzero(wanted):
        ours, theirs = one["tokens"][i, :one["length"][i]], batch["tokens"][i, :wanted[i]]
        shorter = min(len(ours), len(theirs))
        equal = int((ours[:shorter] == theirs[:shorter]).sum())
        exact.append(len(ours) == len(theirs) == equal)
        lengths.append(len(ours) == len(theirs))
        right, total = right + equal, total + max(len(ours), len(theirs))
    share = float(np.mean(exact))
    return {"exact_match": share, "probe_accuracy": share, "token_accuracy": right / total,
            "length_accuracy": float(np.mean(lengths))}

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return (f"exact match         {results['exact_match']:.3f} after {self._settings.steps} steps\n"
            f"token accuracy      {results['token_accuracy']:.3f}\n"
            f"right lengths       {results['length_accuracy']:.3f}")


def decoded(objective: seq2seq.Seq2Seq, sampler: Any, params: types.Params, key: jax.Array,
            batch: types.Batch, num_lengths: int) -> dict[str, jax.Array]:
  """Writes targets in their most likely lengths, and takes the best; for a compiled program.

  Args:
    objective: of the model.
    sampler: rule of decoding.
    params: of the model.
    key: typed key of the run.
    batch: rows with `source`, `source_segment_ids`, `tokens` (for the shape) and `example_index`.
    num_lengths: candidates a row.

  Returns:
    `tokens` int32 [B, L], `length` int32 [B] and `score` float32 [B], mean log-probability.
  """
  states, is_real, log_probs = objective.source_of(params, batch)
  rows, length = batch["tokens"].shape
  best = jax.lax.top_k(log_probs, num_lengths)[1].reshape(-1) + 1
  repeated = lambda x: jnp.repeat(x, num_lengths, axis=0)
  segments = (jnp.arange(length)[None] < best[:, None]).astype(jnp.int32)
  index = batch["example_index"][:, None] * num_lengths + jnp.arange(num_lengths)[None]
  given = {"canvas": jnp.where(segments > 0, objective.mask_id, max(objective.pad_id, 0)),
           "row_index": index.reshape(-1), "segment_ids": segments, "context": repeated(states),
           "context_mask": repeated(is_real)}
  tokens = loop.decode_rows(objective, sampler, params, key, given, start=0, record="none").tokens
  answer = objective.answer(params, types.Request(
      tokens, jnp.zeros(len(tokens)), segment_ids=segments, context=given["context"],
      context_mask=given["context_mask"]))
  nats = jnp.where(segments > 0, -_picked(answer.logits, tokens), 0.0).sum(axis=1)
  score = (-nats / best).reshape(rows, num_lengths)
  chosen = jnp.arange(rows) * num_lengths + score.argmax(axis=1)
  return {"tokens": tokens[chosen], "length": best[chosen], "score": score.max(axis=1)}


def _picked(logits, tokens):
  """log p(token), float32 [B, L]."""
  return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
