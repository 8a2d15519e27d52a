"""Kinds and ranges of the values of a config that no class is built of.

Contents: check, KEYS.

Convention: the table has every such key of every mode, under its dotted name; a config has some of
them. Components (tables with a `name`) are checked by the classes that are built of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mdx import config as config_lib

_INT32 = 2 ** 31 - 1  # counts are int32 on the devices


def _number(low: float, high: float = _INT32, *, whole: bool = True) -> Callable[[Any, str], None]:
  return lambda value, where: config_lib.check_number(value, where, low, high, whole=whole)


def _of(kind: type | tuple[type, ...], words: str) -> Callable[[Any, str], None]:
  def check_kind(value: Any, where: str) -> None:
    if not isinstance(value, kind):
      raise ValueError(f"{where} must be {words}, got {value!r:.60}.")
  return check_kind


def _each(one: Callable[[Any, str], None], words: str) -> Callable[[Any, str], None]:
  def check_each(value: Any, where: str) -> None:
    _of((list, tuple), f"a list of {words}")(value, where)
    for i, item in enumerate(value):
      one(item, f"{where}[{i}]")
  return check_each


_COUNT, _MANY, _ID = _number(1), _number(0), _number(-1)
_FLAG, _TEXT, _TABLE = _of(bool, "True or False"), _of(str, "a text"), _of(Mapping, "a table")
_TEXTS = _each(_TEXT, "texts")


def _choice(*allowed: str) -> Callable[[Any, str], None]:
  def check_choice(value: Any, where: str) -> None:
    if value not in allowed:
      raise ValueError(f"{where} is {value!r:.60}; choose from {', '.join(allowed)}.")
  return check_choice


def _below_one(value: Any, where: str) -> None:
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
    raise ValueError(f"{where} must lie in [0, 1), got {value!r:.60}.")


def _keys(kind: Callable[[Any, str], None], *names: str) -> dict[str, Callable[[Any, str], None]]:
  return dict.fromkeys(names, kind)


KEYS = {
    **_keys(_TABLE, "checkpoint", "compile", "data", "embedding", "eval", "export", "init", "lora",
            "mesh", "network", "objective", "optimizer", "quality", "rollout", "rules", "sampler",
            "rollout.inference",
            "sharding", "task", "tokenizer", "frozen", "eval.probe", "eval.rules", "eval.slots",
            "eval.elsewhere", "eval.moving", "eval.refined", "init.parts",
            "eval.embedding", "eval.similarity", "eval.retrieval", "eval.text_classification",
            "eval.clustering", "eval.frame_probe",
            "eval.questions", "eval.pair_classification", "rollout.sampler"),
    **_keys(_COUNT, "batch_size", "checkpoint.keep", "checkpoint_steps", "data.length",
            "eval.batch_size", "eval.curve_nfe", "eval.final_samples", "eval.num_examples",
            "eval.num_rows", "eval.num_samples", "eval.pass_samples", "log_steps", "microbatches",
            "num_samples",
            "quality.batch_size", "quality.max_length", "quality.num_samples", "rollout.epochs",
            "rollout.group_size", "rollout.max_refills", "rollout.max_reply_length",
            "rollout.max_turns", "max_turns", "max_reply_length",
            "rollout.num_prompts", "sampler.gen_length", "sampler.steps",
            "steps", "top_k"),
    **_keys(_MANY, "embedding.dim", "embedding.max_length", "eval.block_length",
            "eval.gradient_draws", "eval.num_batches", "eval.pass_examples", "eval_steps",
            "lora.rank", "max_prompt_length", "num_examples", "num_shown", "rollout.batch_size",
            "rollout.calibration_samples",
            "rollout.filter_examples", "rollout.max_prompt_length", "sampler.num_samples",
            "updates", "viewer_rows"),
    **_keys(_ID, "mesh.data", "mesh.fsdp", "mesh.replica", "mesh.sequence", "mesh.tensor",
            "rollout.mesh.data", "rollout.mesh.fsdp", "rollout.mesh.tensor",
            "tokenizer.bos_id", "tokenizer.eos_id", "tokenizer.mask_id", "tokenizer.pad_id"),
    **_keys(_FLAG, "animation", "eval.baselines", "eval.test", "has_header", "init.network",
            "rollout.dynamic_sampling", "rollout.filter_once", "show", "tensorboard"),
    **_keys(_TEXT, "checkpoint.directory", "dtype", "embedding.attention", "embedding.normalize",
            "embedding.pooling", "embedding.prompt", "eval.estimator", "export.dtype", "field",
            "export.format", "export.model_type", "export.path", "init.adapter",
            "id_field", "index", "init.checkpoint", "init.weights", "kind", "path",
            "prompt_format", "prompts", "quality.params", "quality.scorer", "queries", "query",
            "remat", "rollout.filter", "rollout.long_prompts",
            "rollout.mixture_draw", "rollout.prompt_format", "rollout.sampler.name",
            "rollout.tree",
            "sampler.name", "similarity", "split",
            "system", "tokenizer.chat_template", "tokenizer.path",
            "wandb"),
    **_keys(_TEXTS, "eval.evaluators", "eval.measures", "eval.remasking", "fields", "lora.targets",
            "rollout.rewards"),
    **_keys(_each(_TABLE, "tables, dict(name=..., ...)"), "adaptations", "optimizer.masks"),
    "ema_decay": _below_one,
    "rollout.mesh": _of((Mapping, type(None)), "a table, or None"),
    "rollout.pass_rate": _each(_number(0.0, 1.0, whole=False), "two rates"),
    "init.params": _choice("ema", "raw"),
    **_keys(_each(_COUNT, "whole numbers"), "eval.curve_also", "eval.nfe", "eval.pass_k",
            "eval.win_sizes", "pass_k"),
    **_keys(_number(0.0, whole=False), "compile.price", "lora.alpha", "rollout.inference.kl"),
    "rollout.inference.exponent": _number(-100.0, 100.0, whole=False),
    "rollout.inference.num_samples": _COUNT,
    "embedding.layer": _number(-4096, 4096),
    "sampler.temperature": _number(0.0, whole=False),
    "batch_warmup": _each(_each(_MANY, "whole numbers"), "pairs of whole numbers"),
    "profile_steps": _each(_MANY, "whole numbers"),
    "seed": _number(0, 2 ** 63 - 1),
}


def check(config: Mapping[str, Any], where: str = "config") -> None:
  """Raises ValueError for the first value of a config that is of another kind or range.

  Args:
    config: of any mode.
    where: its name, for messages.
  """
  for key, check_value in KEYS.items():
    table, *rest = (config, *key.split("."))
    while rest and isinstance(table, Mapping) and rest[0] in table:
      table = table[rest.pop(0)]
    if not rest:
      check_value(table, f"{where}.{key}")
  base = config["init"].get("base") if "init" in config else None
  if base:
    _TABLE(base, f"{where}.init.base")
    check(base, f"{where}.init.base")
