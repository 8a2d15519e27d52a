"""Readings of long held-out texts with more or less context, and what each costs.

Contents: Contexts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.costs import flops
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.objectives.causal import recurrent
from mdx.utils import processes


class Contexts(types.Evaluator):
  """Perplexity of the held-out rows when they are read in several ways, by the same weights.

    own        as the model was trained: windows, with memory if it has some
    disjoint   windows that know nothing of each other
    overlapping  windows of the same length, each half a window further: it scores its second half

  Results of each: perplexity_X, later_nats_X (nats per token behind the first window), flops_X (of
  a token) and temporaries_X (bytes of a batch, by the compiler).
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts = parts

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for an objective without windows."""
    if not isinstance(objective, recurrent.Recurrent):
      raise ValueError("eval.evaluators contexts reads long rows in windows, which objective "
                       f"{config['objective']['name']} does not have; leave it out.")

  @functools.cached_property
  def _readings(self):
    own = self._parts.objective
    plain = dataclasses.replace(own, num_slots=0)
    found = {"own": lambda params, batch: own.losses(params, batch)[0],
             "disjoint": lambda params, batch: plain.losses(params, batch)[0]}
    if own.window % 2 == 0:
      found["overlapping"] = lambda params, batch: overlapping(plain, params, batch)
    return {name: processes.Jitted(reading) for name, reading in found.items()}, found

  def __call__(self, params, frozen, *, quick):
    """Reads the whole held-out part in every way; nothing during training."""
    del frozen
    if quick:
      return {}
    parts, results = self._parts, {}
    compiled, plain = self._readings
    for name, reading in compiled.items():
      batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                               batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                               repeat=False, drop_remainder=False)
      found, rows = likelihood.run_batches(reading, params, batches, mesh=parts.mesh)
      nats, mask = (np.concatenate(x) for x in (found, [r["loss_mask"] for r in rows]))
      later = mask & (np.arange(mask.shape[1]) >= parts.objective.window)[None]
      cost = jax.jit(plain[name]).lower(params, rows[0]).compile().memory_analysis()
      results |= {
          f"perplexity_{name}": float(np.exp(nats.sum() / mask.sum())),
          f"later_nats_{name}": float((nats * later).sum() / max(later.sum(), 1)),
          f"flops_{name}": flops.count(plain[name], params, rows[0]) / mask.shape[1] / len(
              rows[0]["tokens"]),
          f"temporaries_{name}": float(cost.temp_size_in_bytes) if cost else 0.0}
    return results

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    lines = [f"{'reading':<14}{'perplexity':>12}{'later nats':>12}{'kFLOPs':>10}{'MiB':>8}"]
    for name in ("own", "disjoint", "overlapping"):
      if f"perplexity_{name}" in results:
        lines.append(f"{name:<14}{results[f'perplexity_{name}']:12.2f}"
                     f"{results[f'later_nats_{name}']:12.4f}"
                     f"{results[f'flops_{name}'] / 1e3:10.0f}"
                     f"{results[f'temporaries_{name}'] / 2 ** 20:8.1f}")
    return "\n".join(lines) if len(lines) > 1 else ""


def overlapping(objective: recurrent.Recurrent, params: types.Params, batch: types.Batch
                ) -> jax.Array:
  """-log p of every target, float32 [B, L], in windows of which each begins half a window later.

  Every token but those of the first window has at least half a window of context.

  Args:
    objective: without slots, of an even window.
    params: of the model.
    batch: rows.
  """
  half = objective.window // 2
  first = objective.losses(params, batch)[0]
  if batch["tokens"].shape[1] == objective.window:
    return first
  start = half
  shifted = {k: batch[k][:, start:] for k in ("tokens", "loss_mask", "segment_ids") if k in batch}
  pad = -shifted["tokens"].shape[1] % objective.window
  shifted = {k: jnp.pad(v, ((0, 0), (0, pad))) for k, v in shifted.items()}
  # A shifted row begins with the token before it, which is its context.
  before = batch["tokens"][:, start - 1]
  second = objective.losses(params, batch | shifted | {"before": before})[0]
  second = jnp.pad(second[:, :second.shape[1] - pad], ((0, 0), (start, 0)))
  index = jnp.arange(batch["tokens"].shape[1])
  is_late = index % objective.window >= half
  use_first = is_late | (index < half)
  return jnp.where(mask_lib.allowed_positions(batch), jnp.where(use_first[None], first, second),
                   0.0)
