"""Mode train: train, evaluate, sample and plot.

Contents: run.
"""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

import jax
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import metrics as metrics_lib
from mdx import model as model_lib
from mdx import sharding
from mdx.build import base as base_lib
from mdx.build import setup as setup_lib
from mdx.build import workdir as workdir_lib
from mdx.data import pipeline
from mdx.eval import evaluators
from mdx.modes import reporting
from mdx.report import plots
from mdx.train import loop as loop_lib
from mdx.train import meter as meter_lib
from mdx.train import noise as noise_lib
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers
from mdx.utils import tree


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Trains, evaluates, samples and plots; resumes where the workdir left off."""
  began = time.monotonic()
  base = _base(config_lib.to_dict(config), workdir)
  _train_frozen(config_lib.to_dict(config), workdir, base)
  stop = progress_lib.StopSignal()
  try:
    parts = setup_lib.setup(config, workdir)
    workdir_lib.check_job(parts.workdir, parts.config,
                          lambda: pipeline.fingerprint(parts.config["data"]))
    workdir_lib.claim_workdir(parts.workdir, parts.config, parts.tokenizer, parts.shapes)
    if base:
      parts.config["init"]["checkpoint"] = base
    jax.set_mesh(parts.mesh)
    return _train(parts, stop, began)
  finally:
    stop.close()


def _base(config: Mapping[str, Any], workdir: str) -> str:
  """The model that a config with `init.base` starts from, trained first; otherwise ""."""
  if config["init"]["checkpoint"] or not config["init"].get("base"):
    return ""
  setup_lib.setup(config, workdir)  # what is wrong with it is said before there is a base
  return base_lib.base_checkpoint(config, workdir, run)


def _train_frozen(config: Mapping[str, Any], workdir: str, base: str) -> None:
  """The frozen models of a config that have a `base`, trained first."""
  if base_lib.missing_frozen(config, workdir):
    setup_lib.setup(config, workdir)
    base_lib.train_frozen(config, workdir, base, run)


def _train(run: setup_lib.Setup, stop: progress_lib.StopSignal, began: float) -> dict[str, float]:
  config = run.config
  checkpoints = checkpoint_lib.Checkpoints(run.workdir, **config["checkpoint"])
  data, sizes = _batches(run), run.batch_sizes
  start, state, saved = setup_lib.start_state(run, checkpoints, data)
  if start >= config["steps"] and (run.workdir / "results.json").exists():
    console.say("this run is finished; remove its workdir to train again.")
    results = readers.read_object(
        run.workdir / "results.json", "steps", "tokens_per_second", "seconds", "goodput")
    _print_results(run, results, run.evaluation())
    return results
  smaller = f"{sizes.at(0)} to " if sizes.warmup else ""
  console.say(
      f"{config['objective']['name']}: {tree.count(state.params):,} parameters, "
      f"{smaller}{config['batch_size']} x {config['data']['length']} tokens a step, "
      f"{config['steps']} steps, {jax.device_count()} {jax.devices()[0].platform} device(s), "
      f"{config['dtype']}")
  evaluation, frozen = run.evaluation(), setup_lib.load_frozen(run)
  file = run.workdir / "metrics.jsonl"
  clock = meter_lib.Clock(run.workdir, start)
  writers = metrics_lib.open_writers(str(run.workdir), config, resume_step=start,
                                     is_main=jax.process_index() == 0)
  if not start and (values := evaluation.at_start(_weights(run, state), frozen)):
    writers.write(0, "eval", values | {"cpu_seconds": 0.0})

  def spent_until_now():
    return {"cpu_seconds": clock.cpu_seconds} if evaluation.has_curve else {}

  def evaluate_during(state, step):
    spent = spent_until_now()
    return evaluation.during(step, _weights(run, state), frozen) | spent

  state, tokens_per_second = loop_lib.fit(
      state, run.step(), data, start=start, intervals=run.intervals, mesh=run.mesh, writers=writers,
      checkpoints=checkpoints, meta=run.meta, window=saved.get("window"), stop=stop,
      evaluate=evaluate_during, frozen=frozen,
      next_batch=lambda state, step: _placed(run, data, step),
      profile=loop_lib.Profile(config.get("profile_steps", ()), run.workdir / "profile"),
      clock=clock)
  clock.stop()
  spent = clock.summary()
  clock.close()
  checkpoints.close()
  stop.saved = True
  console.say("evaluating the held-out part ...")
  params = _weights(run, state)
  results = evaluation.final(config["steps"], params, frozen)
  results |= gradient_noise(run, state.params, frozen, state.extra) | spent_until_now()
  writers.write(config["steps"], "eval", results)
  for i, text in enumerate(_samples(run, params)):
    console.say(f"--- sample {i + 1}\n{text}")
  results |= {"tokens_per_second": tokens_per_second or _last_rate(run),
              "parameters": tree.count(state.params),
              "trained_parameters": tree.count(tree.part(state.params, run.optimizer.trains)),
              "steps": config["steps"], "seconds": time.monotonic() - began}
  if not config["data"].get("buckets"):  # with which steps differ in their positions
    num_tokens = sizes.before(config["steps"]) * config["data"]["length"]
    results["matmul_flops"] = 6.0 * run.spec.matmul_params() * num_tokens
  writers.close()
  if evaluation.has_curve:
    results["curve"] = _curve(metrics_lib.read(run.workdir / "metrics.jsonl"), evaluation.curve)
  if jax.process_index() == 0:
    results |= {"goodput": spent["goodput"], "checkpoint_seconds_per_step":
                spent["checkpoint_seconds"] / config["steps"]}
    plots.learning_curve(metrics_lib.read(file),
                         run.workdir / "learning_curve.png",
                         baselines={k: results[f"{k}_bits_per_char"] for k in ("unigram", "bigram")
                                    if f"{k}_bits_per_char" in results},
                         title=config["objective"]["name"])
    files.write_json(run.workdir / "results.json", results)
    _print_results(run, results, evaluation)
  return results


def _batches(run: setup_lib.Setup) -> Any:
  """This process's rows of the batches of training; of units of them with a warm-up all rows."""
  config, sizes = run.config, run.batch_sizes
  rows = None if sizes.warmup else sharding.local_rows(run.mesh, config["batch_size"])
  return iter(pipeline.build(config["data"], run.tokenizer, split="train", batch_size=sizes.unit,
                             seed=config["seed"], rows=rows))


