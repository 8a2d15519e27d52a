"""Problems of a task being solved: traces with verdicts, as a viewer and an animation.

Contents: traces, write, animate, transcripts, write_transcripts.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import tasks as task_eval
from mdx.report import denoising
from mdx.report import side_by_side
from mdx.report import words
from mdx.rl import episodes as episodes_lib
from mdx.samplers import trajectory
from mdx.utils import files

_COUNT = 8  # problems that are shown


def traces(task: types.Task, examples: Sequence[Mapping[str, Any]], record: trajectory.Trajectory,
           tokenizer: tokenizer_lib.Tokenizer, name: str) -> list[denoising.Trace]:
  """Returns the first rows of a full record, each step with its verdict.

  Args:
    task: whose problems were decoded.
    examples: of the rows, in their order.
    record: on the host.
    tokenizer: of the model.
    name: of the model or rule.
  """
  examples = examples[:_COUNT]
  count, found = len(examples), []
  _, correct = task_eval.score_steps(task, examples, tokenizer, record.prediction[:count],
                                     record.nfe[:count])
  for row, example in enumerate(examples):
    nfe = int(record.nfe[row])
    texts = task_eval.completions(record.prediction[row, :nfe], tokenizer)
    notes = [f"prediction {text} {'right' if right else 'wrong'}"
             for text, right in zip(texts, correct[row])]
    is_right = bool(correct[row, nfe - 1])
    trace = denoising.from_trajectory(
        record, row, tokenizer.mask_id, prompt=task.prompt(example),
        title=name,
        notes=notes + ["final answer"])
    trace = trace._replace(example=f"problem {row + 1}, {nfe} steps", is_right=is_right)
    found.append(denoising.drawn(trace, task, example, lambda i: tokenizer.decode([i]),
                                 tokenizer.mask_id))
  return found


def write(workdir: pathlib.Path, found: Mapping[int, Mapping[str, Sequence[denoising.Trace]]],
          tokenizer: tokenizer_lib.Tokenizer, trained: str) -> None:
  """Writes `trajectories.html` and, of a task that draws its answers, `denoising.svg`.

  Args:
    workdir: of the run.
    found: steps -> model -> traces of the same problems; the animation is of the fewest steps.
    tokenizer: of the models.
    trained: model that RL has trained.
  """
  text, mask_id = lambda i: tokenizer.decode([i]), tokenizer.mask_id
  rows = [trace for models in found.values() for same in zip(*models.values()) for trace in same]
  denoising.write_html(workdir / "trajectories.html", rows, text, mask_id,
                       heading=f"before and after {words.label(trained)}")
  fewest = found[min(found)]
  if all(trace.lines for models in fewest.values() for trace in models):
    animate(workdir / "denoising.svg", fewest, tokenizer, trained, min(found))


def animate(path: pathlib.Path, models: Mapping[str, Sequence[denoising.Trace]],
            tokenizer: tokenizer_lib.Tokenizer, trained: str, steps: int) -> None:
  """Writes decodes of the same problems before and after RL side by side, as `write`."""
  method = words.label(trained)
  panels = {f"after {method}" if name == trained else f"before: {name} model": found
            for name, found in models.items()}
  side_by_side.write_svg(
      path, panels, lambda i: tokenizer.decode([i]), tokenizer.mask_id,
      title=f"held-out problems solved in {steps} steps before and after {method}")


def transcripts(task: types.Task, examples: Sequence[Mapping[str, Any]],
                turns: Sequence[Sequence[episodes_lib.Turn]], name: str) -> list[dict[str, Any]]:
  """Returns the first episodes of a model, with their rewards, as rows of samples.jsonl.

  Args:
    task, examples, name: as of `traces`.
    turns: of the rows.
  """
  examples, turns = examples[:_COUNT], turns[:_COUNT]
  texts = ["".join(turn.content for turn in row) for row in turns]
  rewards = task.score(examples, texts)["reward"]
  return [{"prompt": task.prompt(example), "text": text, "model": name, "score": float(reward),
           "messages": [turn._asdict() for turn in row]}
          for example, text, reward, row in zip(examples, texts, rewards, turns)]


def write_transcripts(workdir: pathlib.Path, found: Mapping[str, Sequence[Mapping[str, Any]]]
                      ) -> None:
  """Writes samples.jsonl: the same problems by every model, one after another."""
  rows = [row for same in zip(*found.values()) for row in same]
  files.write_text(workdir / "samples.jsonl", "".join(
      json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
