"""Checks that the objective, the decoding rule and the rollouts of an RL config fit each other.

Contents: inference, updates, replay, rule, rules, rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.rl import inference as inference_lib
from mdx.rl import rollout as rollout_lib
from mdx.samplers import ancestral
from mdx.samplers import trajectory
from mdx.utils import rng


def inference(rollout: dict[str, Any]) -> None:
  """Raises ValueError for calibrations and transforms that are none."""
  names = list(rollout["rewards"])
  number = rollout.get("calibration_samples", 0)
  if number and number < 2:
    raise ValueError(f"config.rollout.calibration_samples is {number}; expected at least 2 answers "
                     "of the base model to a prompt, or 0 to calibrate among the rollouts.")
  if "inference" in names and names[:names.index("inference")][-1:] != ["calibrated"]:
    raise ValueError("config.rollout.rewards inference transforms calibrated rewards, got "
                     f"{tuple(names)}; put calibrated before it.")
  if number and "calibrated" not in names:
    raise ValueError(f"config.rollout.calibration_samples {number} is for rewards that are "
                     f"calibrated, got {tuple(names)}; add calibrated, or use 0.")
  config_lib.construct(inference_lib.Inference, rollout.get("inference", {}),
                       what="rollout.inference")


def updates(config: dict[str, Any], policy: Any) -> None:
  """Raises ValueError for rollouts that a policy cannot use so."""
  rollout, name = config["rollout"], config["objective"]["name"]
  if rollout["epochs"] > 1 and not policy.reuses:
    raise ValueError(f"config.rollout.epochs is {rollout['epochs']}, and objective {name} has no "
                     "ratio that corrects for the draws of an older policy; use 1.")
  if rollout["dynamic_sampling"] and not policy.compares:
    raise ValueError(f"config.rollout.dynamic_sampling replaces groups whose rewards do not vary, "
                     f"and objective {name} compares no group; leave it out.")
  if rates := tuple(rollout.get("pass_rate", ())):
    if len(rates) != 2 or rates[0] > rates[1]:
      raise ValueError("config.rollout.pass_rate must be (low, high), low <= high, or () for all "
                       f"groups; got {rates}.")
    if not policy.compares:
      raise ValueError("config.rollout.pass_rate leaves groups out, and objective "
                       f"{name} compares no group; use ().")
  if rollout.get("tree", "none") != "none" and not policy.replays:
    raise ValueError("config.rollout.tree branches the rollouts of a prompt on the way, and "
                     f"objective {name} does not score the steps after that; use none, or an "
                     "objective such as cj_grpo.")


def replay(policy: Any, name: str, sampler: Any, max_turns: int) -> None:
  """Raises ValueError for a decoding whose canvases a policy cannot rebuild."""
  if not policy.replays:
    return
  rule = type(sampler).__name__
  if max_turns > 1:
    raise ValueError(f"objective {name} replays the steps of one turn, got rollout.max_turns "
                     f"{max_turns}; use 1.")
  if sampler.revises:
    raise ValueError(f"objective {name} replays tokens that stay where they are committed, and "
                     f"rollout.sampler {rule} revises them; use one such as confidence.")
  if sampler.cache in ("prefix", "dual") and not policy.needs_scores:
    raise ValueError(f"objective {name} scores every step on the whole canvas, and "
                     f"rollout.sampler.cache {sampler.cache} draws from another distribution; use "
                     "none.")
  if policy.left_to_right and not isinstance(sampler, ancestral.LeftToRight):
    raise ValueError(f"objective {name} needs rollouts from left to right, and rollout.sampler is "
                     f"{rule}; use autoregressive.")


def rule(config: dict[str, Any], policy: Any, sampler: Any) -> None:
  """Raises ValueError for a policy and a decoding rule of which one trains what the other lacks."""
  rollout, name = config["rollout"], config["objective"]["name"]
  own = type(sampler).__name__
  if policy.trains_rule and not sampler.acts:
    raise ValueError(f"objective {name} trains the parameters of a decoding rule, and "
                     f"rollout.sampler {own} has none; use unmasking.")
  if sampler.acts and not policy.trains_rule:
    raise ValueError(f"rollout.sampler {own} draws actions, which objective {name} does not train; "
                     "use another rule, or an objective such as action_grpo.")
  if not policy.trains_rule:
    return
  if rollout["max_turns"] > 1 or rollout["mixture_draw"] != "per_group":
    raise ValueError(f"objective {name} compares rollouts of one turn that are asked for the same "
                     "speed; use rollout.max_turns 1 and rollout.mixture_draw per_group.")
  if config["eval"].get("pass_k"):
    raise ValueError(f"config.eval.pass_k is of answers that are drawn, and those of objective "
                     f"{name} are decoded by config.eval.rules; use ().")
  rules(config)


def rules(config: dict[str, Any]) -> list[samplers.Setting]:
  """Returns the cells of `config.eval.rules`: greedy, with fields of the rollouts' own rule.

  Raises:
    ValueError: as `samplers.settings`.
  """
  own = config["rollout"]["sampler"]
  found = samplers.settings(config["eval"].get("rules", {}), own | {
      "temperature": 0.0, "cache": "none"}, where="config.eval.rules", also=(own["name"],))
  return [one._replace(fields=samplers.select(one.fields, also=(own["name"],))) for one in found]


def rows(run: Any) -> None:
  """Raises ValueError unless the meshes divide rollouts and the rows of an update.

  Args:
    run: a `build.rl.Setup`, without its shapes.
  """
  rollout, size = run.config["rollout"], run.rows_together
  shards, decoding = map(sharding.num_batch_shards, (run.model.mesh, run.placement.mesh))
  for shards_of, name in ((shards, ""), (decoding, " of rollout.mesh")):
    if run.num_rows % shards_of:
      raise ValueError(f"{rollout['num_prompts']} prompts x {rollout['group_size']} rollouts are "
                       f"not divisible by {shards_of} batch shards{name}; change "
                       "rollout.num_prompts or group_size.")
    if run.num_rows % size or size % shards_of:
      raise ValueError(f"config.rollout.batch_size {size} must divide the {run.num_rows} rollouts "
                       f"of an iteration and be a multiple of the {shards_of} batch shards{name}.")
  number, microbatches = _rows_of_update(run), run.config["microbatches"]
  if number % (shards * microbatches * run.policy.rows_per_unit):
    raise ValueError(f"{rollout['num_prompts']} prompts x {rollout['group_size']} rollouts make "
                     f"an update of {number} rows, which are not divisible by {shards} batch "
                     f"shards x {microbatches} microbatches; change rollout.num_prompts or "
                     "group_size.")


def _rows_of_update(run: Any) -> int:
  """Rows that the loss scores: several of each rollout, where it has several steps."""
  length = run.sampler.gen_length
  recorder = trajectory.Recorder(level=run.policy.record, start=0, mask_id=run.sampler.mask_id,
                                 max_steps=run.sampler.max_steps(length),
                                 num_predictions=run.policy.predictions_per_step,
                                 acts=run.sampler.acts)
  canvas = jax.ShapeDtypeStruct((run.num_rows, length), jnp.int32)

  def recorded(canvas):
    keys = rng.per_example(rng.root(0), jnp.arange(len(canvas)))
    draws = run.sampler.row_draws(run.sampler.init(canvas, jnp.zeros_like(canvas), keys))
    record = recorder.init(canvas)._replace(row_draws=draws if run.sampler.acts else None)
    return rollout_lib.make_batch(record, {"canvas": canvas}, 0)

  batch = jax.eval_shape(recorded, canvas)
  batch |= rollout_lib.reward_shapes(batch)
  prepared = jax.eval_shape(
      lambda batch: run.policy.prepare({}, batch, rng.root(0), types.context(0))[0], batch)
  return len(prepared["noisy_tokens"])