def _placed(run: setup_lib.Setup, data: Any, step: int) -> dict[str, jax.Array]:
  """The batch of a step on the mesh."""
  sizes, num_rows = run.batch_sizes, run.batch_sizes.at(step)
  batch = (sizes.join(data, step, sharding.local_rows(run.mesh, num_rows)) if sizes.warmup
           else next(data))
  return loop_lib.place(batch, step, run.mesh, num_rows, sizes.before(step))


def _last_rate(run: setup_lib.Setup) -> float:
  """Rate of the last log line, where nothing was left to train."""
  path = run.workdir / "metrics.jsonl"
  lines = metrics_lib.read(path) if path.exists() else []
  return next((x["tokens_per_second"] for x in reversed(lines) if x.get("tokens_per_second")), 0.0)


def _curve(lines: list[dict[str, Any]], also: Sequence[str]) -> list[dict[str, float]]:
  """Accuracy of the probe, or of the next token, over the run: the curve that claims read.

  Args:
    lines: of the metrics.
    also: names of further figures of its points.
  """
  points = {x["step"]: x for x in lines if x["kind"] == "eval" and "cpu_seconds" in x}
  figure = lambda x: next((x[k] for k in ("probe_accuracy", "probe_map", "accuracy", "spearman")
                           if k in x), None)
  found = []
  for step in sorted(points):
    figures = {k: points[step][k] for k in also if k in points[step]}
    if (accuracy := figure(points[step])) is not None:
      figures["accuracy"] = accuracy
    if figures:
      found.append({"updates": step, "cpu_seconds": points[step]["cpu_seconds"], **figures})
  return found


def _weights(run: setup_lib.Setup, state):
  return state_lib.averaged(state) if run.config["init"]["params"] == "ema" else state.params


def gradient_noise(run: setup_lib.Setup, params, frozen, extra) -> dict[str, float]:
  """Variance of the gradient over `eval.gradient_draws` draws of the first training batch."""
  config = run.config
  if not config["eval"]["gradient_draws"]:
    return {}
  noise = jax.jit(noise_lib.make_noise(
      run.objective, num_draws=config["eval"]["gradient_draws"], seed=config["seed"],
      step=config["steps"], num_microbatches=config["microbatches"]))
  batch = _placed(run, _batches(run), 0)
  return {k: float(v) for k, v in jax.device_get(noise(params, batch, frozen, extra)).items()}


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
    files.write_text(run.workdir / "samples.txt", "\n---\n".join(texts) + "\n")
  return texts


def _print_results(run: setup_lib.Setup, results: Mapping[str, float],
                   evaluation: evaluators.Evaluation) -> None:
  """Prints the final figures."""
  console.say("\n" + evaluation.text(results))
  console.say(f"{results['steps']} steps, {results['tokens_per_second']:,.0f} tokens/s, "
                f"{results['seconds']:.0f} s, goodput {100 * results['goodput']:.0f} %; see "
                f"{run.workdir}/results.json and learning_curve.png")
  if "gradient_variance" in results:
    console.say(f"gradient            variance {results['gradient_variance']:.4g} over draws, "
                  f"squared norm of the mean {results['gradient_square']:.4g}")
