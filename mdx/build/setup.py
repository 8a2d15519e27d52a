"""From a config to the checked parts of a run.

Contents: Setup, setup, check, assemble, start_state, fresh_parts, load_weights, load_frozen.

Convention: `setup` checks everything that can be checked before the first compile and
before anything is written; every error of it is one line.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Callable, Mapping, Sequence

import jax
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import objectives
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.build import begins
from mdx.build import calibration
from mdx.build import frozen as frozen_lib
from mdx.build import model_parts
from mdx.build import resolve
from mdx.build import source as source_lib
from mdx.build import values
from mdx.build import workdir as workdir_lib
from mdx.data import facts as facts_lib
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import evaluators
from mdx.eval.evaluators import linear_probe
from mdx.networks import transformer
from mdx.train import batch_sizes
from mdx.train import coupling
from mdx.train import loop as loop_lib
from mdx.train import noise as noise_lib
from mdx.train import optimizer as optimizer_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import console
from mdx.utils import memory
from mdx.utils import rng
from mdx.utils import tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """The parts of a run, built and checked, nothing compiled.

  Attributes:
    config: resolved config, plain dicts.
    workdir: where the run writes.
    mesh: the device mesh.
    tokenizer: the tokenizer.
    spec: the transformer's hyper-parameters.
    objective: the loss.
    optimizer: the optimizer's hyper-parameters.
    intervals: how often what happens.
    sampler: what decodes this model, or None.
    shapes: `state_lib.State` of shape structs with shardings.
    frozen: frozen models, not loaded.
  """
  config: dict[str, Any]
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  tokenizer: tokenizer_lib.Tokenizer
  spec: transformer.Transformer
  objective: Any
  optimizer: optimizer_lib.Optimizer
  intervals: loop_lib.Intervals
  sampler: Any
  shapes: state_lib.State
  frozen: Mapping[str, frozen_lib.Frozen]

  @property
  def transform(self):
    """The optax chain of this run."""
    return self.optimizer.build(self.config["steps"], self.objective.parts())

  def step(self) -> Callable:
    """The training step, (state, batch, frozen) -> (state, metrics), not compiled yet."""
    return step_lib.jitted(self.objective, self.transform, self.shapes, self.config,
                           rate=self.optimizer.rate(self.config["steps"]),
                           trains=self.optimizer.trains)

  @property
  def batch_sizes(self) -> batch_sizes.BatchSizes:
    """Rows of the batch of every step."""
    return _batch_sizes(self.config)

  @property
  def meta(self) -> dict[str, Any]:
    """Facts saved with every checkpoint."""
    return workdir_lib.meta(self.config, self.tokenizer)

  def evaluation(self) -> evaluators.Evaluation:
    """The evaluators of this run; some read data."""
    return evaluators.Evaluation(evaluators.Parts(
        self.config, self.workdir, self.mesh, self.tokenizer, self.objective, self.shapes.params,
        self.spec.max_length, self.meta))

  @property
  def keep_ema(self) -> bool:
    """Whether an average of the weights is kept."""
    return self.config["ema_decay"] > 0


def _batch_sizes(config: Mapping[str, Any], multiple: int = 1) -> batch_sizes.BatchSizes:
  return batch_sizes.BatchSizes(config["batch_size"], config.get("batch_warmup", ()), multiple)


_REQUIRED = ("mode", "seed", "steps", "batch_size", "microbatches", "dtype", "objective", "network",
             "optimizer", "mesh", "sharding", "init", "tokenizer", "data", "eval", "sampler",
             "export", "log_steps", "checkpoint_steps", "eval_steps", "checkpoint", "ema_decay")


def setup(config: Mapping[str, Any], workdir: str) -> Setup:
  """Builds and checks the parts of a run.

  Args:
    config: a config as in `configs/`.
    workdir: directory of the run; not yet touched.

  Raises:
    ValueError: one line saying what was expected, what came and what to do.
  """
  config = config_lib.to_dict(config)
  check(config)
  config, tokenizer = resolve.resolve(config)
  facts = facts_lib.Facts(config["data"])
  config = objectives.complete(config, facts)
  if config["eval"].get("test") and not facts.has_test:
    config = {**config, "eval": {**config["eval"], "test": False}}
    console.say("no test split (data.source.test_path): results are of validation.")
  run = assemble(config, workdir, tokenizer, sharding.make_mesh(config["mesh"]))
  begins.check(config, run.objective, tokenizer, run.shapes.params, run.spec.adaptations)
  if config["init"]["checkpoint"] and not begins.named(config):
    source = source_lib.open_source(config["init"]["checkpoint"])
    adaptations, trains = run.spec.adaptations, run.optimizer.trains
    source.check(run.shapes.params, adaptations, fresh_parts(run.objective))
    source.head(run.objective, run.shapes.params)
    run = dataclasses.replace(run, shapes=run.shapes._replace(params=source.stored_types(
        run.shapes.params, adaptations, lambda path: not trains(path))))
  memory.check("the state of this run", run.shapes)
  splits = pipeline.LABELLED_SPLITS if config["eval"].get("test") else pipeline.SPLITS
  for split in splits:
    pipeline.check(config["data"], tokenizer, split=split)
  return run


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for keys that are missing and values without meaning."""
  missing = [k for k in _REQUIRED if k not in config]
  if missing:
    raise ValueError(f"the config lacks {missing[0]!r}; start from configs/common.py.")
  values.check(config)
  checkpoint_lib.check_directory(config["checkpoint"].get("directory", ""))


