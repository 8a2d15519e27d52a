"""Configs: messages, argument types, and what makes two runs the same."""

import dataclasses

from ml_collections import config_dict
import numpy as np
import pytest

from mdx import config as config_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
  network: object
  rate: float
  sizes: tuple = ()
  options: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plain:
  width: int = 3


_TABLE = {"masked": _Part, "plain": _Plain}


def _build(cfg, **extra):
  return config_lib.build(_TABLE, cfg, what="objective", **extra)


def test_build_passes_fields_and_extras_and_makes_lists_hashable():
  built = _build({"name": "masked", "rate": 0.5, "sizes": [1, 2]}, network="net")
  assert built == _Part(network="net", rate=0.5, sizes=(1, 2))
  assert _build(config_dict.ConfigDict({"name": "plain", "width": 4})) == _Plain(width=4)


@pytest.mark.parametrize("cfg,message", [
    ({"name": "maskd", "rate": 1.0},
     "unknown objective name 'maskd'; choose from masked, plain. Did you mean 'masked'?"),
    ({"rate": 1.0}, "unknown objective name None; choose from masked, plain."),
    ({"name": ["x"]}, "unknown objective name ['x']; choose from masked, plain."),
    ("masked", "objective is 'masked'; expected a table, dict(name=..., ...)."),
    ({"name": "masked", "rates": 1.0}, "objective 'masked' has no field 'rates'; its fields are "
     "options, rate, sizes. Did you mean 'rate'?"),
    ({"name": "masked", "rate": 1.0, "network": "mine"},
     "objective 'masked' has no field 'network'; its fields are options, rate, sizes. "
     "If the config was written for another name, use one that is written for this."),
    ({"name": "masked"}, "objective 'masked' needs a value for rate.")])
def test_build_says_what_was_expected_and_what_came(cfg, message):
  with pytest.raises(ValueError) as error:
    _build(cfg, network="net")
  assert str(error.value) == message


def test_build_does_not_change_the_config():
  cfg = {"name": "plain", "width": 4}
  _build(cfg)
  assert cfg == {"name": "plain", "width": 4}


def test_arguments_keep_the_types_of_their_defaults():
  defaults = dict(steps=10, rate=0.1, size="small", tiny=False, big=True)
  assert config_lib.parse_arg(None, **defaults) == defaults
  found = config_lib.parse_arg("steps=20,rate=3,size=4,tiny,big=false", **defaults)
  assert found == dict(steps=20, rate=3.0, size="4", tiny=True, big=False)
  assert [type(v) for v in found.values()] == [type(v) for v in defaults.values()]


@pytest.mark.parametrize("arg,message", [
    ("stepz=3", "unknown config argument 'stepz'; this config takes rate, steps, tiny. "
     "Did you mean 'steps'?"),
    ("steps=3.5", "config argument steps: expected int, got '3.5'."),
    ("steps", "config argument steps: expected int, got ''."),
    ("rate=fast", "config argument rate: expected float, got 'fast'."),
    ("tiny=2", "config argument tiny: expected bool, got '2'.")])
def test_arguments_of_the_wrong_name_or_type_are_refused(arg, message):
  with pytest.raises(ValueError) as error:
    config_lib.parse_arg(arg, steps=1, rate=0.1, tiny=False)
  assert str(error.value) == message


_CONFIG = {"mode": "train", "mesh": {"data": -1}, "sharding": {"embed": "fsdp"}, "microbatches": 1,
           "log_steps": 10, "eval_steps": 10, "checkpoint_steps": 5, "checkpoint": {"keep": 2},
           "export": {"path": ""}, "tensorboard": False, "seed": 0, "batch_size": 8,
           "objective": {"name": "mlm", "mask_rate": 0.15}, "data": {"sources": [1, 2]}}
_WHERE = ("mode", "mesh", "sharding", "microbatches", "log_steps", "eval_steps",
          "checkpoint_steps", "checkpoint", "export", "tensorboard")


@pytest.mark.parametrize("key", list(_CONFIG))
def test_the_hash_tells_what_is_computed_and_not_where(key):
  changed = _CONFIG | {key: "another"}
  same = config_lib.run_hash(changed) == config_lib.run_hash(_CONFIG)
  assert same == (key in _WHERE)
  assert bool(config_lib.differences(_CONFIG, changed)) != same


def test_the_hash_ignores_the_order_of_keys_and_the_kind_of_container():
  other = config_dict.ConfigDict(dict(reversed(_CONFIG.items())))
  assert config_lib.run_hash(other) == config_lib.run_hash(_CONFIG)
  as_tuple = _CONFIG | {"data": {"sources": (1, 2)}}
  assert config_lib.run_hash(as_tuple) == config_lib.run_hash(_CONFIG)


