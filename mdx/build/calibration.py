"""Starts of adaptations that need what a model reads: moments of the inputs of its maps.

Contents: check, begin, moments_of, start.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import sharding
from mdx import types
from mdx.build import source as source_lib
from mdx.data import pipeline
from mdx.networks import adaptation
from mdx.networks.adaptation import pruning
from mdx.networks.adaptation import sites
from mdx.utils import console
from mdx.utils import processes
from mdx.utils import rng
from mdx.utils import tree


def check(config: Mapping[str, Any], objective: types.Objective,
          adaptations: Sequence[types.Adaptation]) -> None:
  """Raises ValueError for adaptations that are calibrated and have nothing to be calibrated by."""
  for one in (one for one in adaptations if one.reads_inputs):
    init = config["init"]
    if not (init.get("checkpoint") or init.get("base")):
      raise ValueError(f"{type(one).__name__} starts from what a trained model reads; give "
                       "config.init.checkpoint, or another prior.")
    if replaced := [other for other in adaptations if other.replaces]:
      raise ValueError(f"{type(one).__name__} starts from the kernels, and "
                       f"{type(replaced[0]).__name__} has others in their place; leave out "
                       "init.weights, or choose another prior.")
    if type(objective).look is not types.Objective.look or not dataclasses.is_dataclass(
        objective) or objective.network.vary is None:
      raise ValueError(f"{type(one).__name__} starts from what a model reads, and objective "
                       f"{config['objective']['name']} reads several; choose another prior.")


def begin(run: Any, source: str, params: types.Params) -> types.Params:
  """Parameters whose new adaptations have read rows of training, where they need that.

  Args:
    run: a `build.setup.Setup`; its mesh is in context.
    source: that the parameters are of.
    params: as they were loaded.
  """
  stored = adaptation.build(source_lib.open_source(source).network.get("adaptations", ()))
  new = [one for one in run.spec.adaptations
         if one.reads_inputs and type(one) not in map(type, stored)]
  if not new:
    return params
  rows, config = max(one.calibration_rows for one in new), run.config
  size, names = config["batch_size"], ", ".join(type(one).__name__ for one in new)
  console.say(f"reading {rows} rows for the start of {names}")
  batches = pipeline.build(config["data"], run.tokenizer, split="train", batch_size=size,
                           seed=config["seed"])
  targets = {name for one in new for name in one.targets if name in sites.of_spec(run.spec)}
  moments = moments_of(
      run.objective, params, itertools.islice(iter(batches), -(-rows // size)), mesh=run.mesh,
      targets=sorted(targets), seed=config["seed"])
  return start(params, new, moments)


def moments_of(objective: Any, params: types.Params, batches: Iterable[types.Batch], *,
               mesh: jax.sharding.Mesh, targets: Sequence[str], seed: int
               ) -> dict[str, np.ndarray]:
  """Sums of x x^T over the positions of batches, by path of the projection.

  Args:
    objective: is drawn and read as in training, without noise; positions of padding count too.
    params: of the model without adaptations, or with any that `sites.owner` knows none of.
    batches: host batches of equal shape.
    mesh: where they go; it is in context.
    targets: names of projections.
    seed: of the draws.

  Returns:
    Path in the network, "layers/attention/q", -> float32 [layers, in, in].
  """
  watch = pruning.InputMoments(targets=tuple(targets))
  objective = dataclasses.replace(objective, network=objective.network.vary(adaptations=(watch,)))
  shapes = jax.eval_shape(objective.init, rng.root(0))["model"]
  watched = {path: leaf for path, leaf in tree.flatten(shapes).items()
             if sites.owner(path, (watch,)) is not None}
  plain = {path: leaf for path, leaf in tree.flatten(params["model"]).items()
           if path in tree.flatten(shapes)}

  def sums(plain, others, batch, number):
    key = rng.stream(rng.root(seed), "calibration", number)
    context = types.context(0, {}, objective.init_state(), key=None)

    def loss(leaves):
      params = {**others, "model": tree.nest({**plain, **leaves})}
      prepared, _ = objective.prepare(params, batch, key, context)
      return sum(objective(params, prepared, context)[0].values())

    return jax.grad(loss)({path: jnp.zeros(leaf.shape, leaf.dtype)
                           for path, leaf in watched.items()})

  run, total = jax.jit(sums), None
  others = {name: part for name, part in params.items() if name != "model"}
  for number, batch in enumerate(batches):
    index = np.arange(sharding.num_rows(batch), dtype=np.int32) + number * sharding.num_rows(batch)
    placed = sharding.place_batch({**batch, "example_index": index}, mesh)
    found = processes.fetch(run(plain, others, placed, number))
    total = found if total is None else {k: total[k] + v for k, v in found.items()}
  assert total is not None
  return {path.rpartition("/")[0]: np.asarray(leaf, np.float32) for path, leaf in total.items()}


def start(params: types.Params, adaptations: Sequence[types.Adaptation],
          moments: Mapping[str, np.ndarray]) -> types.Params:
  """Parameters in which calibrated adaptations have taken their start.

  Args:
    params: of an objective.
    adaptations: those that are new and read inputs.
    moments: of `moments_of`.
  """
  leaves = tree.flatten(params["model"])
  for one in adaptations:
    names = tuple(one.leaves((64, 64), (None, None)))
    for above, moment in moments.items():
      if f"{above}/{names[0]}" not in leaves:
        continue
      paths = [f"{above}/{name}" for name in (*names, "kernel")]
      given = [processes.fetch(leaves[path]) for path in paths]
      layers = [one.calibrated(dict(zip(names, own)), own[-1], x)
                for *own, x in zip(*given, moment)]
      for path, values in zip(paths, zip(*([*own.values(), kernel] for own, kernel in layers))):
        old = leaves[path]
        leaves[path] = jax.make_array_from_callback(
            old.shape, old.sharding, lambda index, x=np.stack(values).astype(old.dtype): x[index])
  return {**params, "model": tree.nest(leaves)}
