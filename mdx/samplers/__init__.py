"""Samplers: one compiled loop and the rules that plug into it.

Contents: SAMPLERS, LEARNED, GIVEN, defaults, select, Setting, settings, build, check,
check_fields.

Convention: a rule has the fields that it reads. A table of a config may have those of other rules
too, at their defaults, so that `--config.sampler.name` alone changes the rule; one that is set and
not read is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, NamedTuple, Sequence

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.samplers import ancestral
from mdx.samplers import confidence
from mdx.samplers import joint
from mdx.samplers import mean_confidence
from mdx.samplers import refinement
from mdx.samplers import revise
from mdx.samplers import search
from mdx.samplers import speculative
from mdx.samplers import uniform_noise
from mdx.samplers import unmasking
from mdx.utils import files

SAMPLERS = {
    "ancestral": ancestral.Ancestral,
    "first_hitting": ancestral.FirstHitting,
    "autoregressive": ancestral.LeftToRight,
    "confidence": confidence.Confidence,
    "threshold": confidence.Threshold,
    "factor": confidence.Factor,
    "entropy_bounded": confidence.EntropyBounded,
    "klass": confidence.Klass,
    "hierarchical": confidence.Hierarchical,
    "mean_confidence": mean_confidence.MeanConfidence,
    "rewriting": mean_confidence.Rewriting,
    "refinement": refinement.Refinement,
    "rcr": revise.RunningConfidence,
    "remdm": revise.Remdm,
    "token_editing": revise.TokenEditing,
    "uniform": uniform_noise.Uniform,
    "unmasking": unmasking.Unmasking,
    "speculative": speculative.Speculative,
    "joint": joint.Joint,
    "beam": search.Beam,
    "conditional_beam": search.ConditionalBeam,
    "mode_search": search.ModeSearch,
}


# Fields that `types.Reader.given` has of a model that was trained for a rule.
LEARNED = ("head", "num_ids")
GIVEN = ("mask_id", "eos_id", "other_eos_ids", "noise", *LEARNED)  # by the model


def defaults() -> dict[str, Any]:
  """Returns every field of every rule with its default, for tables of configs."""
  return {f.name: f.default for rule in SAMPLERS.values() for f in dataclasses.fields(rule)
          if f.name not in GIVEN}


def select(cfg: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Any]:
  """Returns a table of a sampler without the fields that its rule does not read.

  Args:
    cfg: `name` and fields.
    also: names of other rules that the table serves, whose fields may be set.

  Raises:
    ValueError: a field that is set and that none of these rules reads.
  """
  name = cfg.get("name")
  if name not in SAMPLERS:
    return dict(cfg)
  own = {f.name for f in dataclasses.fields(SAMPLERS[name])} | {"name"}
  found, usual = {}, defaults()
  for field, value in cfg.items():
    readers = [other for other, rule in SAMPLERS.items()
               if field in (f.name for f in dataclasses.fields(rule))]
    if field in own or not readers:
      found[field] = value
    elif config_lib.to_dict(value) != config_lib.to_dict(usual[field]) and (
        not set(readers) & set(also)):
      raise ValueError(f"sampler {name!r} has no field {field!r}; it is a field of "
                       f"{', '.join(readers)}.")
  return found


class Setting(NamedTuple):
  """A rule at one value of its knob.

  Attributes:
    rule: its name in the config.
    knob, value: the field that varies.
    fields: of the sampler, its `name` among them.
  """
  rule: str
  knob: str
  value: Any
  fields: dict[str, Any]


def settings(rules: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any], *,
             where: str = "config.rules", also: Sequence[str] = ()) -> list[Setting]:
  """Returns rules at each of the values of the one field of theirs that has several.

  Args:
    rules: name in the config -> fields; `name` is that of the rule, by default the same.
    common: fields of all.
    where: name of `rules`, for messages.
    also: names of other rules whose fields `common` may have.

  Raises:
    ValueError: no rule, one without a field of several values or with more than one, or fields
      without meaning.
  """
  if not rules:
    raise ValueError(f"{where} is empty; give at least one, such as "
                     "dict(confidence=dict(steps=(2, 4, 8))).")
  found = []
  for name, fields in rules.items():
    files.check_name(name, "rule")
    knobs = [k for k, v in fields.items() if isinstance(v, (tuple, list))]
    if len(knobs) != 1 or not fields[knobs[0]]:
      raise ValueError(f"{where}.{name} needs one field with several values, such as steps or "
                       f"threshold, got {len(knobs)}.")
    for value in fields[knobs[0]]:
      one = {**common, "name": name, **fields, knobs[0]: value}
      check_fields(select(one, also))
      found.append(Setting(name, knobs[0], value, one))
  return found


def build(cfg: Mapping[str, Any], objective: types.Objective, *, mask_id: int,
          eos_id: int = -1, other_eos_ids: Sequence[int] = ()) -> Any:
  """Builds the sampler of a config for a model.

  Args:
    cfg: `config.sampler`: `name` and fields of its rule.
    objective: of the model's training; it says how the model is read.
    mask_id: id of the mask token.
    eos_id: id that ends a text, -1 = none.
    other_eos_ids: further ids that end one.

  Raises:
    ValueError: unknown name or field, values without meaning, or a model that cannot be
      decoded so.
  """
  reader = objective.reader()
  noise = dict((reader and reader.noise) or {"name": "linear"})
  learned = dict.fromkeys(LEARNED) | dict(reader.given if reader else {})
  sampler = config_lib.build(SAMPLERS, select(cfg), what="sampler", mask_id=mask_id, eos_id=eos_id,
                             other_eos_ids=tuple(other_eos_ids), noise=noise, **learned)
  check(sampler, objective)
  return sampler


def check(sampler: Any, objective: types.Objective) -> None:
  """Refuses a sampler that does not fit the model; ValueError."""
  reader = objective.reader()
  if reader is None:
    raise ValueError(f"a model trained with {type(objective).__name__} does not predict masked "
                     "tokens, so it cannot be sampled; use a diffusion, mlm or ar checkpoint.")
  sampler.check_reader(reader)
  attention = reader.attention
  is_causal = isinstance(attention, attention_lib.Causal)
  if reader.sampler == "autoregressive" and not isinstance(sampler, ancestral.LeftToRight):
    raise ValueError("an autoregressive model is decoded by sampler.name=autoregressive.")
  if reader.sampler == "uniform" and not isinstance(sampler, uniform_noise.Uniform):
    raise ValueError("a model of uniform noise (objective uniform_diffusion) knows no masks; it is "
                     "decoded by sampler.name=uniform.")
  if sampler.drafts and reader.by_tokens is None:
    raise ValueError(f"sampler {type(sampler).__name__} verifies by a causal reading, which a "
                     f"model trained with {type(objective).__name__} has not; use a model of "
                     "blocks (objective block_diffusion), or another rule.")
  if sampler.searches and reader.sampler != "autoregressive":
    names = ", ".join(name for name, rule in SAMPLERS.items() if rule.searches)
    raise ValueError(f"{names} search the texts of models from left to right (objectives ar, "
                     f"meap), and {type(objective).__name__} gives no text a probability of that "
                     "form; use such a checkpoint, or sampler.name=confidence.")
  if sampler.cache in ("prefix", "dual") and sampler.cache not in reader.caches and not is_causal:
    raise ValueError(f"sampler.cache {sampler.cache} is not for this model; choose from "
                     f"{', '.join(('none', *reader.caches))}.")
  if sampler.cache == "block" and reader.is_shifted:
    raise ValueError("sampler.cache block runs whole blocks, and a shifted model reads a block's "
                     "first position from the block before it; use prefix, dual or none.")
  if sampler.cache == "block" and attention.streams > 1:
    raise ValueError("sampler.cache block keeps blocks as one stream reads them, and this model "
                     "reads its clean text causally, beside the canvas; use none.")
  if sampler.cache == "block" and not is_causal:
    if not isinstance(attention, attention_lib.BlockCausal):
      raise ValueError("sampler.cache block needs a block-causal or causal model; this one sees "
                       "both ways: use prefix or dual, or none.")
    if sampler.block % attention.block_length:
      raise ValueError(f"sampler blocks of {sampler.block} tokens are no multiples of the "
                       f"model's block_length {attention.block_length}, so its cache would not "
                       "be exact; use a multiple.")


def check_fields(cfg: Mapping[str, Any]) -> Any:
  """Refuses a config of a sampler before there is a model for it; ValueError.

  Returns the sampler, as it would be for a tokenizer whose mask and end have the id 0.
  """
  return config_lib.build(SAMPLERS, select(cfg), what="sampler", mask_id=0, eos_id=0,
                          **dict.fromkeys(LEARNED))
