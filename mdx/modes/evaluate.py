"""Mode eval: accuracy on a task, or figures of the held-out part of a data set.

Contents: run, Model, loaded, on_task, TRANSCRIPTS.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx import sharding
from mdx import tasks
from mdx import types
from mdx.build import base as base_lib
from mdx.build import load as load_lib
from mdx.build import setup as setup_lib
from mdx.build import values
from mdx.build import workdir as workdir_lib
from mdx.eval import repeated
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.modes import reporting
from mdx.modes import train as train_mode
from mdx.rl import episodes as episodes_lib
from mdx.tasks import problems
from mdx.train import progress as progress_lib
from mdx.utils import checksum
from mdx.utils import console
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers

TRANSCRIPTS = "transcripts.jsonl"  # right ones, as conversations


def _check(config: Mapping[str, Any]) -> None:
  values.check(config)
  if config["prompt_format"] not in task_eval.FORMATS:
    raise ValueError(f"config.prompt_format is {config['prompt_format']!r}; choose from "
                     f"{', '.join(task_eval.FORMATS)}.")
  if config["system"] and config["prompt_format"] != "chat":
    raise ValueError("config.system is a message of chats; set prompt_format to chat.")
  problems.check_split(config.get("split", "test"))
  if config["sampler"]["name"]:
    samplers.check_fields(config["sampler"])
  repeated.check(config.get("num_samples", 1), config.get("pass_k", ()),
                 config["sampler"].get("temperature", 0.0), "config.pass_k")


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Evaluates a checkpoint on a task, or on the held-out part of its data."""
  config = config_lib.to_dict(config)
  return _on_task(config, workdir) if "task" in config else _on_held_out(config, workdir)


