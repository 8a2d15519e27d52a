"""The checked parts of an RL run, before anything is compiled.

Contents: Setup, optimizer_of, check, assemble, check_data, REMASKING.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mdx import checkpoint as checkpoint_lib
from mdx import config as config_lib
from mdx import objectives
from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.build import decoding_mesh
from mdx.build import load as load_lib
from mdx.build import rl_checks
from mdx.build import values
from mdx.eval import placement as placement_lib
from mdx.eval import repeated
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.eval import win_rates
from mdx.objectives.policies import policy as policy_lib
from mdx.rl import calibration as calibration_lib
from mdx.rl import episodes as episodes_lib
from mdx.rl import inference as inference_lib
from mdx.rl import rewards as rewards_lib
from mdx.samplers import counts
from mdx.samplers import decoder as decoder_lib
from mdx.train import loop as loop_lib
from mdx.train import optimizer as optimizer_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

REMASKING = {"low_confidence": "confidence", "rcr": "rcr", "left_to_right": "autoregressive"}
_CHOICES = {"tree": ("none", "uniform"),
            "filter": ("none", "over_denoising"), "long_prompts": ("cut", "skip"),
            "mixture_draw": ("per_rollout", "per_group", "per_problem"),
            "prompt_format": task_eval.FORMATS}


class Setup(NamedTuple):
  """The checked parts of an RL run, nothing compiled."""
  config: dict[str, Any]
  workdir: pathlib.Path
  model: load_lib.Loaded
  task: types.Task | None
  policy: Any
  sampler: Any
  optimizer: optimizer_lib.Optimizer
  intervals: loop_lib.Intervals
  placement: placement_lib.Placement
  shapes: state_lib.State

  @property
  def branch_steps(self) -> int:
    """Bound of the steps that the rollouts of a prompt take together; 0 = they are no tree."""
    is_tree = self.config["rollout"].get("tree", "none") != "none"
    return self.sampler.max_steps(self.sampler.gen_length) if is_tree else 0

  @property
  def is_causal(self) -> bool:
    """Whether the model is autoregressive."""
    return self.model.objective.reader().sampler == "autoregressive"

  @property
  def curve_remasking(self) -> str:
    """Decoding rule of the learning curve."""
    return "left_to_right" if self.is_causal else "low_confidence"

  @property
  def phi(self) -> inference_lib.Inference:
    """The transform of calibrated rewards."""
    return inference_lib.Inference(**self.config["rollout"].get("inference", {}))

  @property
  def num_rows(self) -> int:
    """Rollouts of an iteration."""
    return self.config["rollout"]["num_prompts"] * self.config["rollout"]["group_size"]

  @property
  def rows_together(self) -> int:
    """Rollouts that are decoded together."""
    return self.config["rollout"].get("batch_size") or self.num_rows

  def examples(self, split: str) -> list[dict[str, Any]]:
    """The first examples of a split, as many as the config says."""
    limit = self.config["eval"]["num_examples"] if split != "train" else 0
    return self.task.examples(split)[:limit or None]

  def prompts(self, split: str) -> task_eval.Prompts:
    """The encoded problems of a split; those for training with the components that they keep."""
    rollout = self.config["rollout"]
    found = task_eval.encode_prompts([self.task.prompt(e) for e in self.examples(split)],
                                     self.model.tokenizer, cuts=True,
                                     max_length=rollout["max_prompt_length"],
                                     prompt_format=rollout["prompt_format"], blank=self.task.blank)
    if split != "train" or not self._kept_mixture:
      return found
    draw = np.random.default_rng([self.config["seed"], 0, 3])
    return found._replace(component=draw.integers(
        len(self._kept_mixture), size=len(found.tokens), dtype=np.int32))

  @property
  def _kept_mixture(self) -> tuple[tuple[int, int], ...]:
    """Pairs of which each problem keeps the one that was drawn for it."""
    keeps = self.config["rollout"]["mixture_draw"] == "per_problem"
    return self.sampler.mixture if keeps else ()

  def trained_on(self, prompts: task_eval.Prompts) -> np.ndarray:
    """Training problems that rollouts may be of, int32 [n]: all but those too long, if so said.

    Raises:
      ValueError: there are none.
    """
    found = np.arange(len(prompts.tokens), dtype=np.int32)
    if prompts.is_cut is not None and self.config["rollout"]["long_prompts"] == "skip":
      found = found[~prompts.is_cut]
    if not len(found):
      raise ValueError("every training prompt has more tokens than rollout.max_prompt_length "
                       f"{self.config['rollout']['max_prompt_length']}; raise it.")
    return found

  def turns(self, decoder: task_decoder.TaskDecoder, prompts: task_eval.Prompts, sampler: Any,
            examples: list[dict[str, Any]]) -> task_decoder.TaskDecoder | episodes_lib.Episodes:
    """Returns a decoder of single turns, or episodes made of it where a task has several."""
    rollout = self.config["rollout"]
    if rollout["max_turns"] == 1:
      return decoder
    return episodes_lib.Episodes(decoder, prompts, sampler, self.task, examples,
                                 self.model.tokenizer, max_turns=rollout["max_turns"],
                                 max_reply_length=rollout["max_reply_length"])

  def calibration(self, prompts: task_eval.Prompts, examples: list[dict[str, Any]]
                  ) -> calibration_lib.Calibration | None:
    """Returns the rewards of answers of the base model; None where groups calibrate themselves."""
    if not (number := self.config["rollout"].get("calibration_samples", 0)):
      return None
    decoder = self.decoder_of(self.sampler, prompts, name="calibration")
    return calibration_lib.Calibration(
        self.turns(decoder, prompts, self.sampler, examples), self.model.params, self.task,
        examples, self.model.tokenizer, num_samples=number, batch_size=self.rows_together,
        workdir=self.workdir, place=self.placement.weights)

  def decoder_of(self, sampler: Any, prompts: task_eval.Prompts, *, name: str,
                 seed: int | None = None, record: str = "commits", **options: Any
                 ) -> task_decoder.TaskDecoder:
    """Returns a decoder of the model where it decodes, of weights that `placement` gave.

    Args:
      sampler, prompts, name, record, options: as of `TaskDecoder`.
      seed: of the draws; None: the run's.
    """
    place = self.placement
    return task_decoder.TaskDecoder(
        self.model.objective, sampler, prompts, place.mesh, name=name,
        seed=self.config["seed"] if seed is None else seed, record=record,
        home=None if place.is_home else place.home, **options)

  def decoder(self, prompts: task_eval.Prompts) -> task_decoder.TaskDecoder:
    """Returns the decoder of the rollouts, a turn of them where there are several."""
    rollout = self.config["rollout"]
    group_size = rollout["group_size"] if rollout["mixture_draw"] == "per_group" else 1
    return self.decoder_of(self.sampler, prompts, name="rollout", record=self.policy.record,
                           num_predictions=self.policy.predictions_per_step,
                           group_size=group_size)

  def rules(self) -> list[samplers.Setting]:
    """The cells of `eval.rules`: greedy decodings, with fields of the rollouts' own rule."""
    return rl_checks.rules(self.config)

  def filter_sampler(self) -> Any:
    """The greedy decoding that finds over-denoised problems, by the components that they keep."""
    return self.eval_sampler("low_confidence", self.sampler.steps, self._kept_mixture)

  def eval_sampler(self, remasking: str, nfe: int,
                   mixture: tuple[tuple[int, int], ...] = ()) -> Any:
    """The greedy decoding of a cell of the table, without a cache: every step is scored."""
    if remasking not in REMASKING:
      raise ValueError(f"config.eval.remasking has {remasking!r}; choose from "
                       f"{', '.join(REMASKING)}.")
    given = self.config["rollout"]["sampler"]
    fields = dict(given, name=REMASKING[remasking], steps=nfe, temperature=0.0,
                  block_length=self.config["eval"]["block_length"], mixture=mixture, cache="none")
    # Cells of the table are numbers of steps, of decoding by confidence.
    if fields.get("schedule") in counts.OWN_STEPS:
      fields["schedule"] = "even"
    if fields.get("confidence") == "random":
      fields["confidence"] = "probability"
    return self.model.sampler(**samplers.select(fields, also=(given["name"], *REMASKING.values())))

  @property
  def reference(self) -> types.Params:
    """Parameters of the base model that the update reads beside the state: the values that the
    trained ones had, if the loss compares with them."""
    trained = tree.part(self.model.params, self.optimizer.trains)
    return {"reference": trained} if self.policy.reads_reference else {}

  @property
  def _transform(self):
    return self.optimizer.build(self.intervals.steps, self.policy.parts())

  def begun(self, params: types.Params) -> types.Params:
    """The base model's parameters with new ones of the policy's own."""
    return {**params, **self.policy.own(rng.stream(rng.root(self.config["seed"]), "policy"))}

  def begin(self) -> Callable[[types.Params], state_lib.State]:
    """Parameters, also of the policy's own parts, -> the state of update 0."""
    return state_lib.begin_fn(self.policy, self._transform, keep_ema=self.config["ema_decay"] > 0,
                              trains=self.optimizer.trains)

  def step(self) -> Callable:
    """The update, (state, batch, frozen) -> (state, metrics), not compiled yet."""
    return step_lib.jitted(self.policy, self._transform, self.shapes, self.config,
                           rate=self.optimizer.rate(self.intervals.steps),
                           trains=self.optimizer.trains)


