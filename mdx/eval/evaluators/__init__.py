"""Evaluators: what is measured of a model, during training and after it.

Contents: EVALUATORS, Parts, names, check, Evaluation.

An objective names its own (`Objective.evaluators`); `eval.evaluators` adds others by name, and
`eval.probe.num_labels` the linear probe.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from mdx import config as config_lib
from mdx import types
from mdx.eval import best as best_lib
from mdx.eval.evaluators import contexts
from mdx.eval.evaluators import embedding_tasks
from mdx.eval.evaluators import forgetting
from mdx.eval.evaluators import held_out
from mdx.eval.evaluators import labels
from mdx.eval.evaluators import linear_probe
from mdx.eval.evaluators import moving
from mdx.eval.evaluators import pairs
from mdx.eval.evaluators import questions
from mdx.eval.evaluators import reconstructions
from mdx.eval.evaluators import refined
from mdx.eval.evaluators import rules
from mdx.eval.evaluators import speech
from mdx.eval.evaluators import words

EVALUATORS = {
    "loss": held_out.HeldOut,
    "elsewhere": held_out.Elsewhere,
    "labels": labels.Labels,
    "linear_probe": linear_probe.LinearProbe,
    "pairs": pairs.Pairs,
    "forgetting": forgetting.Forgetting,
    "questions": questions.Questions,
    "rules": rules.Rules,
    "metrics": speech.Metrics,
    "transcripts": speech.Transcripts,
    "frame_probe": speech.FrameProbe,
    "reconstructions": reconstructions.Reconstructions,
    "contexts": contexts.Contexts,
    "moving_states": moving.MovingStates,
    "refined": refined.Refined,
    "words": words.Words,
    "similarity": embedding_tasks.Similarity,
    "retrieval": embedding_tasks.Retrieval,
    "text_classification": embedding_tasks.TextClassification,
    "clustering": embedding_tasks.Clustering,
    "pair_classification": embedding_tasks.PairClassification,
}


class Parts(NamedTuple):
  """The parts of a run that an evaluator may use.

  Attributes:
    config: of the run.
    workdir: of the run; evaluators may write predictions into it.
    mesh: where rows are placed.
    tokenizer: of the run.
    objective: how the model is scored and read.
    shapes: shape structs of its parameters, with shardings.
    max_length: positions of its network.
    meta: facts saved with weights.
  """
  config: Mapping[str, Any]
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  tokenizer: Any
  objective: types.Objective
  shapes: types.Params
  max_length: int
  meta: dict[str, Any]


def names(config: Mapping[str, Any], objective: types.Objective) -> tuple[str, ...]:
  """The evaluators of a run: its objective's, and those that the config adds.

  Raises:
    ValueError: an unknown name.
  """
  wanted = (*objective.evaluators, *config["eval"].get("evaluators", ()),
            *(["linear_probe"] if config["eval"].get("probe", {}).get("num_labels") else []))
  for name in wanted:
    if name not in EVALUATORS:
      raise ValueError(f"config.eval.evaluators has {name!r}; choose from "
                       f"{', '.join(EVALUATORS)}." + config_lib.did_you_mean(name, EVALUATORS))
  return tuple(dict.fromkeys(wanted))


def check(config: Mapping[str, Any], objective: types.Objective) -> None:
  """Raises ValueError for evaluators that do not exist or do not fit; reads no data."""
  for name in names(config, objective):
    EVALUATORS[name].check(config, objective)


class Evaluation:
  """The evaluators of a run, and the weights that are best by one of them."""

  def __init__(self, parts: Parts):
    """Builds the evaluators; compiles nothing yet.

    Args:
      parts: of the run.

    Raises:
      ValueError: evaluators that want different weights kept.
    """
    self._parts = parts
    self.members = {name: EVALUATORS[name](parts) for name in names(parts.config, parts.objective)}
    measures = {member.best_by for member in self.members.values()} - {""}
    if len(measures) > 1:
      raise ValueError(f"the evaluators keep weights by {', '.join(sorted(measures))}; evaluate "
                       "with one of them.")
    self._best = best_lib.Best(parts.workdir, measures.pop(), parts.meta) if measures else None

  @property
  def has_curve(self) -> bool:
    """Whether figures over the steps are a curve that is kept with the CPU seconds."""
    return any(member.has_curve for member in self.members.values())

  @property
  def curve(self) -> tuple[str, ...]:
    """Names of further figures of the points of the curve."""
    return tuple(name for member in self.members.values() for name in member.curve)

  def at_start(self, params: types.Params, frozen: types.Params) -> dict[str, float]:
    """Figures before the first step, of evaluators whose curve begins there."""
    return self._figures(params, frozen, quick=True, only_from_start=True)

  def during(self, step: int, params: types.Params, frozen: types.Params) -> dict[str, float]:
    """Figures at a step; keeps weights that are better. Every process must call."""
    figures = self._figures(params, frozen, quick=True)
    if self._best:
      self._best.offer(step, figures, params)
    return figures

  def final(self, step: int, params: types.Params, frozen: types.Params) -> dict[str, float]:
    """Figures of a finished run: of its best weights where some are kept, else of the last."""
    if not self._best:
      return self._figures(params, frozen, quick=False)
    self.during(step, params, frozen)
    params = self._best.load(self._parts.shapes)
    return self._figures(params, frozen, quick=False) | {"best_step": self._best.step}

  def of(self, params: types.Params, frozen: types.Params) -> dict[str, float]:
    """Figures of the weights given, whatever weights a run has kept."""
    return self._figures(params, frozen, quick=False)

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return "\n".join(filter(None, (m.text(results) for m in self.members.values())))

  def _figures(self, params, frozen, *, quick, only_from_start=False):
    found = {}
    for member in self.members.values():
      if member.from_start or not only_from_start:
        found |= member(params, frozen, quick=quick)
    return found
