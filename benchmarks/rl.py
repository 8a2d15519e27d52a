r"""Seconds of every stage of an RL iteration.

For each objective the default run of configs/mdpo.py for some updates, without its evaluations:
rollout (the compiled sampler with its record), score (the verifier on every step's prediction) and
update, the median over iterations, so without compilation; and the share of the slowest stage.
  python benchmarks/rl.py --base=runs/mdpo/base --updates=30
"""

import argparse
import json
import pathlib
import statistics
import tempfile

from mdx.utils import malloc


def main():
  """Prints one JSON object an objective."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--base", required=True, help="workdir of the base model of configs/mdpo.py")
  parser.add_argument("--updates", type=int, default=30)
  parser.add_argument("--steps", type=int, nargs="*", default=[3, 16], help="denoising steps")
  args = parser.parse_args()
  malloc.tune_cpu()
  from mdx import modes  # pylint: disable=g-import-not-at-top  (after the CPU is set up)
  from mdx.configs import mdpo  # pylint: disable=g-import-not-at-top
  for steps in args.steps:
    for name in ("mdpo", "diffu_grpo", "wd1", "coupled_grpo"):
      config = mdpo.get_config()
      config.update(updates=args.updates, eval_steps=0, checkpoint_steps=args.updates)
      config.init.checkpoint = args.base
      config.rollout.sampler.steps = steps
      if name != "mdpo":
        config.objective = dict(name=name)
      config.eval.update(nfe=(2,), remasking=("low_confidence",), num_examples=16)
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


if __name__ == "__main__":
  main()