def optimizer_of(config: dict[str, Any]) -> optimizer_lib.Optimizer:
  """The optimizer of a config; ValueError if it is none."""
  return config_lib.build(optimizer_lib.OPTIMIZERS, config["optimizer"], what="optimizer")


def check(config: dict[str, Any]) -> None:
  """Raises ValueError for values without meaning, before the base model is trained."""
  values.check(config)
  rollout = config["rollout"]
  for name in ("updates", "checkpoint_steps", "eval_steps"):
    if config[name] % rollout["epochs"]:
      raise ValueError(f"config.{name} {config[name]} is not a multiple of rollout.epochs "
                       f"{rollout['epochs']}, the updates on one rollout; use a multiple.")
  for name, choices in _CHOICES.items():
    if (value := rollout.get(name, choices[0])) not in choices:
      raise ValueError(f"config.rollout.{name} is {value!r}; choose from "
                       f"{', '.join(choices)}.")
  if rollout["max_turns"] > 1:
    for name, value in (("filter", "over_denoising"), ("mixture_draw", "per_problem")):
      if rollout[name] == value:
        raise ValueError(f"config.rollout.{name} {value} is for answers of one turn, not "
                         f"rollout.max_turns {rollout['max_turns']}; use 1.")
  for name, neutral in (("top_k", 0), ("top_p", 1.0)):
    if rollout["sampler"].get(name, neutral) != neutral:
      raise ValueError(f"config.rollout.sampler.{name} cuts the distribution that tokens are drawn "
                       "from, so ratios of later policies would not be defined; leave it out.")
  if guidance := rollout["sampler"].get("guidance_scale", 0):
    raise ValueError(f"config.rollout.sampler.guidance_scale {guidance} draws tokens from another "
                     "distribution than the model's, whose log-probabilities are trained; use 0.")
  if rollout["sampler"].get("eos") == "forbid":
    raise ValueError("config.rollout.sampler.eos forbid cuts the distribution that tokens are "
                     "drawn from; use allow or last.")
  if penalty := rollout["sampler"].get("eos_penalty", 0):
    raise ValueError(f"config.rollout.sampler.eos_penalty {penalty} changes the distribution that "
                     "tokens are drawn from, whose log-probabilities are trained; use 0.")
  if sizes := config["eval"].get("pass_k", ()):
    repeated.check(config["eval"]["pass_samples"], sizes,
                   rollout["sampler"].get("temperature", 0.0), "config.eval.pass_k")
  win_rates.check(config["eval"]["pass_samples"], config["eval"].get("win_sizes", ()),
                  "config.eval.win_sizes")
  loop_lib.Profile(config.get("profile_steps", ()))
  checkpoint_lib.check_directory(config["checkpoint"].get("directory", ""))
  sampler = samplers.check_fields(samplers.select(rollout["sampler"], also=REMASKING.values()))
  if sampler.drafts or sampler.searches:
    how = ("draws from the causal reading of a model, whose log-probabilities no objective scores"
           if sampler.drafts else "searches for likely texts, and rollouts are draws")
    raise ValueError(f"config.rollout.sampler {rollout['sampler']['name']} {how}; use another, "
                     "such as confidence, or autoregressive.")
  objectives.check_policy(config["objective"], group_size=rollout["group_size"],
                          temperature=sampler.temperature)
  policy = objectives.POLICIES[config["objective"]["name"]]
  rl_checks.updates(config, policy)
  rl_checks.replay(policy, config["objective"]["name"], sampler, rollout["max_turns"])
  rl_checks.rule(config, policy, sampler)
  rl_checks.inference(rollout)
  decoding_mesh.sizes(rollout)
  for name in rollout["rewards"]:
    if name not in rewards_lib.REWARDS:
      raise ValueError(f"config.rollout.rewards has {name!r}; choose from "
                       f"{', '.join(rewards_lib.REWARDS)}.")
    if name != "identity" and policy.record == "full":
      raise ValueError(f"config.rollout.rewards {name} is of final answers, and objective "
                       f"{config['objective']['name']} reads that of every step; use identity.")
  if rollout["max_turns"] > 1 and policy.record == "full":
    raise ValueError(f"config.rollout.max_turns is for objectives that read final answers, not "
                     f"{config['objective']['name']}; use 1, or an objective such as diffu_grpo.")
  if policy.record == "full" and sampler.cache != "none":
    raise ValueError(f"objective {config['objective']['name']} reads the prediction of every step, "
                     f"which rollout.sampler.cache {sampler.cache} leaves out; use cache none, or "
                     "an objective that reads final answers, such as diffu_grpo.")


