"""Mode rl: improve a diffusion model by reinforcement learning, and measure it.

Contents: run, rollouts.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import metrics as metrics_lib
from mdx import sharding
from mdx import tasks
from mdx import types
from mdx.build import base as base_lib
from mdx.build import load as load_lib
from mdx.build import resolve
from mdx.build import rl as rl_setup
from mdx.build import workdir as workdir_lib
from mdx.eval import rules as rules_lib
from mdx.eval import tasks as task_eval
from mdx.modes import measuring
from mdx.modes import reporting
from mdx.modes import solving
from mdx.modes import train as train_mode
from mdx.report import plots
from mdx.report import words
from mdx.rl import rollout as rollout_lib
from mdx.train import loop as loop_lib
from mdx.train import meter as meter_lib
from mdx.train import progress as progress_lib
from mdx.train import state as state_lib
from mdx.utils import console
from mdx.utils import files
from mdx.utils import memory
from mdx.utils import readers
from mdx.utils import rng
from mdx.utils import tree

# Further figures of the learning curve.
_MORE = re.compile(r"accuracy_\d+_steps|(best|worst)_of_\d+|win_rate|kl")


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Trains the base model if there is none, runs RL, evaluates; resumes where it stopped."""
  began = time.monotonic()
  rl_setup.check(config := config_lib.to_dict(config))
  task = tasks.build(config["task"])
  task.examples("train")
  if base_lib.is_missing(config, workdir):  # what is wrong is said before it is trained
    base = base_lib.described(config, workdir, sharding.make_mesh(config["mesh"]))
    optimizer = resolve.trained({**config, "network": base.config["network"]}, base.source)
    _checked({**config, "optimizer": optimizer}, workdir, base, task)  # its notes come later
  source = base_lib.base_checkpoint(config, workdir, train_mode.run)
  base_seconds = time.monotonic() - began
  stop = progress_lib.StopSignal()
  try:
    config["optimizer"] = resolve.trained(config, source)
    model = load_lib.load(source, params=config["init"]["params"], mesh=config["mesh"],
                           dtype=config["dtype"], remat=config.get("remat", ""),
                           init=config["init"], adapters=config.get("lora"),
                           adaptations=config.get("adaptations", ()), seed=config["seed"],
                           trains=rl_setup.optimizer_of(config).trains)
    parts, notes = _checked(config, workdir, model, task)
    for note in notes:
      console.say(note)
    workdir_lib.check_job(parts.workdir, parts.config, lambda: _ends(task))
    with jax.set_mesh(parts.model.mesh):
      return _train(parts, stop, base_seconds)
  finally:
    stop.close()


def _ends(task: types.Task) -> list[Any]:
  """The number of training problems, the first and the last of them."""
  examples = task.examples("train")
  return [len(examples), examples[0], examples[-1]]


def _checked(config: Mapping[str, Any], workdir: str, model: load_lib.Loaded,
             task: types.Task) -> tuple[rl_setup.Setup, list[str]]:
  """The parts of a run, all checked that can be before the first compile, and notes on its data."""
  run = rl_setup.assemble(config, workdir, model, task)
  notes = rl_setup.check_data(run)
  memory.check("the state of this run", run.shapes)
  if not run.placement.is_home:
    memory.check("the state of this run with the weights of rollout.mesh",
                 (run.shapes, run.placement.shapes(run.shapes.params)))
  return run, notes


