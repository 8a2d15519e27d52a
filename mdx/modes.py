"""What `config.mode` can be: train, eval, export.

Contents: MODES, Setup, setup.

Convention: `setup` checks everything that can be checked before the first
compile and before anything is written; every error of it is one line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shutil
import time
from typing import Any, Callable, Mapping

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import metrics as metrics_lib
from mdx import objectives
from mdx import samplers
from mdx import sharding
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import likelihood
from mdx.eval import ngram
from mdx.networks import transformer
from mdx.report import plots
from mdx.samplers import loop as sampling_loop
from mdx.train import loop as loop_lib
from mdx.train import optimizer as optimizer_lib
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
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
    init: key -> State, to be jitted.
    abstract: shapes of the state.
  """
  config: dict[str, Any]
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  tokenizer: tokenizer_lib.Tokenizer
  spec: transformer.Transformer
  objective: Any
  optimizer: optimizer_lib.Optimizer
  intervals: loop_lib.Intervals
  init: Callable[[jax.Array], state_lib.State]
  abstract: state_lib.State


_REQUIRED = ("mode", "seed", "steps", "batch_size", "microbatches", "dtype", "objective", "network",
             "optimizer", "mesh", "sharding", "init", "tokenizer", "data", "eval", "sampler", "export",
             "log_steps", "checkpoint_steps", "eval_steps", "checkpoint", "ema_decay")


def setup(config: Mapping[str, Any], workdir: str) -> Setup:
  """Builds and checks the parts of a run.

  Args:
    config: a config as in `configs/`.
    workdir: directory of the run; not yet touched.

  Raises:
    ValueError: one line saying what was expected, what came and what to do.
  """
  config = config_lib.to_dict(config)
  missing = [k for k in _REQUIRED if k not in config]
  if missing:
    raise ValueError(f"the config lacks {missing[0]!r}; start from configs/common.py.")
  config_lib.check_positive(config, "steps", "batch_size", "microbatches", "data.length")
  if not 0 <= config["ema_decay"] < 1:
    raise ValueError(f"config.ema_decay must lie in [0, 1), got {config['ema_decay']}.")
  ids = dict(config["tokenizer"])
  tokenizer = tokenizer_lib.build(ids.pop("path"), **{k: v for k, v in ids.items() if v != -1})
  mesh = sharding.make_mesh(config["mesh"])
  sharding.check_batch(mesh, config["batch_size"], config["data"]["length"],
                       config["microbatches"])
  spec = _transformer(config, tokenizer, mesh)
  objective = objectives.build(config["objective"], spec.network(), tokenizer)
  optimizer = config_lib.build(optimizer_lib.OPTIMIZERS, config["optimizer"], what="optimizer")
  intervals = loop_lib.Intervals(**{f.name: config[f.name]
                                    for f in dataclasses.fields(loop_lib.Intervals)})
  init = state_lib.init_fn(objective, optimizer.build(config["steps"]),
                           keep_ema=config["ema_decay"] > 0)
  abstract = jax.eval_shape(init, rng.root(config["seed"]))
  sharding.state_sharding(abstract, abstract.params, mesh, config["sharding"])
  if config["init"]["params"] not in ("ema", "raw"):
    raise ValueError(f"config.init.params is {config['init']['params']!r}; choose from ema, raw.")
  _sampler(config, objective, tokenizer)
  pipeline.check(config["data"], tokenizer)
  return Setup(config=config, workdir=pathlib.Path(workdir), mesh=mesh, tokenizer=tokenizer,
               spec=spec, objective=objective, optimizer=optimizer, intervals=intervals, init=init,
               abstract=abstract)


def _transformer(config, tokenizer, mesh) -> transformer.Transformer:
  fields = dict(config["network"], dtype=config["dtype"])
  given = fields.get("vocab_size") or tokenizer.vocab_size
  if given < tokenizer.vocab_size:
    raise ValueError(f"network.vocab_size {given} is smaller than the {tokenizer.vocab_size} ids "
                     f"of tokenizer {config['tokenizer']['path']!r}; use 0 (the tokenizer's).")
  tensor = mesh.shape["tensor"]
  multiple = math.lcm(fields.get("vocab_multiple", 8), tensor)
  spec = config_lib.build(transformer.NETWORKS,
                          fields | {"vocab_size": given, "vocab_multiple": multiple},
                          what="network")
  if config["sharding"].get("heads") == "tensor" and spec.kv_heads % tensor:
    raise ValueError(f"mesh axis tensor={tensor} does not divide {spec.kv_heads} key-value heads "
                     "(network.num_heads or num_kv_heads); use a divisor.")
  if spec.max_length < config["data"]["length"]:
    raise ValueError(f"data.length {config['data']['length']} exceeds network.max_length "
                     f"{spec.max_length}; raise it or shorten the rows.")
  return spec