def test_differences_name_the_key_and_both_values():
  new = _CONFIG | {"objective": {"name": "mlm", "mask_rate": 0.3, "note": None}, "mode": "eval"}
  del new["seed"]
  assert config_lib.differences(_CONFIG, new) == ["objective.mask_rate: 0.15 -> 0.3"]
  assert config_lib.differences(new, new | {"seed": 3}) == ["seed: 'absent' -> 3"]


def test_a_key_that_came_later_with_a_neutral_or_default_value_changes_no_identity():
  later = _CONFIG | {"frozen": {}, "objective": _CONFIG["objective"] | {"span_max": 1, "lexicon": ""}}
  defaults = {"objective.span_max": 1, "objective.mask_rate": 0.15}
  assert config_lib.run_hash(later, defaults) == config_lib.run_hash(_CONFIG, defaults)
  assert config_lib.run_hash(later) != config_lib.run_hash(_CONFIG)
  changed = later | {"objective": later["objective"] | {"mask_rate": 0.3}}
  assert config_lib.run_hash(changed, defaults) != config_lib.run_hash(_CONFIG, defaults)


def test_the_hash_of_the_first_release_is_known_where_nothing_that_came_later_is_used():
  later = _CONFIG | {"frozen": {}, "eval": {"estimator": "stratified", "evaluators": ()}}
  assert config_lib.first_hash(later) == config_lib.first_hash(
      _CONFIG | {"eval": {"estimator": "stratified"}})
  assert config_lib.first_hash(_CONFIG) == "adb9619c49e4ca36"  # as 0.1 gives it


def test_nested_configs_flatten_to_dotted_keys_and_keep_empty_tables():
  assert config_lib.flatten({"a": {"b": {"c": 1}, "d": {}}, "e": (2,)}) == {
      "a.b.c": 1, "a.d": {}, "e": [2]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fields:
  """One field of every plain type."""
  count: int = 1
  rate: float = 0.5
  is_on: bool = False
  text: str = ""
  maybe: float | None = None
  names: tuple[str, ...] = ()
  numbers: tuple[int, ...] = ()
  other: object = None


@pytest.mark.parametrize("fields", [
    dict(count=7, rate=2, is_on=True, text="x", maybe=1.0, names=["a"], numbers=[1], other={}),
    dict(maybe=None, count=np.int32(3), rate=np.float32(0.5))])
def test_values_of_the_types_of_fields_pass(fields):
  assert config_lib.construct(_Fields, fields, what="thing").count in (3, 7)


@pytest.mark.parametrize("field, value", [
    ("count", 1.5), ("count", 1e12), ("count", 10 ** 23), ("count", "1"), ("count", True),
    ("count", None), ("count", ()), ("rate", float("nan")), ("rate", float("inf")),
    ("rate", 10 ** 23), ("rate", "0.5"), ("rate", {}), ("is_on", 1), ("is_on", "yes"), ("text", 1),
    ("text", None), ("maybe", "x"), ("maybe", float("nan")), ("names", "abc"), ("names", (1,)),
    ("names", 3), ("numbers", (1.5,)), ("numbers", ("a",))])
def test_values_of_other_types_are_refused_by_name(field, value):
  with pytest.raises(ValueError, match=f"^thing {field} must be ") as error:
    config_lib.construct(_Fields, {field: value}, what="thing")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("given, ours", [
    ("max_new_tokens", "gen_length"), ("cfg_scale", "guidance_scale"),
    ("gen_lenght", "gen_length")])
def test_names_of_other_libraries_get_a_hint(given, ours):
  assert config_lib.did_you_mean(given, ["gen_length", "guidance_scale"]) == f" Did you mean {ours!r}?"
  assert config_lib.did_you_mean("max_new_tokens", ["seed"]) == ""


@pytest.mark.parametrize("word, hint", [
    ("width", "network.width"), ("hidden_size", "network.width"), ("lr", "optimizer.learning_rate"),
    ("length", "data.length or network.length"), ("learning_rat", "'learning_rate'"), ("x", "")])
def test_keys_of_inner_tables_are_found(word, hint):
  config = {"steps": 1, "network": {"width": 1, "length": 2}, "data": {"length": 3},
            "optimizer": {"learning_rate": 0.1}}
  found = config_lib.did_you_mean_key(word, config)
  assert sorted(found.removeprefix(" Did you mean ").rstrip("?").split(" or ")) == sorted(
      hint.split(" or "))
