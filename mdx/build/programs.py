"""The compiled programs of a config, as functions of shapes.

Contents: Program, of_config, with_remat.

A training config has a `train_step`; one of RL a `rollout` and an `rl_update`. They are what a run
compiles, built by the same code, with shape structs for its state, weights and batches. With a
`rollout.mesh` there is the `placement` of its weights too, and `rollout_in_place`, the rollout on
the mesh of the updates, which is for comparison and never run.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from mdx import config as config_lib
from mdx import objectives
from mdx import sharding
from mdx import tasks
from mdx import types
from mdx.build import load as load_lib
from mdx.build import model_parts
from mdx.build import resolve
from mdx.build import rl as rl_setup
from mdx.build import setup as setup_lib
from mdx.data import facts as facts_lib
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import tasks as task_eval
from mdx.networks import presets
from mdx.rl import rollout as rollout_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree


class Program(NamedTuple):
  """One program.

  Attributes:
    name: train_step, rollout, placement, rl_update or rollout_in_place.
    function: jitted.
    arguments: shape structs with shardings.
    plain: a function of the same arguments with the model's FLOPs in it and no others: nothing is
      computed again, and no kernel hides a matmul.
    kinds: what the arguments are: parameters, optimizer, ...
    trips: how often a loop runs at most whose end depends on values; of loops in one another the
      outer first.
    repeats: how often an iteration runs it; 0 = never.
    kernels: as `plain`, without the FLOPs of attention kernels; None = there are none.
    mesh: that it runs on; None: that of the config.
    beside: what else is on the devices meanwhile: the rest of the state, and the base model.
  """
  name: str
  function: Callable
  arguments: tuple[Any, ...]
  plain: Callable
  kinds: dict[str, Any]
  trips: float | tuple[float, ...] = 1.0
  repeats: int = 1
  kernels: Callable | None = None
  mesh: jax.sharding.Mesh | None = None
  beside: Any = ()


def of_config(config: Mapping[str, Any], workdir: str, mesh: jax.sharding.Mesh) -> list[Program]:
  """The programs of a training or RL config on a mesh, whose devices need not be there.

  Raises:
    ValueError: another config, or one that cannot be; weights, data and problems may be absent.
  """
  config = config_lib.to_dict(config)
  if "rollout" in config:
    return _of_rl(config, workdir, mesh)
  if "data" in config and "batch_size" in config:
    return [_train_step(config, workdir, mesh)]
  raise ValueError("mode compile takes a training config or one of RL (configs/mdpo.py).")


def with_remat(config: Mapping[str, Any], remat: str) -> dict[str, Any]:
  """The change of a config that sets the rematerialisation of its blocks."""
  if "rollout" in config:
    return {"remat": remat}
  return {"network": {**config["network"], "remat": remat}}


def _plain(network: Mapping[str, Any], backend: str = "xla") -> dict[str, Any]:
  return {**network, "remat": "none", "scan_layers": True, "attention_backend": backend}


def _tokenizer_of_ids(vocab_size: int, where: str) -> tokenizer_lib.Tokenizer:
  """Stands for a tokenizer that is not here: as many ids, the last of them the special ones."""
  if not vocab_size:
    raise ValueError(f"{where} is not here, so the number of ids is not known; set "
                     "config.compile.vocab_size.")
  return tokenizer_lib.of_ids(vocab_size, where, mask_id=vocab_size - 1, eos_id=vocab_size - 2)


def _train_step(config: dict[str, Any], workdir: str, mesh: jax.sharding.Mesh) -> Program:
  setup_lib.check(config)
  try:
    config, tokenizer = resolve.resolve(config)
  except ValueError:
    path = config["tokenizer"]["path"]
    if os.path.exists(path) or not config["compile"]["vocab_size"]:
      raise
    tokenizer = _tokenizer_of_ids(config["compile"]["vocab_size"], f"tokenizer {path}")
  config = objectives.complete(config, facts_lib.Facts(config["data"]))
  run = setup_lib.assemble(config, workdir, tokenizer, mesh)

  def gradient(backend):
    _, plain = model_parts.build_objective(
        config | {"network": _plain(config["network"], backend)}, tokenizer, mesh,
        data=facts_lib.Facts(config["data"]),
        frozen={name: one.objective for name, one in run.frozen.items()})
    return _gradient(plain, config, run.optimizer.trains)

  backend = run.spec.attention_backend
  batch = {k: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(
      mesh, sharding.batch_spec(len(shape))))
           for k, (shape, dtype) in pipeline.shapes(config["data"], config["batch_size"]).items()}
  frozen = {name: one.shapes for name, one in run.frozen.items()}
  return Program("train_step", run.step(), (run.shapes, batch, frozen), gradient("xla"),
                 _kinds(run.shapes, frozen=frozen, batch=batch),
                 kernels=None if backend == "xla" else gradient(backend))


def _kinds(state: Any, **more: Any) -> dict[str, Any]:
  kinds = {"parameters": state.params, "optimizer": state.opt_state, "ema": state.ema} | more
  return {k: v for k, v in kinds.items() if jax.tree.leaves(v)}


def _gradient(objective: types.Objective, config: Mapping[str, Any], trains: Callable) -> Callable:
  """The gradient of a step, without its optimizer."""

  def gradient(state, batch, frozen):
    key = rng.stream(rng.root(config["seed"]), "train", state.step)
    context = types.context(state.step, frozen, state.extra, key=key)
    batch = step_lib.look(objective, batch, context, config["microbatches"])
    batch, weights = objective.prepare(state.params, batch, key, context)
    return step_lib.loss_and_grad(objective, state.params, batch, weights, context,
                                  config["microbatches"], trains)[2]

  return gradient


def _rl_model(config: Mapping[str, Any], mesh, *, plain: bool) -> load_lib.Loaded:
  """The base model, from its checkpoint's description, its own config, or a preset."""
  source, options = config["init"]["checkpoint"], config["compile"]
  if source and os.path.exists(source):
    described, tokenizer = load_lib.describe(source, dtype=config["dtype"],
                                              remat=config.get("remat", ""))
  elif not source and config["init"].get("base"):
    described, tokenizer = resolve.resolve(config["init"]["base"])
    described = {**described, "dtype": config["dtype"] or described["dtype"]}
  elif options["preset"]:
    tokenizer = _tokenizer_of_ids(options["vocab_size"], options["preset"])
    described = {"network": {"name": "transformer"} | presets.preset(options["preset"]),
                 "objective": {"name": "diffusion"}, "tokenizer": {"path": options["preset"]},
                 "dtype": config["dtype"] or "bfloat16", "sharding": dict(sharding.DEFAULT_TABLE)}
  else:
    raise ValueError(f"config.init.checkpoint {source!r} is not here; name a model's size with "
                     "config.compile.preset, or give a checkpoint.")
  network = resolve.adapted(described["network"], config, source or options["preset"])
  if config.get("remat"):
    network = {**network, "remat": config["remat"]}
  model = load_lib.assemble({**described, "network": _plain(network) if plain else network},
                             tokenizer, mesh, source or options["preset"] or "base")
  if described["dtype"] != "bfloat16":
    return model
  # What is not trained stays as such a model is stored.
  trains = rl_setup.optimizer_of(config).trains
  halved = lambda path, x: x if trains(path) or x.dtype != jnp.float32 else (
      jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding))
  return dataclasses.replace(model, params=tree.map_with_path(halved, model.params))