def _sampler(config, objective, tokenizer):
  """The sampler of a generating objective, or None."""
  if not objective.generates:
    return None
  fields = dict(config["sampler"], name=objective.generates)
  num_rows = fields.pop("num_samples")
  if objective.generates == "ancestral":
    fields["schedule"] = dict(objective.schedule)
  else:
    fields.pop("steps")
  return samplers.build(fields, tokenizer.mask_id), num_rows


def _claim_workdir(run: Setup) -> None:
  """Checks the workdir and writes the resolved config into it.

  Raises:
    ValueError: not writable, too little space, or the run of another config.
  """
  path, config_path = run.workdir, run.workdir / "config.json"
  if config_path.exists():
    try:
      old = json.loads(config_path.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError):
      raise ValueError(f"{config_path} is not readable as a config; use another --workdir, or "
                       "remove that file.") from None
    if config_lib.run_hash(old) != config_lib.run_hash(run.config):
      changes = config_lib.differences(old, run.config)
      raise ValueError(f"workdir {path} holds a run of another config ({'; '.join(changes[:3])}); "
                       "use another --workdir, or remove it.")
  if jax.process_index() != 0:
    return
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".probe{os.getpid()}"
    probe.write_text("x", encoding="utf-8")
    probe.unlink()
  except OSError as error:
    raise ValueError(f"workdir {path} cannot be written ({error.strerror}); use another "
                     "--workdir.") from None
  need = tree.num_bytes(run.abstract) * (run.config["checkpoint"]["keep"] + 1) + 2 ** 24
  free = shutil.disk_usage(path).free
  if free < need:
    raise ValueError(f"workdir {path} has {free / 2 ** 20:,.0f} MiB free, the checkpoints need "
                     f"{need / 2 ** 20:,.0f} MiB; free some space or use another --workdir.")
  if not config_path.exists():
    _write_json(config_path, {"hash": config_lib.run_hash(run.config), "config": run.config})
    run.tokenizer.save(path)


def _write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file that is never seen half-written."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
  temporary.replace(path)


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, flush=True)


def _start_state(run: Setup, data: Any, checkpoints: checkpoint_lib.Checkpoints):
  """Where parameters come from: this workdir, `init.checkpoint`, or the seed."""
  config = run.config
  state = state_lib.create(run.init, rng.root(config["seed"]), run.mesh, config["sharding"])
  restored = checkpoints.restore(state.items(), data=data)
  if restored is not None:
    step, items = restored
    items.pop("meta")
    _say(f"resuming from step {step} of {run.workdir}")
    step_value = jax.device_put(np.int32(step), state.step.sharding)
    return step, state_lib.State(step=step_value, **items)
  if config["init"]["checkpoint"]:
    params = checkpoint_lib.load_params(
        config["init"]["checkpoint"], checkpoint_lib.abstract(state.params),
        config["init"]["params"])
    # The average starts at the loaded weights; a copy, since both are donated.
    ema = jax.tree.map(jnp.copy, params) if state.ema else {}
    state = state._replace(params=params, ema=ema)
    _say(f"starting from {config['init']['params']} weights of {config['init']['checkpoint']}")
  return 0, state


