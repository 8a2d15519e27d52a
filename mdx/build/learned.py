"""Trained parameters of decoding rules: a rule with parameters, and the run that trained them.

Contents: under, load.

A rule with parameters that are no part of the model is decoded with those of the run that its
`policy` names, or of the model's own run; their form, blocks and range are those of that run's
rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mdx import checkpoint as checkpoint_lib
from mdx import objectives
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.build import source as source_lib
from mdx.utils import readers
from mdx.utils import rng


def _own_parts(sampler, objective) -> dict[str, types.Part]:
  """Parts of a rule that are none of the model's."""
  known = objective.parts()
  return {name: part for name, part in sampler.parts().items() if name not in known}


def under(sampler: Any, objective: types.Objective, source: str) -> Any:
  """A rule as its parameters were trained, deployed; itself if it has none of its own.

  Args:
    sampler: the rule.
    objective: of the model.
    source: of the model.

  Raises:
    ValueError: no run with trained parameters, or parameters that are not for this rule.
  """
  if not _own_parts(sampler, objective):
    return sampler
  source = sampler.policy or source
  return sampler.under(_rule(source), source)


def load(sampler: Any, objective: types.Objective, source: str, mesh: jax.sharding.Mesh
         ) -> types.Params:
  """The parameters of a rule that `under` returned; {} if it has none of its own.

  Args:
    sampler: the rule.
    objective: of the model.
    source: of the model.
    mesh: where they go.
  """
  parts = _own_parts(sampler, objective)
  if not parts:
    return {}
  shapes = jax.eval_shape(
      lambda: {name: part.init(rng.root(0)) for name, part in parts.items()})
  shapes = sharding.with_shardings(shapes, parts, mesh, sharding.DEFAULT_TABLE)
  return checkpoint_lib.load_params(sampler.policy or source, shapes, is_part=True)


def _rule(source: str) -> Any:
  """The rule of the rollouts of a run that trained one."""
  run = source_lib.open_source(source)
  config: Mapping[str, Any] = {}
  if isinstance(run, source_lib.Run) and run.file is not None:
    config = readers.read_json(run.file).get("config", {})
  name = (config.get("objective") or {}).get("name")
  if "rollout" not in config or name not in objectives.POLICIES or (
      not objectives.POLICIES[name].trains_rule):
    raise ValueError(f"{source} has no trained policy for a decoding rule with parameters; train "
                     "one (configs/unmasking.py), and give its run as sampler.policy.")
  return samplers.check_fields(samplers.select(config["rollout"]["sampler"],
                                               also=tuple(samplers.SAMPLERS)))
