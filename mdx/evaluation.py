"""Tasks decoded by a model: what RL samples with, and mode eval on a task.

Contents: TaskDecoder, check_prompts, evaluate.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx import sampling
from mdx import setup as setup_lib
from mdx import sharding
from mdx import tasks
from mdx import types
from mdx.eval import tasks as task_eval
from mdx.objectives import reading
from mdx.samplers import loop
from mdx.samplers import trajectory
from mdx.train import progress as progress_lib
from mdx.utils import host
from mdx.utils import partial
from mdx.utils import rng
from mdx.utils import together


class TaskDecoder:
  """Decodes the prompts of a task with one compiled program."""

  def __init__(self, model: model_lib.Model, sampler: Any, prompts: task_eval.Prompts, *,
               name: str, seed: int, group_size: int = 1):
    """Compiles nothing yet.

    Args:
      model: its parameters are not used, those of each call are.
      sampler: the decoding rule.
      prompts: the encoded examples.
      name: of the use, part of the key of every draw.
      seed: of the run.
      group_size: rows that follow the same one of a sampler's plans.
    """
    self._group = group_size
    self._sampler, self._prompts, self.mesh = sampler, prompts, model.mesh
    self._key = rng.stream(rng.root(seed), name)
    self.start = prompts.start

    def run(params, key, rows):
      return loop.decode(reading.reader(model.objective, params), sampler, rows["canvas"],
                         key=key, row_index=rows["row_index"], start=self.start, record="full",
                         plan_index=rows["row_index"] // self._group,
                         positions=rows.get("positions"), segment_ids=rows.get("segment_ids"))

    self.run = together.Jitted(run)  # (params, key, rows) -> loop.Decoded

  def __call__(self, params: types.Params, examples: np.ndarray, iteration: int, *,
               row_index: np.ndarray | None = None
               ) -> tuple[trajectory.Trajectory, dict[str, jax.Array]]:
    """Decodes examples; returns the record and the rows, on the device.

    Args:
      params: weights.
      examples: int32 [N].
      iteration: of the run, part of the key of every draw.
      row_index: int32 [N], likewise of each row; None = its place among these.
    """
    rows = self._prompts.canvas(examples, self._sampler.gen_length, self._sampler.mask_id)
    index = np.arange(len(examples)) if row_index is None else row_index
    rows["row_index"] = index.astype(np.int32)
    rows = sharding.place_batch(rows, self.mesh)
    record = self.run(params, jax.random.fold_in(self._key, iteration), rows).trajectory
    return record, rows


def check_prompts(prompts: task_eval.Prompts, sampler: Any, max_length: int) -> None:
  """Raises ValueError for prompts that, with their answers, do not fit the sampler or model."""
  width = prompts.tokens.shape[1]
  if prompts.blank_id >= 0 and width != sampler.gen_length:
    raise ValueError(f"the texts to fill in have {width} tokens, sampler.gen_length is "
                     f"{sampler.gen_length}; make it the same.")
  if prompts.start + sampler.gen_length > max_length:
    raise ValueError(f"prompts of {prompts.start} tokens and answers of {sampler.gen_length} "
                     f"exceed the model's {max_length}; shorten sampler.gen_length.")


def _check(config: Mapping[str, Any]) -> None:
  config_lib.check_positive(config, "batch_size")
  if config["num_examples"] < 0:
    raise ValueError(f"config.num_examples must be positive, or 0 for all; got "
                     f"{config['num_examples']}.")
  if config["prompt_format"] not in task_eval.FORMATS:
    raise ValueError(f"config.prompt_format is {config['prompt_format']!r}; choose from "
                     f"{', '.join(task_eval.FORMATS)}.")
  if config["system"] and config["prompt_format"] != "chat":
    raise ValueError("config.system is a message of chats; set prompt_format to chat.")
  if config["sampler"]["name"]:
    samplers.check_fields(config["sampler"])


def evaluate(config: Mapping[str, Any], workdir: str, train: Callable) -> dict[str, Any]:
  """Decodes the test problems of a task; writes generations.jsonl and results.json.

  Args:
    config: as in configs/eval.py.
    workdir: of the run; one that was cut short goes on where it stopped.
    train: trains the base model where no checkpoint is given.

  Returns:
    accuracy, stderr and reward as fractions, the 95 % interval of the accuracy (Wilson's),
    over_denoising, nfe, num_examples, seconds.
  """
  _check(config := config_lib.to_dict(config))
  task, path = tasks.build(config["task"]), pathlib.Path(workdir)
  examples = task.examples("test")[:config["num_examples"] or None]
  source = sampling.base_checkpoint(config, workdir, train)
  model = model_lib.load(source, params=config["init"]["params"], mesh=config["mesh"],
                         dtype=config["dtype"], init=config["init"])
  sampler = model.sampler(**config["sampler"])
  prompts = task_eval.encode_prompts(
      [task.prompt(e) for e in examples], model.tokenizer, max_length=config["max_prompt_length"],
      blank=tasks.blank_of(task), prompt_format=config["prompt_format"], system=config["system"])
  check_prompts(prompts, sampler, model.max_length)
  identity = config_lib.run_hash({
      "source": os.path.abspath(source), "init": sampling.loading(config["init"]),
      "seed": config["seed"],
      "dtype": config["dtype"], "sampler": repr(sampler), "prompts": prompts.tokens.tolist(),
      "references": [e["answer"] for e in examples], "task": repr(task)})
  results_file = path / "results.json"
  if results_file.exists():
    results = json.loads(results_file.read_text(encoding="utf-8"))
    if results.get("identity") == identity:
      setup_lib.say("this evaluation is finished; remove its workdir to run it again.")
      _print_results(results, path)
      return results
  setup_lib.say(f"{type(sampler).__name__}: {len(examples)} problems, answers of "
                f"{sampler.gen_length} tokens in {sampler.steps} steps, from {source}, "
                f"{jax.device_count()} {jax.devices()[0].platform} device(s)")
  table = partial.PartialRows(path / "generations.jsonl", identity)
  with jax.set_mesh(model.mesh):
    seconds = _decode(model, sampler, prompts, task, examples, config, table)
  table.finish()
  rows = [table.rows[i] for i in range(len(examples))]
  column = lambda name, dtype: np.array([row[name] for row in rows], dtype)
  found = task_eval.summarize(column("correct", bool), column("best_of_steps", bool),
                              column("score", np.float64), column("nfe", np.float64))
  interval = stats.binomtest(sum(row["correct"] for row in rows), len(rows)).proportion_ci(
      method="wilson")
  results = {k: v for k, v in found._asdict().items() if k != "over_denoised"} | {
      "interval_low": float(interval.low), "interval_high": float(interval.high),
      "seconds": seconds, "checkpoint": source, "identity": identity}
  if jax.process_index() == 0:
    setup_lib.write_json(results_file, results)
  _print_results(results, path)
  return results


def _decode(model, sampler, prompts, task, examples, config, table) -> float:
  """Decodes what is not in the table, adding to it; returns the seconds it took."""
  decoder = TaskDecoder(model, sampler, prompts, name="eval", seed=config["seed"])
  size, shards = config["batch_size"], sharding.num_batch_shards(model.mesh)
  progress = progress_lib.Progress(len(examples), enabled=jax.process_index() == 0,
                                   what="decoding")
  began = time.monotonic()

  def decode(index):
    record, _ = decoder(model.params, index, 0, row_index=index)
    return host.fetch((record.prediction, record.nfe))

  for part in task_eval.scored_batches(
      decode, task, examples, model.tokenizer, -(-min(size, len(examples)) // shards) * shards,
      skip=lambda i: i in table.rows):
    texts = task_eval.completions(part.tokens, model.tokenizer)
    for row, i in enumerate(part.index.tolist()):
      if i not in table.rows:
        table.add(i, {"id": i, "prompt": task.prompt(examples[i]), "completion": texts[row],
                      "reference": examples[i]["answer"], "score": float(part.reward[row]),
                      "correct": bool(part.correct[row]), "best_of_steps": bool(part.best[row]),
                      "nfe": int(part.nfe[row])})
    progress.update(len(table.rows))
  progress.close()
  return time.monotonic() - began


def _print_results(results, path) -> None:
  low, high = 100 * results["interval_low"], 100 * results["interval_high"]
  setup_lib.say(
      f"\naccuracy {100 * results['accuracy']:.1f} % of {results['num_examples']} problems "
      f"(95 % interval {low:.1f} to {high:.1f}), {100 * results['over_denoising']:.1f} % "
      f"over-denoised, {results['nfe']:.1f} network calls a problem\n"
      f"see {path}/generations.jsonl and results.json")