def train(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Trains, evaluates, samples and plots; resumes where the workdir left off."""
  began = time.monotonic()
  stop = progress_lib.StopSignal()
  try:
    run = setup(config, workdir)
    _claim_workdir(run)
    jax.set_mesh(run.mesh)
    return _train(run, stop, began)
  finally:
    stop.close()


def _train(run: Setup, stop: progress_lib.StopSignal, began: float) -> dict[str, float]:
  config = run.config
  checkpoints = checkpoint_lib.Checkpoints(run.workdir, keep=config["checkpoint"]["keep"])
  data = iter(pipeline.build(
      config["data"], run.tokenizer, split="train",
      batch_size=config["batch_size"] // jax.process_count(), seed=config["seed"],
      process_index=jax.process_index(), process_count=jax.process_count()))
  start, state = _start_state(run, data, checkpoints)
  _say(f"{config['objective']['name']}: {tree.count(state.params):,} parameters, "
       f"{config['batch_size']} x {config['data']['length']} tokens a step, {config['steps']} "
       f"steps, {jax.device_count()} {jax.devices()[0].platform} device(s), {config['dtype']}")
  baselines = _baselines(run)
  writers = metrics_lib.open_writers(str(run.workdir), resume_step=start,
                                     tensorboard=config["tensorboard"],
                                     is_main=jax.process_index() == 0)
  quick = _evaluator(run, config["eval"]["num_samples"], config["eval"]["num_batches"])
  step_fn = jax.jit(
      step_lib.make_step(run.objective, run.optimizer.build(config["steps"]), seed=config["seed"],
                         rate=run.optimizer.rate(config["steps"]),
                         num_microbatches=config["microbatches"], ema_decay=config["ema_decay"]),
      donate_argnums=0, out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
  state, tokens_per_second = loop_lib.fit(
      state, step_fn, data, start=start, intervals=run.intervals, mesh=run.mesh, writers=writers,
      checkpoints=checkpoints, meta=_meta(run), stop=stop,
      evaluate=lambda state, step: quick(_weights(run, state)))
  checkpoints.wait()
  stop.saved = True
  checkpoints.close()
  results = _finish(run, _weights(run, state), writers, baselines)
  results |= {"tokens_per_second": tokens_per_second or _last_rate(run),
              "steps": config["steps"], "seconds": time.monotonic() - began}
  writers.close()
  if jax.process_index() == 0:
    _write_json(run.workdir / "results.json", results)
    plots.learning_curve(metrics_lib.read(run.workdir / "metrics.jsonl"),
                         run.workdir / "learning_curve.png",
                         baselines={k.split("_")[0]: v for k, v in baselines.items()},
                         title=config["objective"]["name"])
    _report(run, results)
  return results


def _last_rate(run: Setup) -> float:
  """Rate of the last log line, for a run that was already finished."""
  path = run.workdir / "metrics.jsonl"
  lines = metrics_lib.read(path) if path.exists() else []
  return next((x["tokens_per_second"] for x in reversed(lines) if x.get("tokens_per_second")), 0.0)


def _weights(run: Setup, state: state_lib.State):
  return state.ema if run.config["init"]["params"] == "ema" and state.ema else state.params


def _meta(run: Setup) -> dict[str, Any]:
  return {"hash": config_lib.run_hash(run.config), "tokenizer": run.tokenizer.fingerprint,
          "process_count": jax.process_count()}


def _baselines(run: Setup) -> dict[str, float]:
  """Unigram and bigram bits per character, for objectives with a likelihood."""
  if not run.objective.is_likelihood or not run.config["eval"]["baselines"]:
    return {}
  texts = {split: list(pipeline.texts(run.config["data"], split))
           for split in ("train", "validation")}
  pair = (texts["train"], texts["validation"])
  return {"unigram_bits_per_char": ngram.unigram_bits(*pair),
          "bigram_bits_per_char": ngram.bigram_bits(*pair)}


def _evaluator(run: Setup, num_samples: int, num_batches: int):
  """Returns params -> numbers over the first `num_batches` (0: all) held-out batches."""
  config = run.config["eval"]
  row_nll = jax.jit(likelihood.make_row_nll(run.objective, estimator=config["estimator"],
                                            num_samples=num_samples, seed=run.config["seed"]))

  def evaluate(params) -> dict[str, float]:
    batches = pipeline.build(run.config["data"], run.tokenizer, split="validation",
                             batch_size=run.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not num_batches or i < num_batches)
    chars = run.tokenizer.chars_per_token if run.objective.is_likelihood else None
    return likelihood.evaluate(row_nll, params, batches, mesh=run.mesh, chars_per_token=chars)

  return evaluate


def _finish(run: Setup, params, writers, baselines) -> dict[str, float]:
  """Final evaluation and samples."""
  config = run.config
  _say("evaluating the held-out part ...")
  results = _evaluator(run, config["eval"]["final_samples"], 0)(params)
  results.update(baselines)
  writers.write(config["steps"], "eval", results)
  for i, text in enumerate(_samples(run, params)):
    _say(f"--- sample {i + 1}\n{text}")
  return results


def _samples(run: Setup, params) -> list[str]:
  """Unconditional samples as text, also written to `samples.txt`."""
  built = _sampler(run.config, run.objective, run.tokenizer)
  if built is None or not built[1]:
    return []
  sampler, num_rows = built
  num_rows = -(-num_rows // sharding.batch_shards()) * sharding.batch_shards()
  canvas = jnp.full((num_rows, run.config["data"]["length"]), run.tokenizer.mask_id, jnp.int32)

  @jax.jit
  def decode(params):
    return sampling_loop.decode(
        lambda canvas, level: run.objective.denoise(params, canvas, level), sampler, canvas,
        key=rng.root(run.config["seed"]), row_index=jnp.arange(num_rows))[0]

  tokens = decode(params)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils  # pylint: disable=g-import-not-at-top
    tokens = multihost_utils.process_allgather(tokens, tiled=True)
  texts = [run.tokenizer.decode(row) for row in np.asarray(jax.device_get(tokens))]
  if jax.process_index() == 0:
    (run.workdir / "samples.txt").write_text("\n---\n".join(texts) + "\n", encoding="utf-8")
  return texts


def _report(run: Setup, results: Mapping[str, float]) -> None:
  """Prints the final figures."""
  print()
  if "bits_per_char" in results:
    print(f"held-out bound   {results['bits_per_char']:.3f} +- "
          f"{results['bits_per_char_stderr']:.3f} bits per character")
    for name in ("unigram", "bigram"):
      if f"{name}_bits_per_char" in results:
        print(f"{name:<16} {results[f'{name}_bits_per_char']:.3f}")
  else:
    print(f"held-out loss    {results['nats_per_token']:.3f} +- "
          f"{results['nats_per_token_stderr']:.3f} nats per predicted token")
  print(f"{results['steps']} steps, {results['tokens_per_second']:,.0f} tokens/s, "
        f"{results['seconds']:.0f} s; see {run.workdir}/results.json and learning_curve.png")


def _load_weights(run: Setup):
  """Weights of `init.checkpoint`, or of the workdir's own run."""
  source = run.config["init"]["checkpoint"] or str(run.workdir)
  jax.set_mesh(run.mesh)
  shardings = sharding.state_sharding(run.abstract.params, run.abstract.params, run.mesh,
                                      run.config["sharding"])
  wanted = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        run.abstract.params, shardings)
  return source, checkpoint_lib.load_params(source, wanted, run.config["init"]["params"])


