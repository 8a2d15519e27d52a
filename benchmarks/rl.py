r"""An RL iteration of mdx against PyTorch, and the seconds of its stages.

  python benchmarks/rl.py --base=runs/mdpo/base --seconds=120

One iteration of `configs/mdpo.py:mdpo` (rollouts, verdicts, update) and the same in PyTorch
(`rl_torch.py`) on the same weights, problems and verifier: `torch` with all rows of an iteration in
one batch, `torch_published` with one rollout, then one denoising step of one rollout a pass, as the
published trainer runs. Every side is a process of its own, PyTorch with one thread; blocks of
iterations take turns, and what counts is the median of CPU-seconds over the blocks, with the least
beside it. Needs torch (extra `parity`).
  python benchmarks/rl.py --base=runs/mdpo/base --stages
prints instead, for every policy, the median seconds of the stages of an iteration: rollout (the
compiled sampler with its record), score (the verifier on every step's prediction) and update.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from mdx.utils import malloc

# pylint: disable=g-import-not-at-top

_SIDES = ("mdx", "torch", "torch_published")


def _config(base: str, name: str, steps: int, updates: int):
  from mdx.configs import mdpo
  config = mdpo.get_config(name)
  config.update(updates=updates, eval_steps=0, checkpoint_steps=updates)
  config.init.checkpoint = base
  config.rollout.sampler.steps = steps
  config.eval.update(nfe=(2,), remasking=("low_confidence",), num_examples=16, pass_k=())
  return config


def _mdx_side(base: str, steps: int):
  """Returns a function that runs n iterations of mdx."""
  malloc.tune_cpu()
  import jax

  from mdx import metrics
  from mdx import tasks
  from mdx.build import load
  from mdx.build import rl as rl_setup
  from mdx.modes import rl as rl_mode
  config = _config(base, "mdpo", steps, 100_000).to_dict()
  model = load.load(base, mesh=config["mesh"], trains=rl_setup.optimizer_of(config).trains)
  run = rl_setup.assemble(config, tempfile.mkdtemp(), model, tasks.build(config["task"]))
  jax.set_mesh(model.mesh)
  state = run.begin()(jax.tree.map(lambda x: x.copy(), model.params))
  writers = metrics.open_writers(str(run.workdir), config, resume_step=0, is_main=True)
  produce, step, number = rl_mode.rollouts(run, writers), run.step(), 0

  def iterate(iterations):
    nonlocal state, number
    for _ in range(iterations):
      state, found = step(state, produce(state, number), run.reference)
      number += 1
    jax.block_until_ready(found)

  return iterate


def _torch_side(base: str, steps: int, rows_together: int):
  """Returns a function that runs n iterations of the peer."""
  import torch

  import mdx
  import rl_torch
  from mdx import tasks
  torch.set_num_threads(1)
  torch.manual_seed(0)
  config = _config(base, "mdpo", steps, 1)
  trainer = rl_torch.Trainer(mdx.load(base), tasks.build(config.task.to_dict()), config,
                             rows_together=rows_together)
  return trainer.run


def serve(side: str, base: str, steps: int) -> None:
  """Runs blocks of iterations on request: a number in, CPU-seconds out, a line each."""
  run = (_mdx_side(base, steps) if side == "mdx" else
         _torch_side(base, steps, int(side == "torch_published")))
  run(2)
  print("ready", flush=True)
  for line in sys.stdin:
    began = time.process_time()
    run(int(line))
    print(time.process_time() - began, flush=True)


class _Worker:
  """One side in a process of its own."""

  def __init__(self, side: str, base: str, steps: int):
    command = [sys.executable, __file__, "--serve", side, "--base", base, "--steps", str(steps)]
    self._process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in self._process.stdout:  # warnings come before it
      if line.strip() == "ready":
        return
    raise SystemExit(f"{side} failed to start: {' '.join(command)} shows why.")

  def seconds(self, iterations: int) -> float:
    """CPU-seconds an iteration."""
    self._process.stdin.write(f"{iterations}\n")
    self._process.stdin.flush()
    return float(self._process.stdout.readline()) / iterations

  def stop(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


def compare(base: str, steps: int, seconds: float) -> dict[str, float]:
  """CPU-seconds of an iteration of each side, blocks taking turns."""
  workers = {side: _Worker(side, base, steps) for side in _SIDES}
  found = {side: [] for side in _SIDES}
  end = time.monotonic() + seconds
  while time.monotonic() < end or len(found["mdx"]) < 3:
    for side, worker in workers.items():
      found[side].append(worker.seconds(1 if side == "torch_published" else 4))
  for worker in workers.values():
    worker.stop()
  row = {"steps": steps}
  for side, values in found.items():
    row |= {f"{side}_cpu_seconds": round(statistics.median(values), 4),
            f"{side}_least": round(min(values), 4)}
  return row | {f"{side}_over_mdx": round(row[f"{side}_cpu_seconds"] / row["mdx_cpu_seconds"], 2)
                for side in _SIDES[1:]}


def stages(base: str, steps: int, updates: int) -> None:
  """Prints the median seconds of the stages of every policy."""
  from mdx import modes
  from mdx import objectives
  for name in objectives.POLICIES:
    config = _config(base, name, steps, updates)
    with tempfile.TemporaryDirectory() as workdir:
      modes.run("rl", config, workdir)
      text = pathlib.Path(workdir, "metrics.jsonl").read_text(encoding="utf-8")
    lines = [x for x in map(json.loads, text.splitlines()) if x["kind"] == "rollout"]
    row = {stage: statistics.median(x[f"{stage}_seconds"] for x in lines)
           for stage in ("rollout", "score", "update")}
    total = sum(row.values())
    row |= {"iteration": total, "rollouts_per_second": lines[-1]["num_rollouts"] / total}
    print(json.dumps({"objective": name, "steps": steps} | {
        k: round(v, 4) for k, v in row.items()}), flush=True)


def main() -> None:
  """Prints one JSON object a number of steps, or a policy."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--base", required=True, help="workdir of the base model of configs/mdpo.py")
  parser.add_argument("--steps", type=int, nargs="*", default=[3], help="denoising steps")
  parser.add_argument("--seconds", type=float, default=120, help="measured, for each of the steps")
  parser.add_argument("--stages", action="store_true", help="the stages of every policy instead")
  parser.add_argument("--updates", type=int, default=30, help="of --stages")
  parser.add_argument("--serve", choices=_SIDES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args.serve, args.base, args.steps[0])
    return
  if args.stages:
    malloc.tune_cpu()
  for steps in args.steps:
    if args.stages:
      stages(args.base, steps, args.updates)
    else:
      print(json.dumps(compare(args.base, steps, args.seconds)), flush=True)


if __name__ == "__main__":
  main()