def _train(run: rl_setup.Setup, stop: progress_lib.StopSignal,
           base_seconds: float) -> dict[str, Any]:
  config, model = run.config, run.model
  workdir_lib.claim_workdir(run.workdir, config, model.tokenizer, run.shapes)
  results_file = run.workdir / "results.json"
  if not config["updates"]:
    return _finish(run, {"base": run.begun(model.params)}, base_seconds)
  checkpoints = checkpoint_lib.Checkpoints(run.workdir, **config["checkpoint"])
  meta = workdir_lib.meta(config, model.tokenizer)
  start, state, saved = _start(run, checkpoints, meta)
  if start >= config["updates"] and results_file.exists():
    console.say("this run is finished; remove its workdir to train again.")
    results = readers.read_object(results_file)
    _show(results)
    return results
  rollout = config["rollout"]
  console.say(
      f"{config['objective']['name']}: {tree.count(state.params):,} parameters, "
      f"{rollout['num_prompts']} prompts x {rollout['group_size']} rollouts, "
      f"{rollout['epochs']} update(s) on each, {config['updates']} updates, "
      f"{jax.device_count()} {jax.devices()[0].platform} device(s)")
  clock = meter_lib.Clock(run.workdir, start)
  writers = metrics_lib.open_writers(str(run.workdir), config, resume_step=start,
                                     is_main=jax.process_index() == 0)
  quick = measuring.quick_evaluator(run)
  if start == 0:
    writers.write(0, "eval", quick(state.params))
  produce = rollouts(run, writers)
  state, _ = loop_lib.fit(
      state, run.step(), None, start=start, intervals=run.intervals, mesh=model.mesh,
      writers=writers, checkpoints=checkpoints, meta=meta, window=saved.get("window"), stop=stop,
      frozen=run.reference, next_batch=produce, unit=rollout["epochs"],
      evaluate=lambda state, step: quick(state_lib.averaged(state)), clock=clock,
      also=produce.latest,
      profile=loop_lib.Profile(config.get("profile_steps", ()), run.workdir / "profile"))
  checkpoints.close()
  clock.close()
  stop.saved = True
  params = state_lib.averaged(state)
  writers.write(config["updates"], "eval", quick(params))
  writers.close()
  return _finish(run, {"base": model.params, config["objective"]["name"]: params}, base_seconds)


def _finish(run: rl_setup.Setup, models: Mapping[str, Any], base_seconds: float) -> dict[str, Any]:
  """Evaluates, and writes what the run gives."""
  began = time.monotonic()
  traces: Mapping[int, Any] = {}
  if run.policy.trains_rule:  # the model is the same before and after
    *_, params = models.values()
    found = {"rules": measuring.rules(run, params)}
  else:
    table, speeds, traces = measuring.evaluate(run, models)
    found = {"table": table, "pass_at_k": measuring.pass_at_k(run, models),
             "tokens_per_second": speeds} | measuring.win_rates(run, models)
  file = run.workdir / "metrics.jsonl"
  lines = metrics_lib.read(file) if file.exists() and jax.process_index() == 0 else []
  results = found | task_eval.described(run.task) | _counts(lines, run.config) | {
          "curve": _curve(lines, run.config["eval"]["curve_nfe"]),
          "seconds": _seconds(lines, base=base_seconds, evaluate=time.monotonic() - began)}
  if jax.process_index() == 0:
    _report(run, results, lines, traces)
  return results


def _start(run: rl_setup.Setup, checkpoints: checkpoint_lib.Checkpoints, meta: Mapping[str, Any]):
  """The step to go on with, its state and what was saved beside it; or the base model's."""
  restored = checkpoints.restore(run.shapes.items())
  shardings = jax.tree.map(lambda x: x.sharding, run.shapes)
  if restored is not None:
    step, items = restored
    saved = items.pop("meta")
    workdir_lib.check_meta(run.workdir, saved, meta)
    console.say(f"resuming from update {step} of {run.workdir}")
    step_count = jax.device_put(np.int32(step), shardings.step)
    return step, state_lib.State(step=step_count, **items), saved
  begin = run.begin()
  # Trained parameters are copied, for the reference keeps the base model's buffers when the state's
  # are donated; the others are shared.
  trains, params = run.optimizer.trains, run.begun(run.model.params)
  copied = tree.map_with_path(lambda path, x: jnp.copy(x) if trains(path) else x, params)
  rest = jax.jit(lambda params: begin(params)._replace(params={}),
                 out_shardings=shardings._replace(params={}))
  return 0, rest(params)._replace(params=copied), {}