def _prompts(run: rl_setup.Setup) -> task_eval.Prompts:
  """The problems' prompts; where they are not here, of the longest length they may have."""
  length = run.config["rollout"]["max_prompt_length"]
  try:
    return run._replace(task=tasks.build(run.config["task"])).prompts("train")
  except (ValueError, OSError):
    if not length:
      raise
  return task_eval.Prompts(np.zeros((2, length), np.int32), np.array([length, 1], np.int32))


def _of_rl(config: dict[str, Any], workdir: str, mesh: jax.sharding.Mesh) -> list[Program]:
  rl_setup.check(config)
  config["optimizer"] = resolve.trained(
      config, config["init"]["checkpoint"] or config["compile"]["preset"])
  run, plain = (rl_setup.assemble(config, workdir, _rl_model(config, mesh, plain=p), None)
                for p in (False, True))
  prompts, state, place = _prompts(run), run.shapes, run.placement
  base = tree.part(run.model.params, run.optimizer.trains)
  params, beside = place.shapes(state.params), (state._replace(params={}), base)
  rollout = _rollout("rollout", run, plain, prompts, params, place.mesh)
  rows, record = rollout.kinds["batch"], jax.eval_shape(rollout.function, *rollout.arguments)
  start = prompts.start
  batch = jax.eval_shape(lambda *x: rollout_lib.make_batch(*x, start), record.trajectory, rows)
  batch |= rollout_lib.reward_shapes(batch)
  whole = lambda x: jax.ShapeDtypeStruct((run.num_rows, *x.shape[1:]), x.dtype)
  batch = jax.tree.map(lambda x: _by_rows(whole(x), mesh), batch)
  if plain.policy.is_scored(config["rollout"]["epochs"]):
    scored = jax.eval_shape(
        lambda params, batch: plain.policy.scores(params, plain.policy.prepare(
            params, batch, rng.root(0), types.context(0))[0]), plain.shapes.params, batch)
    batch |= jax.tree.map(lambda x: _by_rows(x, mesh), scored)
  update = Program("rl_update", run.step(), (state, batch, run.reference),
                   _gradient(plain.policy, config, run.optimizer.trains),
                   _kinds(state, reference=run.reference, batch=batch), 1.0,
                   config["rollout"]["epochs"])
  if place.is_home:
    return [rollout._replace(beside=beside), update]
  moved = Program("placement", place.program(state.params), (state.params,), lambda params: params,
                  {"parameters": state.params}, mesh=place.mesh, beside=beside)
  in_place = _rollout("rollout_in_place", run, plain, prompts, state.params, mesh)
  return [rollout._replace(beside=(state, base)), moved, update,
          in_place._replace(repeats=0, beside=beside)]


def _by_rows(x: Any, mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype,
                              sharding=NamedSharding(mesh, P(sharding.BATCH_AXES)))


def _rollout(name: str, run: rl_setup.Setup, plain: rl_setup.Setup, prompts: task_eval.Prompts,
             params: types.Params, mesh: jax.sharding.Mesh) -> Program:
  """The rollout of weights on a mesh."""
  decoder, size, sampler = run.decoder(prompts), run.rows_together, run.sampler
  rows = prompts.canvas(np.zeros(size, np.int32), sampler.gen_length, sampler.mask_id)
  rows = jax.tree.map(lambda x: _by_rows(x, mesh), rows | {"row_index": np.zeros(size, np.int32)})
  key = jax.eval_shape(lambda: rng.root(0))
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, P()))
  length = rows["canvas"].shape[1] - decoder.start
  steps: float | tuple[float, ...] = sampler.max_steps(length)
  if sampler.cache != "none":  # blocks, and their steps after the first
    blocks = -(-length // sampler.block)
    steps = (blocks, max(steps / blocks - 1, 0))
  return Program(name, decoder.run, (params, key, rows), plain.decoder(prompts).run,
                 {"parameters": params, "batch": rows}, steps, run.num_rows // size, mesh=mesh)
