"""Pictures of the documentation, made from runs.

  python docs/animation.py --workdir=runs/mdpo

reads a finished (or unfinished) run of configs/mdpo.py, decodes the first held-out problems by its
base model and by the trained one in few steps, and writes docs/images/denoising.svg.
"""

import argparse
import json
import pathlib

import mdx
from mdx import tasks
from mdx.modes import solving
from mdx.report import denoising
from mdx.report import words

_OUTPUT = pathlib.Path(__file__).parent / "images" / "denoising.svg"


def decoded(checkpoint: str, task, examples, steps: int, params: str):
  """Traces of the most confident decode of some problems, with their verdicts; and the model."""
  model = mdx.load(checkpoint, params=params)
  text = lambda token: model.tokenizer.decode([token])
  prompts = [task.prompt(e) for e in examples]
  if task.blank:
    prompts = [prompt.replace(task.blank, "[MASK]") for prompt in prompts]
  samples = model.sample(prompts, name="confidence", temperature=0.0, steps=steps,
                         gen_length=task.answer_length, batch_size=len(prompts), record="canvas")
  is_right = task.score(examples, [sample.text for sample in samples])["correct"]
  return model, [denoising.drawn(sample.trace._replace(is_right=bool(right)), task, example, text,
                                 model.tokenizer.mask_id)
                 for sample, right, example in zip(samples, is_right, examples)]


def draw(workdir: str, output: pathlib.Path, steps: int, count: int) -> dict[str, int]:
  """Writes the animation; returns how many problems each model has right."""
  config = json.loads((pathlib.Path(workdir) / "config.json").read_text())["config"]
  task, name = tasks.build(config["task"]), config["objective"]["name"]
  examples = task.examples("test")[:count]
  base = config["init"]["checkpoint"] or str(pathlib.Path(workdir) / "base")
  _, before = decoded(base, task, examples, steps, config["init"]["params"])
  model, after = decoded(workdir, task, examples, steps, "ema")
  output.parent.mkdir(parents=True, exist_ok=True)
  solving.animate(output, {"base": before, name: after}, model.tokenizer, name, steps)
  return {"base": sum(t.is_right for t in before), name: sum(t.is_right for t in after)}


def main():
  """Reads the flags."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True, help="of a run of configs/mdpo.py")
  parser.add_argument("--output", type=pathlib.Path, default=_OUTPUT)
  parser.add_argument("--steps", type=int, default=2, help="denoising steps")
  parser.add_argument("--count", type=int, default=8, help="problems")
  args = parser.parse_args()
  right = draw(args.workdir, args.output, args.steps, args.count)
  print(f"{args.output}: of {args.count} problems " + ", ".join(
      f"{words.label(name)} {number} right" for name, number in right.items()))


if __name__ == "__main__":
  main()