def _on_held_out(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Evaluates on the validation split; writes eval.json."""
  run = setup_lib.setup(config, workdir)
  jax.set_mesh(run.mesh)
  source, params = setup_lib.load_weights(run)
  frozen = setup_lib.load_frozen(run)
  run.workdir.mkdir(parents=True, exist_ok=True)
  results = run.evaluation().of(params, frozen) | train_mode.gradient_noise(
      run, params, frozen, run.objective.init_state())
  if jax.process_index() == 0:
    files.write_json(run.workdir / "eval.json", results | {"checkpoint": source})
  for name, value in results.items():
    console.say(f"{name:<24} {value:.6g}")
  return results


def _on_task(config: dict[str, Any], workdir: str) -> dict[str, Any]:
  """Decodes the test problems of a task; writes generations.jsonl and results.json.

  Args:
    config: as in configs/eval.py.
    workdir: of the run; an evaluation that was cut short resumes.

  Returns:
    accuracy, stderr and reward as fractions, the 95 % interval of the accuracy (Wilson's; with
    several answers to a problem 1.96 standard errors over the problems), over_denoising (None with
    a cache), nfe, num_examples, seconds, tokens_per_second, and pass_at_k, of `repeated.figures`;
    the means of the task's own measures, and their standard errors over the problems.
  """
  return on_task(config, workdir, loaded([config], workdir))


class Model(NamedTuple):
  """A model to evaluate, and where it is from."""
  source: str
  model: model_lib.Model


def loaded(configs: Sequence[Mapping[str, Any]], workdir: str) -> Model:
  """Loads the model of evaluations, training it where it is missing.

  Args:
    configs: of evaluations of one model that differ in how they decode; all are checked first.
    workdir: of the run.

  Raises:
    ValueError: an evaluation that cannot be.
  """
  for config in configs:
    _check(config)
  config = configs[0]
  task = tasks.build(config["task"])
  if base_lib.is_missing(config, workdir):  # what is wrong is said before it is trained
    base = base_lib.described(config, workdir, sharding.make_mesh(config["mesh"]))
    for one in configs:
      _prompts(base, one, task, _examples(one, task))
  source = base_lib.base_checkpoint(config, workdir, train_mode.run)
  return Model(source, model_lib.load(source, params=config["init"]["params"], mesh=config["mesh"],
                                      dtype=config["dtype"], init=config["init"]))


def _examples(config: Mapping[str, Any], task: types.Task) -> list[dict[str, Any]]:
  """Problems of the split, each as often as it is answered."""
  examples = task.examples(config.get("split", "test"))[:config["num_examples"] or None]
  return [example for example in examples for _ in range(config.get("num_samples", 1))]


def on_task(config: Mapping[str, Any], workdir: str | os.PathLike, model: Model) -> dict[str, Any]:
  """Evaluates a model on a task, as said for mode eval; a finished evaluation is not repeated."""
  source, model = model
  task, path = tasks.build(config["task"]), pathlib.Path(workdir)
  examples, number = _examples(config, task), config.get("num_samples", 1)
  sampler, prompts = _prompts(model, config, task, examples)
  workdir_lib.check_job(path, config, lambda: prompts.tokens.tolist())
  params = model.decoding_params(sampler)
  identity = config_lib.run_hash({
      "source": os.path.abspath(source), "weights": checksum.of_items({"params": params}),
      "init": base_lib.loading(config["init"]),
      "seed": config["seed"],
      "dtype": config["dtype"], "sampler": repr(sampler), "prompts": prompts.tokens.tolist(),
      "references": [e.get("answer", "") for e in examples], "task": repr(task),
      "pass_k": list(config.get("pass_k", ())), **_turns(config)})
  results_file = path / "results.json"
  if results_file.exists():
    results = readers.read_object(results_file)
    if results.get("identity") == identity:
      console.say("this evaluation is finished; remove its workdir to run it again.")
      _print_results(results, path)
      return results
  console.say(f"{type(sampler).__name__}: {len(examples) // number} problems, {number} answer(s) "
              f"of {sampler.gen_length} tokens in {sampler.steps} steps to each, from {source}, "
              f"{jax.device_count()} {jax.devices()[0].platform} device(s)")
  if not _sees_steps(sampler, config):
    console.say("with a cache, several turns or a search only final answers are recorded: "
                "over-denoising is not measured.")
  table = files.PartialRows(path / "generations.jsonl", identity)
  with jax.set_mesh(model.mesh):
    seconds, pace = _decode(model, params, sampler, prompts, task, examples, config, table)
  table.finish()
  rows = [table.rows[i] for i in range(len(examples))]
  column = lambda name, dtype: np.array([row[name] for row in rows], dtype)
  best = column("best_of_steps", bool) if _sees_steps(sampler, config) else None
  found = task_eval.summarize(column("correct", bool), best, column("score", np.float64),
                              column("nfe", np.float64))
  results = {k: v for k, v in found._asdict().items() if k != "over_denoised"}
  grouped = lambda name, dtype: column(name, dtype).reshape(-1, number)
  answers = repeated.Repeated(grouped("correct", bool), grouped("log_prob", np.float64))
  if number > 1:  # answers to one problem are alike, so it counts as one unit
    first, = repeated.figures(answers, (1,))
    error = 1.96 * first["stderr"]
    results |= {"stderr": first["stderr"], "num_examples": first["num_examples"],
                "interval_low": max(first["pass_at_k"] - error, 0.0),
                "interval_high": min(first["pass_at_k"] + error, 1.0)}
  else:
    interval = stats.binomtest(sum(row["correct"] for row in rows), len(rows)).proportion_ci(
        method="wilson")
    results |= {"interval_low": float(interval.low), "interval_high": float(interval.high)}
  results |= {"pass_at_k": repeated.figures(answers, config.get("pass_k", ())),
              "seconds": seconds, "tokens_per_second": pace, "checkpoint": source,
              "identity": identity} | task_eval.described(task) | _measures(rows, number)
  if jax.process_index() == 0:
    files.write_json(results_file, results)
    _export(path, rows)
  _print_results(results, path)
  return results


def _turns(config: Mapping[str, Any]) -> dict[str, int]:
  """Keys of episodes; {} of answers of one turn."""
  names = ("max_turns", "max_reply_length")
  return {name: config[name] for name in names} if config.get("max_turns", 1) > 1 else {}


def _measures(rows: Sequence[Mapping[str, Any]], number: int) -> dict[str, float]:
  """Means of the task's own measures, and standard errors of `number` answers to each problem."""
  found = {}
  for name in rows[0].get("measures", {}):
    values = np.array([row["measures"][name] for row in rows], np.float64)
    each = values.reshape(-1, number).mean(axis=1)
    found[name] = float(values.mean())
    if len(each) > 1:
      found[f"{name}_stderr"] = float(each.std(ddof=1) / math.sqrt(len(each)))
  return found


def _export(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes the right transcripts of several turns as conversations, for `data.source.name=chat`."""
  right = [row["messages"] for row in rows if row["correct"] and "messages" in row]
  if right:
    distinct = dict.fromkeys(json.dumps({"messages": x}, ensure_ascii=False) for x in right)
    files.write_text(path / TRANSCRIPTS, "".join(f"{line}\n" for line in distinct))


def _sees_steps(sampler: Any, config: Mapping[str, Any]) -> bool:
  """Whether the prediction of every step is recorded."""
  return sampler.cache == "none" and not sampler.searches and not _turns(config)


def _prompts(model: load_lib.Loaded, config: Mapping[str, Any], task: Any, examples):
  """The sampler and the encoded problems; ValueError for what cannot be decoded."""
  sampler = model.sampler(**config["sampler"])
  prompts = task_eval.encode_prompts(
      [task.prompt(e) for e in examples], model.tokenizer, max_length=config["max_prompt_length"],
      blank=task.blank, prompt_format=config["prompt_format"], system=config["system"])
  if _turns(config):
    episodes_lib.check_window(prompts, sampler, task, max_length=model.max_length,
                              **_turns(config))
  else:
    task_decoder.check_prompts(prompts, sampler, model.max_length)
  return sampler, prompts


def _decode(model, params, sampler, prompts, task, examples, config, table
            ) -> tuple[float, float | None]:
  """Decodes what is not in the table, adding to it.

  Returns the seconds it took, and the tokens a second of the fastest batch, None without one.
  """
  decoder = task_decoder.TaskDecoder(model.objective, sampler, prompts, model.mesh,
                                     name="eval", seed=config["seed"],
                                     record="full" if _sees_steps(sampler, config) else "commits")
  if _turns(config):
    decoder = episodes_lib.Episodes(decoder, prompts, sampler, task, examples, model.tokenizer,
                                    **_turns(config))
  size, shards = config["batch_size"], sharding.num_batch_shards(model.mesh)
  number = config.get("num_samples", 1)
  progress = progress_lib.Progress(len(examples), enabled=jax.process_index() == 0,
                                   what="decoding")
  began, paces, log_probs, turns, texts = time.monotonic(), [], {}, {}, {}

  def decode(index):
    first = time.monotonic()
    record, rows = decoder(params, index, 0, row_index=index)
    record = processes.fetch(record)
    paces.append(float(record.is_free.sum()) / (time.monotonic() - first))
    log_probs.update(zip(index.tolist(), record.log_prob.sum(axis=1).tolist()))
    answers = task_eval.answers_of(record, model.tokenizer)
    if not isinstance(decoder, episodes_lib.Episodes):
      texts.update(zip(index.tolist(), answers.texts))
      return answers
    found = decoder.turns(record.tokens, processes.fetch(rows["segment_ids"]))
    turns.update(zip(index.tolist(), found))
    texts.update(zip(index.tolist(), ("".join(turn.content for turn in row) for row in found)))
    return answers._replace(texts=[texts[i] for i in index.tolist()])

  for part in task_eval.scored_batches(
      decode, task, examples, model.tokenizer, -(-min(size, len(examples)) // shards) * shards,
      skip=lambda i: i in table.rows):
    index = part.index.tolist()
    figures = task.measures([examples[i] for i in index], [texts[i] for i in index]) if (
        isinstance(task, types.Measured)) else {}
    for row, i in enumerate(index):
      if i not in table.rows:
        more = {"measures": {k: float(v[row]) for k, v in figures.items()}} if figures else {}
        if i in turns:
          more["messages"] = [{"role": "user", "content": task.prompt(examples[i])},
                              *(turn._asdict() for turn in turns[i])]
        table.add(i, {"id": i // number, "sample": i % number,
                      "prompt": task.prompt(examples[i]), "completion": texts[i],
                      "reference": examples[i].get("answer", ""), "score": float(part.reward[row]),
                      "correct": bool(part.correct[row]),
                      "best_of_steps": None if part.best is None else bool(part.best[row]),
                      "nfe": int(part.nfe[row]), "log_prob": log_probs[i]} | more)
    progress.update(len(table.rows))
  progress.close()
  return time.monotonic() - began, max(paces, default=None)


def _print_results(results, path) -> None:
  low, high = 100 * results["interval_low"], 100 * results["interval_high"]
  over = results["over_denoising"]
  shown = [name.removesuffix("_stderr") for name in results if name.endswith("_stderr")]
  for name in shown:
    console.say(f"{name:<14} {results[name]:8.3f} +- {results[f'{name}_stderr']:.3f}")
  for row in results.get("pass_at_k", ()):
    console.say(f"k = {row['k']:<3} pass@k {100 * row['pass_at_k']:5.1f} %   most likely of k "
                f"{100 * row['best_of_k']:5.1f} %")
  console.say(
      f"\naccuracy {100 * results['accuracy']:.1f} % of {results['num_examples']} problems "
      f"(95 % interval {low:.1f} to {high:.1f}), "
      + ("" if over is None else f"{100 * over:.1f} % over-denoised, ")
      + f"{results['nfe']:.1f} network calls a problem\n"
      f"see {path}/generations.jsonl and results.json")