def assemble(config: dict[str, Any], workdir: str, tokenizer: tokenizer_lib.Tokenizer,
             mesh: jax.sharding.Mesh) -> Setup:
  """Builds and checks all of a run that needs neither its data nor its weights.

  Args:
    config: a resolved config, plain dicts.
    workdir: directory of the run; not touched.
    tokenizer: gives the number of ids and the special ones.
    mesh: the device mesh, also of devices that are not there (mode compile).

  Raises:
    ValueError: as `setup`.
  """
  lengths = pipeline.lengths(config["data"])
  for length in lengths:
    sharding.check_batch(mesh, config["batch_size"], length, config["microbatches"])
  frozen = frozen_lib.describe(config, workdir, mesh, tokenizer)
  spec, objective = model_parts.build_objective(
      config, tokenizer, mesh, data=facts_lib.Facts(config["data"]),
      frozen={name: one.objective for name, one in frozen.items()})
  longest = objective.longest(length := config["data"]["length"])
  if spec.max_length < longest:
    name = f"data.length {length}" if longest == length else f"a window of {longest} positions"
    raise ValueError(f"{name} exceeds network.max_length {spec.max_length}; raise it or shorten "
                     f"the {'rows' if longest == length else 'windows (objective.window)'}.")
  for length in lengths:
    objective.check_length(length)
  objective.check_fields(facts_lib.Facts(config["data"]).fields())
  rows = config["batch_size"] // (config["microbatches"] * sharding.num_batch_shards(mesh))
  if rows % objective.rows_per_unit:
    raise ValueError(f"a microbatch has {rows} rows a device, but {config['objective']['name']} "
                     f"keeps {objective.rows_per_unit} rows together; change batch_size or "
                     "microbatches.")
  sizes = _batch_sizes(config, config["microbatches"] * sharding.num_batch_shards(mesh)
                       * objective.rows_per_unit)
  sizes.check(config["data"])
  config = {**config, "optimizer": resolve.trained(
      config, fresh=fresh_parts(objective), trains_model=objective.trains_model)}
  optimizer = config_lib.build(optimizer_lib.OPTIMIZERS, config["optimizer"], what="optimizer")
  intervals = loop_lib.Intervals(**{f.name: config[f.name]
                                    for f in dataclasses.fields(loop_lib.Intervals)})
  loop_lib.Profile(config.get("profile_steps", ()))
  parts = objective.parts()
  init = state_lib.init_fn(objective, optimizer.build(config["steps"], parts),
                           keep_ema=config["ema_decay"] > 0, trains=optimizer.trains)
  shapes = sharding.with_shardings(
      jax.eval_shape(init, rng.root(config["seed"])), parts, mesh, config["sharding"])
  optimizer.check(shapes.params)
  frozen |= frozen_lib.initial(config, workdir, objective,
                               tree.part(shapes.params, optimizer.trains), spec.adaptations)
  if spec.is_balanced and types.is_coupled(objective) and config["microbatches"] > 1:
    raise ValueError(f"network.experts.balance, z and bias_rate are losses of one pass, which "
                     f"objective {config['objective']['name']} does not make with microbatches "
                     f"{config['microbatches']}; use microbatches=1, or weights of 0.")
  coupling.check(objective, shapes.params,
                 pipeline.shapes(config["data"], config["batch_size"]),
                 {name: one.shapes for name, one in frozen.items()}, config["microbatches"])
  calibration.check(config, objective, spec.adaptations)
  noise_lib.check_draws(config["eval"]["gradient_draws"])
  linear_probe.probe_of(config)
  evaluators.check(config, objective)
  sampler = _sampler(config, objective, tokenizer)
  return Setup(config=config, workdir=pathlib.Path(workdir), mesh=mesh, tokenizer=tokenizer,
               spec=spec, objective=objective, optimizer=optimizer, intervals=intervals,
               sampler=sampler, shapes=shapes, frozen=frozen)


