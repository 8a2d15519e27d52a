"""Images beside their masks and what a model makes of the masked patches.

Contents: Reconstructions, FILE.

Convention: `report.images` draws the pictures, of a file with uint8 arrays [N, height, width,
colors] `original`, `masked` and `reconstructed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mdx import types
from mdx.data import pipeline
from mdx.data import sources
from mdx.data.sources import images
from mdx.eval import likelihood
from mdx.objectives.signals import mim
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import rng

FILE = "reconstructions.npz"
_SHOWN = 8
_GREY = 128


class Reconstructions(types.Evaluator):
  """The first held-out images, masked and reconstructed, in a file for the report; no figure."""

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, objective = parts, parts.objective
    key = rng.stream(rng.root(parts.config["seed"]), "reconstructions")

    def reconstructed(params, batch):
      batch, _ = objective.prepare(params, batch, key, types.context(likelihood.LAST_STEP))
      return batch["is_masked"], objective.reconstructed(params, batch)

    self._reconstructed = processes.Jitted(reconstructed)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for an objective or data without images."""
    name = config["data"]["source"]["name"]
    if not isinstance(objective, mim.Reconstruction):
      raise ValueError("eval.evaluators reconstructions shows masked patches, which objective "
                       f"{config['objective']['name']} does not predict; leave it out.")
    if not issubclass(sources.SOURCES[name], images.Pictures):
      raise ValueError(f"eval.evaluators reconstructions needs a source of images, not {name}; "
                       "leave it out.")

  def __call__(self, params, frozen, *, quick):
    """Writes the file at the end of a run."""
    del frozen
    if quick:
      return {}
    parts = self._parts
    grid = sources.build(parts.config["data"]["source"])
    batches = pipeline.build(parts.config["data"], parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    (found,), (batch,) = likelihood.run_batches(self._reconstructed, params,
                                                [next(iter(batches))], mesh=parts.mesh)
    number = min(_SHOWN, int(batch["patch_mask"].any(axis=1).sum()))
    is_masked, reconstructed = (x[:number] for x in found)
    original = batch["patches"][:number]
    hidden = np.where(is_masked[..., None], (_GREY / 255 - grid.mean) / grid.std, original)
    pixels = lambda rows: np.stack([
        np.clip(grid.join(row), 0, 255).round().astype(np.uint8) for row in rows])
    if jax.process_index() == 0:
      with files.replacing(parts.workdir / FILE) as path, open(path, "wb") as file:
        np.savez(file, original=pixels(original), masked=pixels(hidden),
                 reconstructed=pixels(reconstructed))
    return {}
