"""What `config.mode` can be: train, rl, sample, eval, export, claim, table, compile, report.

Contents: MODES, train, reinforce, sample, evaluate, export, claim, table, compile_, report.

Convention: every run ends with `report.html` in its workdir.
"""

from __future__ import annotations

import functools
import json
import pathlib
import time
from typing import Any, Callable, Mapping

import jax
import numpy as np

from mdx import aot
from mdx import checkpoint as checkpoint_lib
from mdx import claim as claim_lib
from mdx import config as config_lib
from mdx import evaluation
from mdx import exporting
from mdx import finetuning
from mdx import metrics as metrics_lib
from mdx import model as model_lib
from mdx import sampling
from mdx import setup as setup_lib
from mdx import sharding
from mdx import table as table_lib
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.eval import linear
from mdx.eval import ngram
from mdx.report import page
from mdx.report import plots
from mdx.rl import run as rl_run
from mdx.train import loop as loop_lib
from mdx.train import meter as meter_lib
from mdx.train import noise as noise_lib
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib
from mdx.utils import together
from mdx.utils import tree


def _reported(mode: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
  """A mode that ends with `environment.json` and `report.html`, on the first process."""

  @functools.wraps(mode)
  def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    began, path = time.monotonic(), pathlib.Path(workdir)
    files = [path / name for name in ("results.json", "eval.json")]
    age = lambda: [file.stat().st_mtime_ns for file in files if file.exists()]
    before = age()
    results = mode(config, workdir)
    if jax.process_index() == 0:
      if age() != before:  # else the run was finished already
        setup_lib.write_json(path / page.ENVIRONMENT, page.environment(time.monotonic() - began))
      setup_lib.say(f"report: {page.write(path)}")
    return results

  return run


@_reported
def train(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Trains, evaluates, samples and plots; resumes where the workdir left off."""
  began = time.monotonic()
  base = _base(config_lib.to_dict(config), workdir)
  stop = progress_lib.StopSignal()
  try:
    run = setup_lib.setup(config, workdir)
    setup_lib.claim_workdir(run.workdir, run.config, run.tokenizer, run.shapes)
    if base:
      run.config["init"]["checkpoint"] = base
    jax.set_mesh(run.mesh)
    return _train(run, stop, began)
  finally:
    stop.close()


def _base(config: Mapping[str, Any], workdir: str) -> str:
  """The model that a config with `init.base` starts from, trained first; otherwise ""."""
  if config["init"]["checkpoint"] or not config["init"].get("base"):
    return ""
  setup_lib.setup(config, workdir)  # what is wrong with it is said before there is a base
  return sampling.base_checkpoint(config, workdir, train)


def _train(run: setup_lib.Setup, stop: progress_lib.StopSignal, began: float) -> dict[str, float]:
  config = run.config
  checkpoints = checkpoint_lib.Checkpoints(run.workdir, **config["checkpoint"])
  data = _batches(run)
  start, state = setup_lib.start_state(run, checkpoints, data)
  if start >= config["steps"] and (run.workdir / "results.json").exists():
    setup_lib.say("this run is finished; remove its workdir to train again.")
    results = json.loads((run.workdir / "results.json").read_text(encoding="utf-8"))
    _print_results(run, results)
    return results
  setup_lib.say(
      f"{config['objective']['name']}: {tree.count(state.params):,} parameters, "
      f"{config['batch_size']} x {config['data']['length']} tokens a step, {config['steps']} "
      f"steps, {jax.device_count()} {jax.devices()[0].platform} device(s), {config['dtype']}")
  baselines = _baselines(run)
  file = run.workdir / "metrics.jsonl"
  clock = meter_lib.Clock(run.workdir, start)
  writers = metrics_lib.open_writers(str(run.workdir), config, resume_step=start,
                                     is_main=jax.process_index() == 0)
  labels = finetuning.Evaluator(run) if run.objective.has_labels else None
  evaluator = functools.cache(lambda num_samples: labels or _evaluator(run, num_samples))
  quick = lambda params: evaluator(config["eval"]["num_samples"])(
      params, config["eval"]["num_batches"])
  probe = _probe(run)
  has_curve = probe or run.objective.is_exact  # an accuracy over the steps
  if probe and not start:
    writers.write(0, "eval", probe(_weights(run, state)) | {"cpu_seconds": 0.0})

  def evaluate_during(state, step):
    params, spent = _weights(run, state), {"cpu_seconds": clock.cpu_seconds} if has_curve else {}
    values = quick(params) | (probe(params) if probe else {}) | spent
    if labels:
      labels.offer(step, values, params)
    return values

  state, tokens_per_second = loop_lib.fit(
      state, run.step(), data, start=start, intervals=run.intervals, mesh=run.mesh, writers=writers,
      checkpoints=checkpoints, meta=setup_lib.meta(run.config, run.tokenizer), stop=stop,
      evaluate=evaluate_during, batch_size=config["batch_size"],
      profile=loop_lib.Profile(config.get("profile_steps", ()), run.workdir / "profile"),
      clock=clock)
  clock.stop()
  spent = clock.summary()
  clock.close()
  checkpoints.close()
  stop.saved = True
  setup_lib.say("evaluating the held-out part ...")
  params = _weights(run, state)
  if labels:
    labels.offer(config["steps"], quick(params), params)
    results = labels.finish()
  else:
    results = evaluator(config["eval"]["final_samples"])(params)
  results |= baselines | _gradient_noise(run, state.params, state.extra)
  if has_curve:
    results |= (probe(params) if probe else {}) | {"cpu_seconds": clock.cpu_seconds}
  writers.write(config["steps"], "eval", results)
  for i, text in enumerate(_samples(run, params)):
    setup_lib.say(f"--- sample {i + 1}\n{text}")
  num_tokens = config["steps"] * config["batch_size"] * config["data"]["length"]
  results |= {"tokens_per_second": tokens_per_second or _last_rate(run),
              "parameters": tree.count(state.params),
              "matmul_flops": 6.0 * run.spec.matmul_params() * num_tokens,
              "steps": config["steps"], "seconds": time.monotonic() - began}
  writers.close()
  if has_curve:
    results["curve"] = _curve(metrics_lib.read(run.workdir / "metrics.jsonl"))
  if jax.process_index() == 0:
    results |= {"goodput": spent["goodput"], "checkpoint_seconds_per_step":
                spent["checkpoint_seconds"] / config["steps"]}
    plots.learning_curve(metrics_lib.read(file),
                         run.workdir / "learning_curve.png",
                         baselines={k.split("_")[0]: v for k, v in baselines.items()},
                         title=config["objective"]["name"])
    setup_lib.write_json(run.workdir / "results.json", results)
    _print_results(run, results)
  return results


def _batches(run: setup_lib.Setup) -> Any:
  """This process's rows of the batches of training."""
  config = run.config
  return iter(pipeline.build(
      config["data"], run.tokenizer, split="train", batch_size=config["batch_size"],
      seed=config["seed"], rows=sharding.local_rows(run.mesh, config["batch_size"])))


def _last_rate(run: setup_lib.Setup) -> float:
  """Rate of the last log line, where nothing was left to train."""
  path = run.workdir / "metrics.jsonl"
  lines = metrics_lib.read(path) if path.exists() else []
  return next((x["tokens_per_second"] for x in reversed(lines) if x.get("tokens_per_second")), 0.0)


def _probe(run: setup_lib.Setup):
  """params -> figures of the linear probe of `eval.probe`, or None."""
  probe = linear.Probe(**run.config["eval"]["probe"])
  return linear.Evaluator(probe, run.config, run.tokenizer, run.objective,
                          run.mesh) if probe.num_labels else None


def _curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
  """Accuracy of the probe, or of the next token, over the run: what `mdx.claim` reads."""
  points = {x["step"]: x for x in lines if x["kind"] == "eval" and "cpu_seconds" in x}
  figure = lambda x: next(x[k] for k in ("probe_accuracy", "probe_map", "accuracy") if k in x)
  return [{"updates": step, "cpu_seconds": points[step]["cpu_seconds"],
           "accuracy": figure(points[step])} for step in sorted(points)]


def _weights(run: setup_lib.Setup, state):
  return state_lib.averaged(state) if run.config["init"]["params"] == "ema" else state.params


def _baselines(run: setup_lib.Setup) -> dict[str, float]:
  """Unigram and bigram bits per character, for objectives with a likelihood."""
  is_text = run.tokenizer.chars_per_token.any()
  if not (run.objective.is_likelihood and run.config["eval"]["baselines"] and is_text):
    return {}
  pair = tuple(list(pipeline.texts(run.config["data"], split, tokenizer=run.tokenizer))
               for split in ("train", "validation"))
  return {"unigram_bits_per_char": ngram.unigram_bits(*pair),
          "bigram_bits_per_char": ngram.bigram_bits(*pair)}


def _evaluator(run: setup_lib.Setup, num_samples: int):
  """Returns (params, n) -> numbers over the first n (0: all) held-out batches."""
  config = run.config["eval"]
  row_nll = together.Jitted(likelihood.make_row_nll(
      run.objective, estimator=config["estimator"], num_samples=num_samples,
      seed=run.config["seed"]))

  def evaluate(params, num_batches: int = 0) -> dict[str, float]:
    batches = pipeline.build(run.config["data"], run.tokenizer, split="validation",
                             batch_size=run.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not num_batches or i < num_batches)
    chars = run.tokenizer.chars_per_token if run.objective.is_likelihood else None
    return likelihood.evaluate(row_nll, params, batches, mesh=run.mesh, chars_per_token=chars)

  return evaluate


def _gradient_noise(run: setup_lib.Setup, params, extra) -> dict[str, float]:
  """Variance of the gradient over `eval.gradient_draws` draws of the first training batch."""
  config = run.config
  if not config["eval"]["gradient_draws"]:
    return {}
  noise = jax.jit(noise_lib.make_noise(
      run.objective, num_draws=config["eval"]["gradient_draws"], seed=config["seed"],
      step=config["steps"], num_microbatches=config["microbatches"]))
  batch = loop_lib.place(next(_batches(run)), 0, run.mesh, config["batch_size"])
  return {k: float(v) for k, v in jax.device_get(noise(params, batch, extra)).items()}


def _samples(run: setup_lib.Setup, params) -> list[str]:
  """Unconditional samples as text, also written to `samples.txt`."""
  num_samples = run.config["sampler"]["num_samples"]
  if run.sampler is None or not num_samples:
    return []
  model = model_lib.Model(objective=run.objective, params=params, tokenizer=run.tokenizer,
                          mesh=run.mesh, max_length=run.spec.max_length, source=str(run.workdir),
                          config=run.config)
  rows = [np.zeros(0, np.int32)] * num_samples
  decoded = dict(model.decode(rows, run.sampler, seed=run.config["seed"], batch_size=num_samples))
  texts = [run.tokenizer.decode(decoded[i].tokens) for i in range(num_samples)]
  if jax.process_index() == 0:
    (run.workdir / "samples.txt").write_text("\n---\n".join(texts) + "\n", encoding="utf-8")
  return texts


def _print_results(run: setup_lib.Setup, results: Mapping[str, float]) -> None:
  """Prints the final figures."""
  if run.objective.has_labels:
    lines = [finetuning.results_text(results)]
  elif "bits_per_char" in results:
    name = "likelihood" if run.objective.is_exact else "bound"
    lines = [f"held-out {name:<11}{results['bits_per_char']:.3f} +- "
             f"{results['bits_per_char_stderr']:.3f} bits per character"]
    lines += [f"{name:<20}{results[f'{name}_bits_per_char']:.3f}"
              for name in ("unigram", "bigram") if f"{name}_bits_per_char" in results]
  else:
    lines = [f"held-out loss       {results['nats_per_token']:.3f} +- "
             f"{results['nats_per_token_stderr']:.3f} nats per predicted token"]
  setup_lib.say("\n" + "\n".join(lines))
  setup_lib.say(f"{results['steps']} steps, {results['tokens_per_second']:,.0f} tokens/s, "
                f"{results['seconds']:.0f} s, goodput {100 * results['goodput']:.0f} %; see "
                f"{run.workdir}/results.json and learning_curve.png")
  if "gradient_variance" in results:
    setup_lib.say(f"gradient            variance {results['gradient_variance']:.4g} over draws, "
                  f"squared norm of the mean {results['gradient_square']:.4g}")


@_reported
def evaluate(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Evaluates a checkpoint on a task, or on the held-out part (`workdir/eval.json`)."""
  if "task" in config:
    return evaluation.evaluate(config, workdir, train)
  run = setup_lib.setup(config, workdir)
  jax.set_mesh(run.mesh)
  source, params = setup_lib.load_weights(run)
  evaluator = (finetuning.Evaluator(run) if run.objective.has_labels else
               _evaluator(run, run.config["eval"]["final_samples"]))
  results = (evaluator(params) | _baselines(run)
             | _gradient_noise(run, params, run.objective.init_state()))
  if jax.process_index() == 0:
    run.workdir.mkdir(parents=True, exist_ok=True)
    setup_lib.write_json(run.workdir / "eval.json", results | {"checkpoint": source})
  for name, value in results.items():
    setup_lib.say(f"{name:<24} {value:.6g}")
  return results


def export(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Writes weights, config and tokenizer of a checkpoint into `export.path`."""
  return exporting.export(config, workdir)


@_reported
def sample(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Decodes prompts, after training the base model where no checkpoint is given."""
  return sampling.sample(config, workdir, train)


@_reported
def reinforce(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Improves a model by RL, after training the base model where no checkpoint is given."""
  return rl_run.train(config, workdir, train)


@_reported
def claim(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Measures a claim: arms x seeds of runs, and a stated test."""
  return claim_lib.train(config, workdir, MODES)


def compile_(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Compiles the programs of a config for a topology, which need not be there."""
  return aot.run(config, workdir)


def report(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Writes the report of a finished run again, or one of several runs into the workdir."""
  paths = [path.strip() for path in config["workdirs"].split(",") if path.strip()]
  if not paths:
    raise ValueError("config.workdirs is empty; give the workdirs of runs, separated by commas.")
  if len(paths) == 1:
    file = page.write(paths[0])
  else:
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    file = page.compare(paths, pathlib.Path(workdir) / page.NAME)
  setup_lib.say(f"report: {file}")
  return {}


@_reported
def table(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Fine-tunes models on tasks: models x tasks x grid x seeds, with tests."""
  return table_lib.train(config, workdir, MODES)


MODES = {"train": train, "rl": reinforce, "sample": sample, "eval": evaluate, "export": export,
         "claim": claim, "table": table, "compile": compile_, "report": report}