def rollouts(run: rl_setup.Setup, writers) -> rollout_lib.Rollouts:
  """The producer of batches."""
  config = run.config
  score = None
  if run.policy.is_scored(config["rollout"]["epochs"]):

    @jax.jit
    def score(params, batch, step):
      key = rng.stream(rng.root(config["seed"]), "train", step)
      prepared, _ = run.policy.prepare(params, batch, key, types.context(step))
      return run.policy.scores(params, prepared)

  prompts, examples = run.prompts("train"), run.examples("train")
  fits = run.trained_on(prompts)
  choose = lambda params, epoch: fits
  if config["rollout"]["filter"] == "over_denoising":
    first_only = config["rollout"]["filter_once"]
    choose = lambda params, epoch: _over_denoised(run, params, 0 if first_only else epoch)
  return rollout_lib.Rollouts(
      run.turns(run.decoder(prompts), prompts, run.sampler, examples), run.task, examples,
      run.model.tokenizer,
      mesh=run.model.mesh, place=run.placement.weights, rewards=config["rollout"]["rewards"],
      calibration=run.calibration(prompts, examples), phi=run.phi,
      max_refills=config["rollout"]["max_refills"] * config["rollout"]["dynamic_sampling"],
      branch_steps=run.branch_steps,
      pass_rate=config["rollout"].get("pass_rate", ()),
      num_prompts=config["rollout"]["num_prompts"], group_size=config["rollout"]["group_size"],
      batch_size=run.rows_together, epochs=config["rollout"]["epochs"], seed=config["seed"],
      writers=writers, score=score, choose=choose, say=console.say)


def _over_denoised(run: rl_setup.Setup, params, epoch: int) -> np.ndarray:
  """Training examples that a greedy decode has right on the way and wrong at the end.

  Kept in the workdir, so that a resumed run goes through the same ones.
  """
  file = run.workdir / f"over_denoised_{epoch}.json"
  if file.exists():
    return np.array(readers.read_json(file), np.int32)
  examples, prompts = run.examples("train"), run.prompts("train")
  fits = run.trained_on(prompts)
  draw = np.random.default_rng([run.config["seed"], epoch, 1])
  order = draw.permutation(len(fits))[:run.config["rollout"]["filter_examples"] or None]
  chosen = np.sort(fits[order])
  result = measuring.arm(run, run.filter_sampler(), prompts.select(chosen),
                [examples[i] for i in chosen])(params).result
  kept = chosen[result.over_denoised]
  console.say(f"epoch {epoch}: {len(kept)} of {len(chosen)} training problems are over-denoised")
  if not len(kept):
    raise ValueError("rollout.filter over_denoising leaves no training problem; use filter none, "
                     "or a larger rollout.filter_examples.")
  if jax.process_index() == 0:
    files.write_json(file, kept.tolist())
  return kept


def _counts(lines, config) -> dict[str, float]:
  """Cost of the run: updates, rollouts, their network calls, and the mean share of groups whose
  rewards do not vary."""
  rollouts = [line for line in lines if line.get("kind") == "rollout"]
  dead = [line["dead_groups"] for line in rollouts if line.get("dead_groups") is not None]
  return {"updates": config["updates"],
          "rollouts": int(sum(line["num_rollouts"] for line in rollouts)),
          "nfe_rollout": int(round(sum(line["nfe"] * line["num_rollouts"] for line in rollouts)))
          } | ({"dead_groups": statistics.mean(dead)} if dead else {})


def _seconds(lines, **more: float) -> dict[str, float]:
  """Seconds by stage, also over restarts."""
  rollouts = [line for line in lines if line.get("kind") == "rollout"]
  return dict(more, **{stage: sum(line.get(f"{stage}_seconds", 0.0) for line in rollouts)
                       for stage in ("rollout", "score", "update")})