def evaluate(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Evaluates a checkpoint on the held-out part; writes `workdir/eval.json`."""
  run = setup(config, workdir)
  source, params = _load_weights(run)
  results = _evaluator(run, run.config["eval"]["final_samples"], 0)(params) | _baselines(run)
  if jax.process_index() == 0:
    run.workdir.mkdir(parents=True, exist_ok=True)
    _write_json(run.workdir / "eval.json", results | {"checkpoint": source})
    for name, value in results.items():
      print(f"{name:<24} {value:.6g}")
  return results


def export(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Writes weights, config and tokenizer of a checkpoint into `export.path`."""
  run = setup(config, workdir)
  wanted = run.config["export"]
  if wanted["format"] != "orbax":
    raise ValueError(f"config.export.format is {wanted['format']!r}; choose from orbax.")
  if not wanted["path"]:
    raise ValueError("mode export needs --config.export.path=DIRECTORY, a new directory.")
  source, params = _load_weights(run)
  checkpoint_lib.save_params(wanted["path"], params, _meta(run))
  if jax.process_index() == 0:
    path = pathlib.Path(wanted["path"])
    _write_json(path / "config.json", {"hash": config_lib.run_hash(run.config),
                                       "config": run.config})
    run.tokenizer.save(path)
    print(f"wrote the {run.config['init']['params']} weights of {source} to {path}")
  return {}


MODES = {"train": train, "eval": evaluate, "export": export}
