"""Mode eval: accuracy on a task, or figures of the held-out part of a data set.

Contents: run.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx import sharding
from mdx import tasks
from mdx.build import base as base_lib
from mdx.build import frozen as frozen_lib
from mdx.build import load as load_lib
from mdx.build import setup as setup_lib
from mdx.build import values
from mdx.build import workdir as workdir_lib
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.modes import reporting
from mdx.modes import train as train_mode
from mdx.train import progress as progress_lib
from mdx.utils import checksum
from mdx.utils import console
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers


def _check(config: Mapping[str, Any]) -> None:
  values.check(config)
  if config["prompt_format"] not in task_eval.FORMATS:
    raise ValueError(f"config.prompt_format is {config['prompt_format']!r}; choose from "
                     f"{', '.join(task_eval.FORMATS)}.")
  if config["system"] and config["prompt_format"] != "chat":
    raise ValueError("config.system is a message of chats; set prompt_format to chat.")
  if config["sampler"]["name"]:
    samplers.check_fields(config["sampler"])


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Evaluates a checkpoint on a task, or on the held-out part of its data."""
  return _on_task(config, workdir) if "task" in config else _on_held_out(config, workdir)


def _on_held_out(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Evaluates on the validation split; writes eval.json."""
  run = setup_lib.setup(config, workdir)
  jax.set_mesh(run.mesh)
  source, params = setup_lib.load_weights(run)
  frozen = frozen_lib.load(run.frozen)
  run.workdir.mkdir(parents=True, exist_ok=True)
  results = run.evaluation().of(params, frozen) | train_mode.gradient_noise(
      run, params, frozen, run.objective.init_state())
  if jax.process_index() == 0:
    files.write_json(run.workdir / "eval.json", results | {"checkpoint": source})
  for name, value in results.items():
    console.say(f"{name:<24} {value:.6g}")
  return results


def _on_task(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Decodes the test problems of a task; writes generations.jsonl and results.json.

  Args:
    config: as in configs/eval.py.
    workdir: of the run; an evaluation that was cut short resumes.

  Returns:
    accuracy, stderr and reward as fractions, the 95 % interval of the accuracy (Wilson's),
    over_denoising (None with a cache), nfe, num_examples, seconds.
  """
  _check(config := config_lib.to_dict(config))
  task, path = tasks.build(config["task"]), pathlib.Path(workdir)
  examples = task.examples("test")[:config["num_examples"] or None]
  if base_lib.is_missing(config, workdir):  # what is wrong is said before it is trained
    mesh = sharding.make_mesh(config["mesh"])
    _prompts(base_lib.described(config, workdir, mesh), config, task, examples)
  source = base_lib.base_checkpoint(config, workdir, train_mode.run)
  model = model_lib.load(source, params=config["init"]["params"], mesh=config["mesh"],
                         dtype=config["dtype"], init=config["init"])
  sampler, prompts = _prompts(model, config, task, examples)
  workdir_lib.check_job(path, config, lambda: prompts.tokens.tolist())
  identity = config_lib.run_hash({
      "source": os.path.abspath(source), "weights": checksum.of_items({"params": model.params}),
      "init": base_lib.loading(config["init"]),
      "seed": config["seed"],
      "dtype": config["dtype"], "sampler": repr(sampler), "prompts": prompts.tokens.tolist(),
      "references": [e["answer"] for e in examples], "task": repr(task)})
  results_file = path / "results.json"
  if results_file.exists():
    results = readers.read_object(results_file)
    if results.get("identity") == identity:
      console.say("this evaluation is finished; remove its workdir to run it again.")
      _print_results(results, path)
      return results
  console.say(f"{type(sampler).__name__}: {len(examples)} problems, answers of "
                f"{sampler.gen_length} tokens in {sampler.steps} steps, from {source}, "
                f"{jax.device_count()} {jax.devices()[0].platform} device(s)")
  if sampler.cache != "none":
    console.say("with a cache only final answers are recorded: over-denoising is not measured.")
  table = files.PartialRows(path / "generations.jsonl", identity)
  with jax.set_mesh(model.mesh):
    seconds = _decode(model, sampler, prompts, task, examples, config, table)
  table.finish()
  rows = [table.rows[i] for i in range(len(examples))]
  column = lambda name, dtype: np.array([row[name] for row in rows], dtype)
  best = column("best_of_steps", bool) if sampler.cache == "none" else None
  found = task_eval.summarize(column("correct", bool), best, column("score", np.float64),
                              column("nfe", np.float64))
  interval = stats.binomtest(sum(row["correct"] for row in rows), len(rows)).proportion_ci(
      method="wilson")
  results = {k: v for k, v in found._asdict().items() if k != "over_denoised"} | {
      "interval_low": float(interval.low), "interval_high": float(interval.high),
      "seconds": seconds, "checkpoint": source, "identity": identity} | task_eval.described(task)
  if jax.process_index() == 0:
    files.write_json(results_file, results)
  _print_results(results, path)
  return results


def _prompts(model: load_lib.Loaded, config: Mapping[str, Any], task: Any, examples):
  """The sampler and the encoded problems; ValueError for what cannot be decoded."""
  sampler = model.sampler(**config["sampler"])
  prompts = task_eval.encode_prompts(
      [task.prompt(e) for e in examples], model.tokenizer, max_length=config["max_prompt_length"],
      blank=task.blank, prompt_format=config["prompt_format"], system=config["system"])
  task_decoder.check_prompts(prompts, sampler, model.max_length)
  return sampler, prompts


def _decode(model, sampler, prompts, task, examples, config, table) -> float:
  """Decodes what is not in the table, adding to it; returns the seconds it took."""
  decoder = task_decoder.TaskDecoder(model.objective, sampler, prompts, model.mesh,
                                     name="eval", seed=config["seed"],
                                     record="full" if sampler.cache == "none" else "commits")
  size, shards = config["batch_size"], sharding.num_batch_shards(model.mesh)
  progress = progress_lib.Progress(len(examples), enabled=jax.process_index() == 0,
                                   what="decoding")
  began = time.monotonic()

  def decode(index):
    record, _ = decoder(model.params, index, 0, row_index=index)
    return task_eval.answers_of(processes.fetch(record), model.tokenizer)

  for part in task_eval.scored_batches(
      decode, task, examples, model.tokenizer, -(-min(size, len(examples)) // shards) * shards,
      skip=lambda i: i in table.rows):
    texts = task_eval.completions(part.tokens, model.tokenizer)
    for row, i in enumerate(part.index.tolist()):
      if i not in table.rows:
        table.add(i, {"id": i, "prompt": task.prompt(examples[i]), "completion": texts[row],
                      "reference": examples[i]["answer"], "score": float(part.reward[row]),
                      "correct": bool(part.correct[row]),
                      "best_of_steps": None if part.best is None else bool(part.best[row]),
                      "nfe": int(part.nfe[row])})
    progress.update(len(table.rows))
  progress.close()
  return time.monotonic() - began


def _print_results(results, path) -> None:
  low, high = 100 * results["interval_low"], 100 * results["interval_high"]
  over = results["over_denoising"]
  console.say(
      f"\naccuracy {100 * results['accuracy']:.1f} % of {results['num_examples']} problems "
      f"(95 % interval {low:.1f} to {high:.1f}), "
      + ("" if over is None else f"{100 * over:.1f} % over-denoised, ")
      + f"{results['nfe']:.1f} network calls a problem\n"
      f"see {path}/generations.jsonl and results.json")