def _decoding(sampler: Any, model: types.Objective) -> policy_lib.Decoding:
  """Bounds of the rollouts of a sampler."""
  length, reader = sampler.gen_length, model.reader()
  sizes = [size for size, _ in sampler.components]
  is_aligned = sampler.cache == "block" and reader.by_blocks is not None and (
      sampler.block == reader.attention.block_length)
  return policy_lib.Decoding(
      max_steps=sampler.max_steps(length),
      num_blocks=max(-(-length // size) for size in sizes) + (sampler.cache == "block"),
      block_steps=sampler.block_steps if sampler.counts_steps else max(sizes),
      has_model_blocks=is_aligned, rule=sampler if sampler.acts else None)


def assemble(config: dict[str, Any], workdir: str | pathlib.Path, model: load_lib.Loaded,
             task: types.Task | None) -> Setup:
  """Builds and checks all that needs neither problems nor the values of weights.

  Args:
    config: as in configs/mdpo.py, plain dicts.
    workdir: of the run.
    model: the base model; its parameters may be shape structs with shardings.
    task: the verifier and its problems; None where only shapes are wanted.
  """
  config = config | {"model": dict(model.config)}
  rollout = config["rollout"]
  sampler = model.new_sampler(**samplers.select(rollout["sampler"], also=REMASKING.values()))
  policy = objectives.build_policy(config["objective"], model.objective, model.tokenizer,
                                   group_size=rollout["group_size"],
                                   temperature=sampler.temperature,
                                   decoding=_decoding(sampler, model.objective))
  kind = "causal" if model.objective.reader().sampler == "autoregressive" else "diffusion"
  if kind not in policy.of_models:
    fits = [name for name, cls in objectives.POLICIES.items() if kind in cls.of_models]
    raise ValueError(f"objective {config['objective']['name']} does not train {kind} models; use "
                     f"{', '.join(fits)}.")
  if policy.replays and model.objective.network.reads_time and (
      type(sampler).noise_level is not decoder_lib.Decoder.noise_level):
    raise ValueError(f"objective {config['objective']['name']} replays steps at the time of their "
                     f"share of masks, and rollout.sampler {type(sampler).__name__} tells the "
                     "model another; use one such as confidence.")
  optimizer = optimizer_of(config)
  intervals = loop_lib.Intervals(steps=max(config["updates"], 1), log_steps=config["log_steps"],
                                 checkpoint_steps=config["checkpoint_steps"],
                                 eval_steps=config["eval_steps"])
  optimizer.check({**model.params, **jax.eval_shape(lambda: policy.own(rng.root(0)))})
  if policy.trains_rule and tree.flatten(tree.part(model.params, optimizer.trains)):
    name = next(iter(sampler.parts()))
    raise ValueError(f"objective {config['objective']['name']} trains the decoding rule alone, and "
                     f"optimizer.trainable {optimizer.trainable!r} parameters of the model too; "
                     f"use {name}/.*.")
  for name in set(policy.parts()) - set(model.params):
    if not optimizer.trains(f"{name}/kernel"):
      raise ValueError(f"objective {config['objective']['name']} has parameters {name!r} of its "
                       "own, which optimizer.trainable (or lora) leaves out; train all, or leave "
                       f"objective.{name} out.")
  found = Setup(config, pathlib.Path(workdir), model, task, policy, sampler, optimizer,
               intervals, decoding_mesh.placement(config, model, policy), None)
  rl_checks.rows(found)
  shapes = sharding.with_shardings(jax.eval_shape(lambda params: found.begin()(found.begun(params)),
                                                 model.params), policy.parts(),
                                   model.mesh, model.config["sharding"])
  return found._replace(shapes=shapes)


def check_data(run: Setup) -> list[str]:
  """Raises ValueError for problems that do not fit the model, or decodings that cannot be.

  Returns a line on each split of which prompts are too long.
  """
  for nfe in run.config["eval"]["nfe"]:
    for remasking in run.config["eval"]["remasking"]:
      run.eval_sampler(remasking, nfe)
  rollout = run.config["rollout"]
  if rollout["filter"] != "none":
    run.filter_sampler()
  notes = []
  for split in ("train", "test", *(("validation",) if run.config["updates"] else ())):
    prompts = run.prompts(split)
    if rollout["max_turns"] > 1:
      episodes_lib.check_window(prompts, run.sampler, run.task, max_turns=rollout["max_turns"],
                                max_reply_length=rollout["max_reply_length"],
                                max_length=run.model.max_length)
    else:
      task_decoder.check_prompts(prompts, run.sampler, run.model.max_length)
    is_whole = split != "train" or len(run.trained_on(prompts)) == len(prompts.tokens)
    if prompts.is_cut is not None:
      notes.append(f"{prompts.is_cut.sum()} of {len(prompts.tokens)} {split} prompts have more "
                   f"than {rollout['max_prompt_length']} tokens and are "
                   f"{'cut on the left' if is_whole else 'skipped'}.")
  return notes