def _sampler(config, objective, tokenizer):
  """The sampler of an objective that generates without a context, or None."""
  reader = objective.reader()
  if reader is None or reader.reads_context:
    return None
  fields = dict(config["sampler"], name=reader.sampler, gen_length=config["data"]["length"])
  fields.pop("num_samples")
  return samplers.build(fields, objective, mask_id=tokenizer.mask_id)


def start_state(run: Setup, checkpoints: checkpoint_lib.Checkpoints,
                data: Any) -> tuple[int, state_lib.State, dict[str, Any]]:
  """Where the state comes from: this workdir, `init.checkpoint`, or the seed.

  Args:
    run: the set-up run; its mesh is in context.
    checkpoints: of the workdir.
    data: the data iterator; set to where the run stopped.

  Returns:
    The step to go on with, the state, sharded, and what the checkpoint said beside it.

  Raises:
    ValueError: the checkpoints are of another run, or none can be read.
  """
  config, shardings = run.config, jax.tree.map(lambda x: x.sharding, run.shapes)
  restored = checkpoints.restore(run.shapes.items(), data=data)
  if restored is not None:
    step, items = restored
    meta = items.pop("meta")
    workdir_lib.check_meta(run.workdir, meta, run.meta)
    console.say(f"resuming from step {step} of {run.workdir}")
    return step, state_lib.State(step=jax.device_put(np.int32(step), shardings.step), **items), meta
  source, which = config["init"]["checkpoint"], config["init"]["params"]
  if not source:
    init = state_lib.init_fn(run.objective, run.transform, keep_ema=run.keep_ema,
                             trains=run.optimizer.trains)
    return 0, state_lib.create(init, rng.root(config["seed"]), run.objective.parts(), run.mesh,
                               config["sharding"]), {}
  params = calibration.begin(run, source, _starting(run, source))
  console.say(f"starting from the {which} weights of {source}")
  begin = state_lib.begin_fn(run.objective, run.transform, keep_ema=run.keep_ema,
                             trains=run.optimizer.trains)
  return 0, jax.jit(begin, out_shardings=shardings)(params), {}


def _starting(run: Setup, source: str) -> types.Params:
  """The parameters that a run starts from, of a source."""
  config, named = run.config, begins.named(run.config)
  fresh = tuple(dict.fromkeys((*fresh_parts(run.objective), *named)))
  new, found = _fresh(run, fresh) if fresh else {}, source_lib.open_source(source)
  if named:
    config = {**config, "init": {**config["init"], "checkpoint": source}}
    new |= begins.load(config, run.objective, run.shapes.params, new, run.spec.adaptations)
  if set(fresh) == set(run.shapes.params):
    return new
  params = found.load(
      run.shapes.params, config["init"]["params"], seed=config["seed"],
      adaptations=run.spec.adaptations, adapter=config["init"].get("adapter", ""), fresh=fresh)
  return params | new | found.head(run.objective, run.shapes.params, says=True)()


def load_frozen(run: Setup) -> dict[str, types.Params]:
  """Parameters of the frozen models; the mesh is in context."""
  is_initial = lambda one: one.source == frozen_lib.INITIAL
  found = frozen_lib.load({k: v for k, v in run.frozen.items() if not is_initial(v)})
  if names := [name for name, one in run.frozen.items() if is_initial(one)]:
    source = run.config["init"]["checkpoint"] or str(run.workdir / workdir_lib.BASE)
    found |= dict.fromkeys(names, tree.part(_starting(run, source), run.optimizer.trains))
  return found


def _fresh(run: Setup, names: Sequence[str]) -> dict[str, Any]:
  """Parts of the parameters as they begin from the seed."""
  parts = lambda params: {k: params[k] for k in names}
  init = lambda key: parts(run.objective.init(rng.stream(key, "init")))
  shardings = jax.tree.map(lambda x: x.sharding, parts(run.shapes.params))
  return jax.jit(init, out_shardings=shardings)(rng.root(run.config["seed"]))


def fresh_parts(objective: Any) -> tuple[str, ...]:
  """Names of the parts of the parameters that begin from the seed, whatever a base has."""
  return tuple(name for name, part in objective.parts().items() if part.is_fresh)


def load_weights(run: Setup) -> tuple[str, Any]:
  """Weights of `init.checkpoint`, or of the workdir's own run, and their source."""
  source = source_lib.open_source(run.config["init"]["checkpoint"] or run.workdir)
  put = run.spec.adaptations
  return source.path, source.load(
      source.stored_types(run.shapes.params, put), run.config["init"]["params"], adaptations=put,
      adapter=run.config["init"].get("adapter", ""))