def _curve(lines, nfe: int) -> list[dict[str, float]]:
  """Accuracy on the validation split in `nfe` steps, against what had been spent until then.

  `seconds` is the number of iterations times the median of one, so it is free of compilation.
  """
  stages = ("rollout_seconds", "score_seconds", "update_seconds")
  has = lambda x, *names: all(x.get(name) is not None for name in names)  # unless it is damaged
  rollouts = list({x["step"]: x for x in lines if x["kind"] == "rollout"
                   and has(x, *stages, "num_rollouts", "nfe")}.values())
  pace = statistics.median(sum(x[k] for k in stages) for x in rollouts) if rollouts else 0.0
  points = {x["step"]: x for x in lines if x["kind"] == "eval"
            and has(x, "accuracy", "accuracy_stderr")}
  found = []
  for step, point in sorted(points.items()):
    before = [x for x in rollouts if x["step"] <= step]
    found.append({"updates": step, "rollouts": sum(x["num_rollouts"] for x in before),
                  "nfe_rollout": round(sum(x["nfe"] * x["num_rollouts"] for x in before)),
                  "seconds": pace * len(before), "nfe": point.get("nfe", nfe),
                  "accuracy": point["accuracy"],
                  "stderr": point["accuracy_stderr"],
                  "over_denoising": point.get("over_denoising")}
                 | {k: v for k, v in point.items() if _MORE.fullmatch(k)})
  return found


def _show(results) -> None:
  """Prints the table of a run, of models or of decoding rules."""
  if "rules" in results:
    console.say("\n" + rules_lib.table_text(results["rules"]))
  else:
    _show_table(results["table"])


def _show_table(table) -> None:
  """Prints accuracy (over-denoising) in percent, models in colours of their own."""
  steps = sorted({row["nfe"] for row in table})
  arms = list(dict.fromkeys((row["model"], row["remasking"]) for row in table))
  names = {(model, remasking): model + (" + RCR" if remasking == "rcr" else "")
           for model, remasking in arms}
  width = max(map(len, names.values())) + 1
  lines = [[("", "")], [("right answers, % (over-denoised)", "bold")],
           [(" " * width + "".join(f"{f'{n} steps':>14}" for n in steps), "bold")]]
  for model, remasking in arms:
    cells = {row["nfe"]: f"{100 * row['accuracy']:.1f}" + (
        "" if row["over_denoising"] is None else f" ({100 * row['over_denoising']:.1f})")
             for row in table if (row["model"], row["remasking"]) == (model, remasking)}
    style = "" if model == "base" else "green"
    lines.append([(f"{names[model, remasking]:<{width}}", style),
                  ("".join(f"{cells[n]:>14}" for n in steps), style)])
  error = max(row["stderr"] for row in table)
  console.table([*lines, [(f"{table[0]['num_examples']} held-out problems, standard error at most "
                           f"{100 * error:.1f}", "dim")]])


def _report(run: rl_setup.Setup, results, lines, traces) -> None:
  """Writes results.json, the plots and the viewer; prints the table."""
  files.write_json(run.workdir / "results.json", results)
  name = run.config["objective"]["name"]
  picture = "decoding.png" if "rules" in results else "accuracy.png"
  if "rules" in results:
    plots.rules(results["rules"], run.workdir / picture)
  else:
    plots.accuracy(results["table"], run.workdir / picture, title=name)
  if lines:
    plots.rl_curve(lines, run.workdir / "learning_curve.png", title=name)
  if traces:  # of every step; there are none of several turns
    solving.write(run.workdir, traces, run.model.tokenizer, name)
  _show(results)
  stages = {k: v for k, v in results["seconds"].items() if v >= 0.5}
  spent = ", ".join(f"{k} {words.duration(v)}" for k, v in stages.items())
  console.say(f"{results['updates']} updates, {results['rollouts']} rollouts, "
              f"{results['nfe_rollout']} network calls of rollouts\n"
              f"{words.duration(sum(results['seconds'].values()))} in all: {spent}\n"
              f"see {os.path.join(run.workdir, '')}: results.json, {picture}"
              f"{', learning_curve.png' if lines else ''}"
              f"{', trajectories.html' if traces else ''}")
